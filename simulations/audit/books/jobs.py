"""A run's jobs as its store has them: who answered what, and what that did to patients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.plan import Plan, read_plan
from common.privacy.accounting import epsilon
from common.privacy.events import Event
from server.store import Store
from server.tables import SEEDED, TOOK_PART
from simulations.audit.books.recompute import Recomputed, recompute

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One federated run, as the store has it.

    Attributes:
        answers: By hospital, what came from it with a price, in the order of rounds.
        rounds: Training rounds that the server counted.
        histograms: Hospital -> (sigma, counts).
        seeded: Hospitals that said that their noise can be repeated.
    """

    name: str
    plan: Plan
    answers: Mapping[str, Rows]
    rounds: Rows
    histograms: Mapping[str, tuple[float, Any]]
    seeded: tuple[str, ...]

    def events(self, site: str, *, until: int | None = None) -> tuple[Event, ...]:
        """Return what a hospital's first so many answers did to its patients."""
        rows = self.answers[site][:until]
        trained = sum(row["phase"] == "train" for row in rows)
        return (
            *(self.plan.training_prices(rounds=trained) if trained else ()),
            *([self.plan.evaluation_price()] * (len(rows) - trained)),
        )

    def priced(self, site: str, *, until: int | None = None) -> float:
        """Return epsilon of a hospital's first so many answers, as the gate prices them."""
        return epsilon(self.events(site, until=until), delta=self.plan.delta)

    def cost(self, site: str) -> Recomputed:
        """Return what all answers of a hospital come to."""
        return recompute(self.events(site), delta=self.plan.delta)

    @property
    def dearest(self) -> str:
        """The hospital whose patients paid most."""
        return max(self.answers, key=lambda site: self.cost(site).pld)


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a run folder that hospitals answered.

    Raises:
        RunError: there is none, or a job's plan is not there.
    """
    with closing(Store(folder)) as store:
        jobs = [_job(store, row, folder) for row in store.jobs()]
    answered = [job for job in jobs if job.answers]
    if not answered:
        raise RunError(
            f"run folder {str(folder)!r} holds no event: no hospital has answered a round",
            remedy="audit it after the first round",
        )
    return answered


def _job(store: Store, row: Mapping[str, Any], folder: Path) -> Job:
    path = folder / "plans" / f"{row['digest']}.toml"
    if not path.is_file():
        raise RunError(
            f"job {row['job']!r} has no plan {str(path)!r}: what its releases cost is not known",
            remedy="restore the run folder's plans/ from a backup",
        )
    answers: dict[str, Rows] = {}
    order = {"train": 0, "evaluate": 1}
    found = [r for r in store.replies(row["job"]) if r["phase"] in order and _left(r)]
    for reply in sorted(found, key=lambda r: (r["round"], order[r["phase"]])):
        answers.setdefault(reply["site"], []).append(reply)
    members = store.members(row["job"])
    return Job(
        row["job"],
        read_plan(path),
        answers,
        store.rounds(row["job"]),
        store.histograms(row["job"]),
        tuple(m["site"] for m in members if m["noise"] == SEEDED and m["status"] == TOOK_PART),
    )


def _left(reply: Mapping[str, Any]) -> bool:
    """Whether something left the hospital; it counts also where the server dropped it."""
    return reply["status"] == "ok" or reply["reserves"] is not None
