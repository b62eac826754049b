"""How a coordinator stands: its processes, its hospitals, its runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.running import daemon
from server.house import superlink
from server.house.certificates import read_certificate
from server.house.enrolment import read_sites
from server.house.home import Home
from server.house.superlink import Node
from server.store import METRICS, Store, is_interrupted

_RESUMABLE = ("interrupted", "failed")


def read_status(home: Home) -> dict[str, Any]:
    """Return plain values that say how a coordinator stands.

    Raises:
        RunError: one of its files is malformed.
    """
    link, pid = superlink.of(home), daemon.holder(home.pid_file)
    nodes: dict[int, Node] = {}
    try:
        answers = pid is not None and link.answers()
        if answers:
            nodes = {node.id: node for node in link.nodes()}
    except OSError:
        answers = False
    until = read_certificate(home.folder / "server.crt").not_valid_after_utc
    return {
        "running": pid is not None,
        "answers": answers,
        "pid": pid,
        "address": home.config.address,
        "federation": home.config.federation,
        "certificate_until": f"{until:%Y-%m-%d}",
        "sites": _sites(home, nodes),
        "runs": [_run(home, path) for path in sorted(home.runs.iterdir()) if _is_run(path)],
    }


def _sites(home: Home, nodes: dict[int, Node]) -> list[dict[str, Any]]:
    """Each enrolled hospital: enrolled (never seen), online, offline, unknown or revoked."""
    rows = []
    for site in read_sites(home):
        node = nodes.get(site.node or 0)
        state = "unknown" if node is None else node.status
        if site.revoked is not None:
            state = "revoked"
        elif site.node is None or state == "registered":
            state = "enrolled"
        since = site.revoked or (node.since if node else None)
        row = {"state": state, "since": since and since[:19]}
        rows.append({**site.model_dump(), **row})
    return rows


def _is_run(path: Path) -> bool:
    return (path / "run.sqlite").is_file()


def _run(home: Home, path: Path) -> dict[str, Any]:
    """A run: the state of its job, how many rounds are done, what to do, and who missed what."""
    try:
        with closing(Store(path)) as store:
            job = store.job(path.name) or store.job("main")
            told = {
                "state": job["status"] if job else "not started",
                "rounds_done": store.rounds_done(),
                "message": job["message"] if job else "",
                "missed": store.missed(job["job"]) if job else [],
            }
            if job and is_interrupted(store, job["job"]):
                told |= {"state": "interrupted", "message": "killed"}
    except RunError as error:
        broken = {"state": "unreadable", "rounds_done": 0, "message": error.message, "missed": []}
        return {"run": path.name, **broken, "remedy": error.remedy}
    has_model = (path / METRICS).is_file()
    is_open = told["state"] in _RESUMABLE or (told["state"] == "finished" and not has_model)
    resume = f"grandrounds server resume {home.folder} {path.name}"
    return {"run": path.name, **told, "remedy": resume if is_open else ""}
