"""Item retrieval and extreme classification: two-tower models, sampled losses, Faiss indexes.

>>> import xclass
>>> xclass.Ragged.from_lists([[7, 8], [], [9]]).lengths().tolist()
[2, 0, 1]
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xclass.api import train as train
    from xclass.comparison import compare_configs as compare_configs
    from xclass.comparison.compare import compare_predictions as compare_predictions
    from xclass.comparison.compare import compare_runs as compare_runs
    from xclass.data.dataset import Dataset as Dataset
    from xclass.data.dataset import open_dataset as open_dataset
    from xclass.errors import XclassError as XclassError
    from xclass.evaluation.predictions import evaluate_predictions as evaluate_predictions
    from xclass.recommender import Recommender as Recommender
    from xclass.types import Ragged as Ragged
    from xclass.types import TopK as TopK

__version__ = "0.1.0"

# Threads of OpenMP that wait for one another sleep instead of spinning. Where more threads than cores are ready to run
# (a batch is prepared while another trains; another program is busy) spinning costs a time slice at every barrier:
# training on two busy cores went from 450 to 12,900 positives/s. It is read once, when torch or Faiss is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Public name → module. Loaded when first asked for, so that `xclass --help` does not wait for torch.
_HOMES = {
    "Dataset": "xclass.data.dataset",
    "Ragged": "xclass.types",
    "Recommender": "xclass.recommender",
    "TopK": "xclass.types",
    "XclassError": "xclass.errors",
    "compare_configs": "xclass.comparison",
    "compare_predictions": "xclass.comparison.compare",
    "compare_runs": "xclass.comparison.compare",
    "evaluate_predictions": "xclass.evaluation.predictions",
    "open_dataset": "xclass.data.dataset",
    "train": "xclass.api",
}

# Modules that had another name before, and keep it for one release: old name → new.
_MOVED = {
    "xclass.data.planted": "xclass.ingest.synthetic.pairs",
    "xclass.data.planted_documents": "xclass.ingest.synthetic.documents",
    "xclass.engine": "xclass.distributed",
    "xclass.ray_retrieval": "xclass.batch.ray",
    "xclass.retrieve": "xclass.retrieval.search",
    "xclass.tables": "xclass.embeddings",
}


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by the name that it had: both names are the same module."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_MOVED[module.__name__])


sys.meta_path.insert(0, _OldNames())  # before a folder that is left over of the old name

__all__ = [
    "Dataset",
    "Ragged",
    "Recommender",
    "TopK",
    "XclassError",
    "__version__",
    "compare_configs",
    "compare_predictions",
    "compare_runs",
    "evaluate_predictions",
    "open_dataset",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'xclass' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
