"""What this machine has of what xclass needs, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xclass import __version__

OK, MISSING, LOW, BROKEN = "ok", "missing", "low", "broken"
PROBE_LIMIT_S = 120.0
LOW_DISK_BYTES = 2 << 30
LOW_MEMORY_BYTES = 2 << 30

NEEDED = ("torch", "numpy", "scipy", "polars", "pydantic", "safetensors", "typer", "rich", "tomli-w")
# What each extra is for, and what serves without it.
EXTRAS = {
    "faiss-cpu": "pip install 'xclass[cpu]' (without it: exact search through torch)",
    "matplotlib": "pip install 'xclass[report]' (without it: no pictures)",
    "numba": "pip install 'xclass[compiled]' (without it: the same losses, slower)",
    "torchrec": "pip install 'xclass[distributed]' (without it: one process)",
    "tensorboard": "pip install 'xclass[tensorboard]' (without it: metrics.jsonl)",
}
FAISS_BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis; ``do`` is the action to take when it is not ok."""

    name: str
    status: str
    found: str
    do: str | None = None


def diagnose() -> list[Check]:
    """Every check, in the order a person should read them. It takes seconds: a child process imports torch."""
    checks = [_python(), Check("xclass", OK, __version__), *map(_package, NEEDED)]
    checks += [_extra(name, do) for name, do in EXTRAS.items()]
    return [*checks, *_probe_checks(_run_probe()), _memory(), *_disks()]


def healthy(checks: list[Check]) -> bool:
    """Whether nothing that is needed is broken. A missing extra is no illness."""
    return all(check.status != BROKEN for check in checks)


def probe() -> dict[str, Any]:
    """What only importing torch and Faiss together can tell. It runs in a child process: a clash of theirs kills it."""
    import torch

    from xclass.runtime.rng import torch_generator

    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_speedup": _bf16_speedup(),
        "accelerators": [_accelerator(place) for place in range(torch.cuda.device_count())],
    }
    try:
        import faiss
    except ImportError:
        return {**found, "faiss": None}
    vectors = torch.randn(2000, 16, generator=torch_generator(0, "doctor"))
    index = faiss.IndexFlatIP(16)
    index.add(vectors.numpy())
    by_faiss = torch.from_numpy(index.search(vectors[:100].numpy(), 5)[1])
    by_torch = (vectors[:100] @ vectors.T).topk(5).indices
    return {**found, "faiss": faiss.__version__, "faiss_agrees": float((by_faiss == by_torch).double().mean())}


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable}) on {platform.platform()}"
    return Check("python", OK, found)


def _package(name: str) -> Check:
    version = _version(name)
    if version is None:
        return Check(name, BROKEN, "not installed", f"pip install {name}")
    return Check(name, OK, version)


def _extra(name: str, do: str) -> Check:
    builds = FAISS_BUILDS if name == "faiss-cpu" else (name,)
    there = [f"{build} {version}" for build in builds if (version := _version(build)) is not None]
    label = "faiss" if name == "faiss-cpu" else name
    if len(there) > 1:
        return Check(
            label, BROKEN, " and ".join(there), "uninstall all but one build of Faiss: they overwrite each other"
        )
    return Check(label, OK, there[0].removeprefix(f"{label} ")) if there else Check(label, MISSING, "not installed", do)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _run_probe() -> dict[str, Any] | str:
    """What :func:`probe` found, or how its process ended."""
    code = "import json, xclass.cli.commands.doctor_checks as d; print(json.dumps(d.probe()))"
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer after {PROBE_LIMIT_S:.0f} s"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return f"exit code {done.returncode}: {last[0]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _probe_checks(found: dict[str, Any] | str) -> list[Check]:
    if isinstance(found, str):
        return [
            Check("torch and faiss in one process", BROKEN, found, "reinstall torch and faiss-cpu, one build of each")
        ]
    threads = f"{found['threads']} of {os.cpu_count()} cores, {found['instructions']}"
    speedup = f"bf16 products {found['bf16_speedup']:.1f} times as fast as fp32"
    accelerators = found["accelerators"]
    checks = [
        Check("torch threads", OK, threads),
        Check("bf16 on this CPU", OK, speedup),
        Check("accelerator", OK if accelerators else MISSING, ", ".join(accelerators) or "none: the CPU serves"),
    ]
    return [*checks, _agreement(found)] if found["faiss"] is not None else checks


def _agreement(found: dict[str, Any]) -> Check:
    name, share = "torch and faiss in one process", found["faiss_agrees"]
    if share == 1.0:
        return Check(name, OK, "a search gives the same top 5 through both")
    return Check(name, BROKEN, f"a search agrees on {share:.0%} of the top 5", "reinstall faiss-cpu")


def _bf16_speedup() -> float:
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _accelerator(place: int) -> str:
    import torch

    properties = torch.cuda.get_device_properties(place)
    return f"cuda:{place} {properties.name}, {gibibytes(properties.total_memory)}"


def _memory() -> Check:
    total, free = memory_bytes()
    found = f"{gibibytes(free)} free of {gibibytes(total)}"
    if free < LOW_MEMORY_BYTES:
        return Check("memory", LOW, found, "end other programs: training wants 2 GiB and more")
    return Check("memory", OK, found)


def memory_bytes() -> tuple[int, int]:
    """Memory of this machine, or of the container's limit: (total, free)."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError, StopIteration):  # no cgroup, or its limit is the word "max"
        return total, free
    return min(total, limit), min(free, max(limit - used, 0))


def _disks() -> list[Check]:
    checks = []
    for name, path in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free
        status, do = (OK, None) if free >= LOW_DISK_BYTES else (LOW, "free some space")
        checks.append(Check(name, status, f"{gibibytes(free)} free at {path}", do))
    return checks


def gibibytes(count: int) -> str:
    """Bytes as a person reads them.

    >>> gibibytes(3 << 29)
    '1.5 GiB'
    """
    return f"{count / (1 << 30):.1f} GiB"
