"""The run store: what happened in each round, in SQLite, for the report and the live display."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.errors import RunError

SCHEMA_VERSION = 1

metadata = sa.MetaData()
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),  # running, finished, failed, interrupted
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("remedy", sa.Text, nullable=False, default=""),
    sa.Column("code", sa.Text, nullable=False, default=""),  # where the code that ran lay
)
members = sa.Table(
    "members",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("declared", sa.Integer),
    sa.Column("status", sa.Text, nullable=False),  # took part, or why not
)
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("replies", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
replies = sa.Table(
    "replies",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("phase", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),  # ok, refused, failed, silent
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("epsilon", sa.Float),  # null where it is infinite
    sa.Column("reserves", sa.Integer),
)
histograms = sa.Table(
    "histograms",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("sigma", sa.Float, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),  # JSON, (histograms, 2, bins)
)


@dataclass(frozen=True)
class Introduction:
    """Who a site says it is, and whether it took part or why not."""

    site: str
    declared: int | None
    status: str


@dataclass(frozen=True)
class Reply:
    """How one site answered one request."""

    site: str
    status: str
    reason: str = ""
    epsilon: float | None = None
    reserves: int | None = None


class Store:
    """The run store of one run folder.

    Args:
        folder: The run folder; the store is its `run.sqlite`.

    Raises:
        RunError: the file is not a run store of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.sqlite"
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)), connect_args={"timeout": 30.0}
        )
        with self._open() as db:
            (version,) = db.exec_driver_sql("PRAGMA user_version").one()
            if version not in (0, SCHEMA_VERSION):
                raise RunError(
                    f"{str(self.path)!r} has version {version}, this program {SCHEMA_VERSION}",
                    remedy="use the version of grandrounds that wrote it, or a later one",
                )
            metadata.create_all(db)
            db.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def start(self, job: str, *, digest: str, code: str) -> None:
        """Record that a job runs, for the first time or again.

        Raises:
            RunError: the job ran before with another study.
        """
        with self._open() as db:
            before = db.execute(sa.select(jobs.c.digest).where(jobs.c.job == job)).scalar()
            if before is not None and before != digest:
                raise RunError(
                    f"job {job!r} of {str(self.path.parent)!r} ran with study "
                    f"{before[:12]}..., not {digest[:12]}...",
                    remedy="resume with the study it was started with, or start a new run",
                )
            db.execute(sa.delete(members).where(members.c.job == job))  # they introduce themselves
            row = {"job": job, "digest": digest, "status": "running", "code": code}
            _upsert(db, jobs, {**row, "message": "", "remedy": ""})

    def end(self, job: str, *, status: str, message: str = "", remedy: str = "") -> None:
        """Record how a job ended: finished, failed or interrupted."""
        values = {"status": status, "message": message, "remedy": remedy}
        with self._open() as db:
            db.execute(sa.update(jobs).where(jobs.c.job == job).values(**values))

    def introduce(self, job: str, sites: Sequence[Introduction]) -> None:
        """Record who takes part and who does not, and why, in one transaction."""
        with self._open() as db:
            _upsert(db, members, *({"job": job, **asdict(s)} for s in sites))

    def round(
        self, job: str, *, number: int, phase: str, answers: Sequence[Reply], seconds: float
    ) -> None:
        """Record who answered a round, in one transaction."""
        with self._open() as db:
            key = {"job": job, "round": number}
            _upsert(db, replies, *({**key, "phase": phase, **asdict(a)} for a in answers))
            if phase == "train":
                good = sum(a.status == "ok" for a in answers)
                _upsert(db, rounds, {**key, "replies": good, "seconds": seconds})

    def histogram(self, job: str, *, site: str, sigma: float, counts: Any) -> None:
        """Record a site's noisy histogram, nested lists of (histograms, 2, bins)."""
        with self._open() as db:
            row = {"job": job, "site": site, "sigma": sigma, "counts": json.dumps(counts)}
            _upsert(db, histograms, row)

    def job(self, job: str) -> dict[str, Any] | None:
        """Return a job's row, or None where it never ran."""
        found = self._select(sa.select(jobs).where(jobs.c.job == job))
        return found[0] if found else None

    def rounds_done(self) -> int:
        """Return how many rounds of all jobs are done."""
        (row,) = self._select(sa.select(sa.func.count().label("n")).select_from(rounds))
        return int(row["n"])

    def rounds(self, job: str) -> list[dict[str, Any]]:
        """Return a job's training rounds in order."""
        query = sa.select(rounds).where(rounds.c.job == job).order_by(rounds.c.round)
        return self._select(query)

    def members(self, job: str) -> list[dict[str, Any]]:
        """Return the sites of a job."""
        return self._select(sa.select(members).where(members.c.job == job))

    def replies(self, job: str) -> list[dict[str, Any]]:
        """Return every answer of a job, in the order of rounds and sites."""
        order = (replies.c.round, replies.c.phase, replies.c.site)
        return self._select(sa.select(replies).where(replies.c.job == job).order_by(*order))

    def histograms(self, job: str) -> dict[str, tuple[float, Any]]:
        """Return (sigma, counts) for each site of a job."""
        rows = self._select(sa.select(histograms).where(histograms.c.job == job))
        return {r["site"]: (r["sigma"], json.loads(r["counts"])) for r in rows}

    def _select(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._open() as db:
            return [dict(row._mapping) for row in db.execute(query)]

    @contextmanager
    def _open(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except sa.exc.DatabaseError as error:
            if "full" in str(error.orig):
                raise OSError(28, "database or disk is full", str(self.path)) from None
            raise RunError(
                f"run store {str(self.path)!r} cannot be used: {error.orig}",
                remedy="give the folder of a run, on a disk that can be written",
            ) from None


def _upsert(db: sa.Connection, table: sa.Table, *rows: dict[str, Any]) -> None:
    if rows:
        db.execute(sa.insert(table).prefix_with("OR REPLACE"), rows)
