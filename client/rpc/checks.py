"""How a site's agent is: what is looked at of its files, its device, its budget and its server."""

from __future__ import annotations

import math
import os
import socket
import ssl
import tomllib
from collections.abc import Hashable, Iterator
from pathlib import Path

from client.desk.cohorts import counted
from client.ledger import Ledger
from client.policy import Policy
from client.policy.spending import total
from client.rpc.health import Check
from client.site import load_site
from common.models import pick_device

LEAST_MEMORY = 256 * 2**20
"""Bytes of memory below which the device counts as not well."""

_CONNECT_S = 3.0


def checks_of(folder: Path, ledger: Ledger) -> dict[str, Check]:
    """Return the checks of a site: whether patients' files are as they were at this moment, whether
    device and budget allow a round, and whether the coordinator's server can be reached.

    Args:
        folder: The site's folder.
        ledger: Its ledger, as the agent has it open.
    """
    return {
        "data": Unchanged(*(view.source.path for view in load_site(folder).views())),
        "device": lambda: _device(folder),
        "budget": Budget(folder, ledger),
        "superlink": lambda: _superlink(folder),
    }


class Unchanged:
    """Whether files, or everything in folders, are readable and as they were at the first look.

    Args:
        paths: The patients' files or folders, of each cohort.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._first = self._look()

    def __call__(self) -> bool:
        """Look again."""
        now = self._look()
        return now is not None and now == self._first

    def _look(self) -> int | None:
        """A number for the sizes and times of all files; None where one cannot be read."""
        try:
            return hash(tuple(found for path in self._paths for found in _files(path)))
        except OSError:
            return None


def _files(path: Path) -> Iterator[Hashable]:
    if not path.is_dir():
        with path.open("rb") as file:
            yield _stamp(os.fstat(file.fileno()))
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir():
                yield from _files(Path(entry.path))
            else:
                yield entry.name, _stamp(entry.stat())


def _stamp(stat: os.stat_result) -> Hashable:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


class Budget:
    """Whether the site has not paused and patients of some cohort still have something to spend.

    Args:
        folder: The site's folder.
        ledger: Its ledger.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._folder = folder
        self._ledger = ledger
        self._seen: Hashable = None
        self._answer = False

    def __call__(self) -> bool:
        """Read ledger and policy again, if they have changed."""
        files = (self._folder / name for name in ("policy.toml", "cohort.toml"))
        stamp = self._ledger.head, *(_stamp(file.stat()) for file in files)
        if stamp != self._seen:
            self._answer, self._seen = self._read(), stamp
        return self._answer

    def _read(self) -> bool:
        site = load_site(self._folder)
        if self._ledger.paused() or self._ledger.behind is not None:
            return False
        found = (counted(view, self._ledger, self._ledger.accounts()) for view in site.views())
        spent = [total(accounts, plan_of=lambda digest: None) for accounts in found]
        return any(_has_room(site.policy, *one) for one in spent)


def _has_room(policy: Policy, epsilon: float, delta: float) -> bool:
    if math.isinf(epsilon):
        return policy.allow_unprotected
    return epsilon < policy.epsilon and delta <= policy.delta


def _device(folder: Path) -> bool:
    """Whether the device is there and has some memory left."""
    site = load_site(folder)
    device = pick_device(site.device)
    if device.type == "cuda":
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free >= LEAST_MEMORY
    return _available() >= LEAST_MEMORY


def _available() -> float:
    """Bytes of memory that this machine can still give; infinite where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return math.inf if found is None else 1024 * int(found)


def _superlink(folder: Path) -> bool | None:
    """Whether the coordinator answers with a certificate of the kit's authority.

    None before the site is enrolled.
    """
    kit = folder / "kit"
    try:
        address = tomllib.loads((kit / "site.toml").read_text())["address"]
    except FileNotFoundError:
        return None
    host, _, port = str(address).rpartition(":")
    host = host.strip("[]")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        tls.load_verify_locations(kit / "ca.crt")
        with socket.create_connection((host, int(port)), timeout=_CONNECT_S) as link:
            tls.wrap_socket(link, server_hostname=host).close()
    except OSError:  # a certificate that does not fit is one too
        return False
    return True
