"""Reads a site's ledger as another program would: through its own connection."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple


class Line(NamedTuple):
    """A reserve, and what became of it."""

    phase: str
    round: int
    state: str
    events: list[dict[str, Any]]
    reply: bytes | None


def releases(path: Path) -> list[Line]:
    """Return the reserves of a ledger's file, in order, each reserved or committed."""
    db = sqlite3.connect(path)
    rows = db.execute("SELECT seq, kind, body FROM entries ORDER BY seq").fetchall()
    replies = {
        tuple(k): r for *k, r in db.execute("SELECT digest, run, phase, round, reply FROM replies")
    }
    db.close()
    bodies = {seq: json.loads(body) for seq, kind, body in rows if kind == "reserve"}
    committed = {json.loads(body)["reserve"] for _, kind, body in rows if kind == "commit"}
    lines = []
    for seq, body in bodies.items():
        state = "committed" if seq in committed else "reserved"
        key = (body["digest"], body["run"], body["phase"], body["round"])
        reply = replies.get(key) if seq in committed else None
        lines.append(Line(body["phase"], body["round"], state, body["events"], reply))
    return lines
