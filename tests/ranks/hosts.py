"""Two hosts on one machine: network namespaces joined by a cable, each with a host name of its own. Linux, as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest
from ranks.launching import ROOT

DEVICE, PORT = "cable", 29517
ADDRESSES = ("10.77.13.1", "10.77.13.2")


class Hosts:
    """Two names of network namespaces, and what runs in them."""

    def __init__(self) -> None:
        self.names = [f"xclass-{os.getpid()}-{side}" for side in "ab"]

    def launcher(self, host: int, ranks: int, arguments: list[str], stderr: IO[str]) -> subprocess.Popen[str]:
        """Start torchrun on one of the two; it has a process group of its own."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", str(ranks)]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv-id", "hosts"]
        torchrun += ["--local-addr", ADDRESSES[host], "--rdzv-conf", f"is_host={int(host == 0)}"]
        named = ["unshare", "--uts", "sh", "-c", f'hostname host-{"ab"[host]}; exec "$@"', "sh"]
        return subprocess.Popen(
            [*named, "ip", "netns", "exec", self.names[host], *torchrun, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": DEVICE},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def cut(self) -> None:
        """Pull the cable out."""
        _ip("-n", self.names[1], "link", "set", DEVICE, "down")


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Skips the test where the system does not allow it."""
    if not all(shutil.which(name) for name in ("ip", "unshare", "hostname")):
        pytest.skip("two hosts need the commands ip, unshare and hostname")
    hosts = Hosts()
    try:
        try:
            _join(hosts.names)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        yield hosts
    finally:
        for name in hosts.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _join(names: list[str]) -> None:
    for name in names:
        _ip("netns", "add", name)
    ends = ["link", "add", DEVICE, "netns", names[0], "type", "veth", "peer", "name", DEVICE, "netns", names[1]]
    _ip(*ends)
    for name, address in zip(names, ADDRESSES, strict=True):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
        for device in ("lo", DEVICE):
            _ip("-n", name, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
