"""Starts the processes of a launch as torchrun would, without torchrun's own seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(size: int, arguments: list[str], **variables: str) -> list[subprocess.Popen[str]]:
    """One process for each rank, of ``python ARGUMENTS``."""
    port = free_port()
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        **variables,
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(processes: list[subprocess.Popen[str]], timeout_s: float = 120) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of every rank; a rank that does not end in time fails the test."""
    try:
        found = [process.communicate(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]


def launch(size: int, arguments: list[str], **variables: str) -> list[tuple[int, str, str]]:
    return ended(start(size, arguments, **variables))


def run(script: str, *arguments: str) -> list[str]:
    """The arguments of Python that run a function of ``engine.scripts``."""
    return ["-c", f"from ranks.scripts import {script}; {script}()", *arguments]
