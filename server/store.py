"""The run store: what happened in each round, in SQLite, for the report and the live display."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.errors import RunError
from common.running.daemon import holder
from server.tables import TOOK_PART as TOOK_PART
from server.tables import Introduction as Introduction
from server.tables import Past as Past
from server.tables import Receipt as Receipt
from server.tables import Reply as Reply
from server.tables import histograms, jobs, members, metadata, replies, rounds

SCHEMA_VERSION = 3
FLOWER = "flower.json"  # beside the store of a coordinator's run: which Flower runs carried it
METRICS = "metrics.json"  # beside the store once the run has ended
_CHANGES = {2: ("ALTER TABLE replies ADD COLUMN tag TEXT",)}  # what takes a version to the next


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
            while version in _CHANGES:
                for statement in _CHANGES[version]:
                    db.exec_driver_sql(statement)
                version += 1
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
            left_out = members.c.status != TOOK_PART  # they introduce themselves anew
            db.execute(sa.delete(members).where(members.c.job == job, left_out))
            row = {"job": job, "digest": digest, "status": "running", "code": code}
            _upsert(db, jobs, {**row, "message": "", "remedy": "", "remark": ""})

    def end(self, job: str, *, status: str, message: str = "", remedy: str = "") -> None:
        """Record how a job ended: finished, failed or interrupted."""
        values = {"status": status, "message": message, "remedy": remedy}
        with self._open() as db:
            db.execute(sa.update(jobs).where(jobs.c.job == job).values(**values))

    def remark(self, job: str, text: str) -> None:
        """Record what the report should say of a job."""
        with self._open() as db:
            db.execute(sa.update(jobs).where(jobs.c.job == job).values(remark=text))

    def introduce(self, job: str, sites: Sequence[Introduction]) -> None:
        """Record who takes part and who does not, and why, in one transaction.

        A site that took part stays a member: rounds that it refuses later say so themselves.
        """
        with self._open() as db:
            took_part = (members.c.job == job) & (members.c.status == TOOK_PART)
            known = set(db.execute(sa.select(members.c.site).where(took_part)).scalars())
            news = [s for s in sites if s.takes_part or s.site not in known]
            old = members.c.node.in_([s.node for s in news if s.node])  # it may have no name yet
            left_out = members.c.status != TOOK_PART
            db.execute(sa.delete(members).where(members.c.job == job, left_out, old))
            _upsert(db, members, *({"job": job, **asdict(s)} for s in news))

    def round(
        self,
        job: str,
        *,
        number: int,
        phase: str,
        answers: Sequence[Reply],
        seconds: float,
        clipped: int = 0,
    ) -> None:
        """Record who answered a round, in one transaction; a round repeated replaces itself."""
        with self._open() as db:
            key = {"job": job, "round": number}
            gone = replies.c.site.not_in([a.site for a in answers]) & (replies.c.status == "ok")
            here = (replies.c.job == job) & (replies.c.round == number) & (replies.c.phase == phase)
            absent = {"status": "absent", "reason": "the round was repeated without it"}
            db.execute(sa.update(replies).where(here, gone).values(**absent))
            _upsert(db, replies, *({**key, "phase": phase, **asdict(a)} for a in answers))
            if phase == "train":
                good = sum(a.status == "ok" for a in answers)
                _upsert(
                    db, rounds, {**key, "replies": good, "seconds": seconds, "clipped": clipped}
                )

    def histogram(self, job: str, *, site: str, sigma: float, counts: Any) -> None:
        """Record a site's noisy histogram, nested lists of (histograms, 2, bins)."""
        with self._open() as db:
            row = {"job": job, "site": site, "sigma": sigma, "counts": json.dumps(counts)}
            _upsert(db, histograms, row)

    def job(self, job: str) -> dict[str, Any] | None:
        """Return a job's row, or None where it never ran."""
        found = self._select(sa.select(jobs).where(jobs.c.job == job))
        return found[0] if found else None

    def jobs(self) -> list[dict[str, Any]]:
        """Return every job's row, in the order of their names."""
        return self._select(sa.select(jobs).order_by(jobs.c.job))

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

    def missed(self, job: str) -> list[dict[str, Any]]:
        """Return which site missed which phase of which round, and why.

        Returns:
            Rows of round, phase, site, status and reason, in that order. A site that joined late
            is absent from the training rounds before.
        """
        every = self.replies(job)
        names = ("round", "phase", "site", "status", "reason")
        rows = [{n: r[n] for n in names} for r in every if r["status"] != "ok"]
        here = {r["site"] for r in every if r["phase"] == "train" and r["status"] != "absent"}
        answered = {(r["round"], r["site"]) for r in every if r["phase"] == "train"}
        for row in self.rounds(job):
            for site in here - {s for number, s in answered if number == row["round"]}:
                values = (row["round"], "train", site, "absent", "it had not joined")
                rows.append(dict(zip(names, values, strict=True)))
        return sorted(rows, key=lambda r: tuple(r[n] for n in names))

    def past(self, job: str, *, number: int, phase: str) -> Past:
        """Return what was had from a job's sites so far, for one phase of one round."""
        had = (replies.c.job == job) & replies.c.reserves.is_not(None)
        columns = (replies.c.site, replies.c.reserves, replies.c.tag, replies.c.epsilon)
        receipts: dict[str, Receipt] = {}
        # A count may come twice, and once without its tag.
        upwards = (replies.c.reserves, replies.c.tag.nulls_first())
        for r in self._select(sa.select(*columns).where(had).order_by(*upwards)):
            highest = receipts.get(r["site"], Receipt()).epsilon
            epsilon = max(highest, r["epsilon"] or 0.0)
            receipts[r["site"]] = Receipt(r["reserves"], r["tag"], epsilon)
        this = (replies.c.round == number) & (replies.c.phase == phase)
        answered = self._select(sa.select(replies.c.site).where(had, this))
        return Past(receipts, frozenset(r["site"] for r in answered))

    def deltas_before(
        self, job: str, number: int, fingerprints: Sequence[str]
    ) -> dict[str, tuple[int, str]]:
        """Return those fingerprints that deltas of earlier rounds had, with round and site."""
        known = [f for f in fingerprints if f]
        if not known:
            return {}
        query = sa.select(replies.c.fingerprint, replies.c.round, replies.c.site).where(
            replies.c.job == job, replies.c.round < number, replies.c.fingerprint.in_(known)
        )
        return {r["fingerprint"]: (r["round"], r["site"]) for r in self._select(query)}

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


def program(folder: Path) -> Path:
    """Return the file that a deployed run's own program holds for as long as it lives."""
    return folder / "serverapp.pid"


def is_interrupted(store: Store, job: str) -> bool:
    """Return whether a deployed run's program was killed: it runs no more, and did not say so."""

    def seems_to_run() -> bool:
        row = store.job(job)
        return row is not None and row["status"] == "running"

    # Asked again, for it may have ended in order in between.
    return seems_to_run() and holder(program(store.path.parent)) is None and seems_to_run()


def _upsert(db: sa.Connection, table: sa.Table, *rows: dict[str, Any]) -> None:
    if rows:
        db.execute(sa.insert(table).prefix_with("OR REPLACE"), rows)
