"""Documents of Amazon-670K's shape: drawn, written as text and as matrices, read back; and raw text into features.

    python benchmarks/bench_documents.py [--documents 490000] [--features 136000] [--labels 670000] [--texts 200000]

Every step is a process of its own, so that its peak memory is its own. What was read back is compared with what was
drawn before its times are printed; the features of a sample of texts with those that the stored vectoriser gives. The
best reachable precision is that of the planted ranking on the test documents. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xclass.data.dataset import open_dataset
from xclass.ingest.synthetic.documents import best_lists
from xclass.metrics import average, compute, parse_metrics
from xclass.runtime.rng import numpy_generator

ROOT = Path(__file__).resolve().parents[1]
WORDS_PER_TEXT = 60


def measured(*arguments: str) -> dict[str, float]:
    """Wall and processor seconds and peak GiB of an xclass command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    command = [sys.executable, "-m", "xclass", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, " ".join(command)
    wall_s = time.perf_counter() - started
    return {"wall_s": round(wall_s, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1), "gib": used.ru_maxrss / 2**20}


def check_same(first: Path, second: Path, documents: int) -> None:
    """A sample of documents has the same labels and features in both, test and train; so has every label its count."""
    one, two = open_dataset(first), open_dataset(second)
    order = [(one.queries["split"] == part).arg_true().to_numpy() for part in one.splits]
    place = np.concatenate(order)  # the second has train before valid before test
    ids = [dataset.items["item_id"].to_numpy() for dataset in (one, two)]
    for row in numpy_generator(0, "bench documents").integers(0, documents, 200).tolist():
        old = int(place[row])
        part = one.queries["split"][old]
        labels = [d.split(part).slice(n, n + 1).values.numpy() for d, n in ((one, old), (two, row))]
        assert sorted(ids[0][labels[0]]) == sorted(ids[1][labels[1]])
        features = [d.query_features["features"].slice(n, n + 1) for d, n in ((one, old), (two, row))]
        assert features[0].values.tolist() == features[1].values.tolist()
        assert features[0].weights.tolist() == features[1].weights.tolist()
    assert one.item_counts.tolist() == two.item_counts.tolist()


def best_reachable(path: Path) -> dict[str, float]:
    """precision@1, 3, 5 of the planted ranking on the test documents."""
    dataset = open_dataset(path)
    positives = dataset.split("test")
    queries = positives.lengths().nonzero().squeeze(1)
    found = best_lists(dataset, queries.numpy(), 5)
    names = parse_metrics([f"precision@{k}" for k in (1, 3, 5)])
    return {
        name: round(value, 4) for name, value in average(compute(found, positives.take(queries).long(), names)).items()
    }


def write_texts(path: Path, count: int) -> None:
    """Documents of 60 words, Zipf over a million; three labels each."""
    generator = numpy_generator(0, "bench texts")
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, 10_000):
            rows = min(10_000, count - start)
            words = (1e6 ** generator.random((rows, WORDS_PER_TEXT))).astype(np.int64)
            labels = (1e5 ** generator.random((rows, 3))).astype(np.int64)
            for text, tags in zip(words.tolist(), labels.tolist(), strict=True):
                file.write(
                    json.dumps({"text": " ".join(f"w{n}" for n in text), "labels": [f"l{n}" for n in tags]}) + "\n"
                )


def check_texts(path: Path, source: Path) -> None:
    """The first documents' stored features are what the stored vectoriser makes of their texts."""
    dataset = open_dataset(path)
    texts = pl.scan_ndjson(source).head(100).collect()["text"]
    found, stored = dataset.vectoriser().transform(texts), dataset.query_features["text"].slice(0, 100)
    assert found.values.tolist() == stored.values.tolist() and found.weights.tolist() == stored.weights.tolist()


def main() -> None:
    """Draw, export, ingest; texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("documents", 490_000), ("features", 136_000), ("labels", 670_000), ("texts", 200_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    spec = f"planted-documents:documents={given.documents},features={given.features},labels={given.labels}"
    done: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        done["draw"] = measured("ingest", spec, "--out", str(place / "drawn"))
        done["best"] = best_reachable(place / "drawn")
        for form in ("xmc", "npz"):
            done[f"export {form}"] = measured(
                "export", str(place / "drawn"), "--format", form, "--out", str(place / form)
            )
            done[f"ingest {form}"] = measured("ingest", str(place / form), "--out", str(place / "back"))
            check_same(place / "drawn", place / "back", given.documents)
            for name in (form, "back"):
                subprocess.run(["rm", "-r", str(place / name)], check=True)
        write_texts(place / "texts.jsonl", given.texts)
        for options in ([], ["--hash-bits", "18"]):
            name = "ingest text" + (", hashed" if options else "")
            out = str(place / f"texts-{len(options)}")
            source = str(place / "texts.jsonl")
            done[name] = measured("ingest", source, "--format", "text", "--out", out, *options)
            check_texts(Path(out), place / "texts.jsonl")
    for name, values in done.items():
        print(name, values)
    print(json.dumps({"documents": given.documents, "texts": given.texts, **done}))


if __name__ == "__main__":
    main()
