"""The round loop: join, train round by round with a quorum and a deadline, evaluate once.

A study of an effect trains nothing: its hospitals join and release one table each.

Flower's own `Strategy.start` has no start round, no checkpoint and no quorum; this loop has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from common.errors import RunError
from common.learners import learner_for
from common.learners.types import Contribution, Learner, State
from common.models import trained
from common.params import Params
from common.review import bears
from server.rounds.checkpoint import curve_rounds, latest, load_state, save_state
from server.rounds.collection import Collection
from server.rounds.federation import LOG as LOG
from server.rounds.federation import Federation as Federation
from server.rounds.federation import Member as Member
from server.rounds.membership import Roster, join
from server.rounds.robust import combine

RETRY_S = 15.0  # doubled each time: three retries outlast the 60 s for which Flower refuses a node


def run(federation: Federation, initial: Callable[[], Params]) -> State:
    """Run the job to its end, from its newest checkpoint if it has one.

    Args:
        federation: What to run and over whom.
        initial: Makes the initial weights, for a job that starts.

    Returns:
        The final state; it is also the newest checkpoint.

    Raises:
        RunError: fewer hospitals than the quorum took part or answered; the run can be resumed.
    """
    plan = federation.plan
    learner, roster = learner_for(plan), join(federation)
    said = bears(plan, len(roster.members))
    LOG.info("%s: %s", federation.job, said)
    federation.store.remark(federation.job, said)
    state = _resume(federation, learner, initial)
    keep = curve_rounds(plan.study.rounds.count)
    while state.round < plan.study.rounds.count:
        contributions = combine(train(federation, roster, state), plan.study.server)
        state = learner.apply(state, contributions)
        save_state(state, federation.folder, digest=plan.digest, keep=keep)
    evaluate(federation, roster, state)
    return state


def train(federation: Federation, roster: Roster, state: State) -> list[Contribution]:
    """Run one training round and return the deltas that count, in the order of the members.

    Sites that are no members are asked to join, and train in this round if they do.

    Raises:
        RunError: fewer of them than the quorum, after all retries.
    """
    number = state.round + 1
    plan, learner = federation.plan, learner_for(federation.plan)
    collection = Collection(
        federation,
        roster,
        "train",
        number,
        sent=partial(learner.start, state),
        like=learner.shared(trained(plan.study, state.params)),
    )
    if not _reaches_quorum(federation, collection):
        raise _below_quorum(federation, roster, collection, what=f"round {number}")
    sizes = {m.name: m.declared for m in roster.members}
    return [Contribution(sizes[n], collection.values[n], n) for n in sorted(collection.values)]


def evaluate(federation: Federation, roster: Roster, state: State) -> None:
    """Collect one noisy histogram from each hospital; those that come go to the store."""
    sent = partial(learner_for(federation.plan).result, state)
    collection = _counts(federation, roster, state.round, sent=sent)
    _reaches_quorum(federation, collection)
    _keep(federation, collection)


def collect_effects(federation: Federation) -> None:
    """Run a job of an effect: collect one noisy table from each hospital, into the store.

    Raises:
        RunError: fewer hospitals than the quorum took part or answered; the run can be resumed.
    """
    roster = join(federation)
    collection = _counts(federation, roster, 0, sent=lambda site: {})
    answered = _reaches_quorum(federation, collection)
    _keep(federation, collection)
    if not answered:
        raise _below_quorum(federation, roster, collection, what="the effect")


def _counts(
    federation: Federation, roster: Roster, number: int, *, sent: Callable[[str], Params]
) -> Collection:
    """Return what will collect each hospital's noisy counts."""
    like = {"counts": torch.zeros(federation.plan.release_shape, dtype=torch.float64)}
    return Collection(federation, roster, "evaluate", number, sent=sent, like=like)


def _keep(federation: Federation, collection: Collection) -> None:
    """Write the counts that came into the store."""
    for site, value in collection.values.items():
        federation.store.histogram(
            federation.job,
            site=site,
            sigma=federation.plan.release_sigma,
            counts=value["counts"].tolist(),
        )


def _below_quorum(
    federation: Federation, roster: Roster, collection: Collection, *, what: str
) -> RunError:
    failures = [f"{r.site} {r.status}: {r.reason}" for r in collection.missing]
    return RunError(
        f"{what}: {len(collection.values)} of {len(roster.members)} hospitals answered, the quorum "
        f"(rounds.quorum) is {federation.plan.study.rounds.quorum} ({'; '.join(failures)})",
        remedy="mend what those hospitals report, then resume the run",
    )


def _reaches_quorum(federation: Federation, collection: Collection) -> bool:
    """Ask, and below the quorum ask those who are missing again, after a pause."""
    rounds = federation.plan.study.rounds
    collection.ask()
    for retry in range(rounds.retries):
        if len(collection.values) >= rounds.quorum:
            break
        pause_s = min(RETRY_S * 2**retry, rounds.deadline_s)
        LOG.info("%s: below the quorum, asked again in %g s", federation.job, pause_s)
        time.sleep(pause_s)
        collection.ask()
    return len(collection.values) >= rounds.quorum


def _resume(federation: Federation, learner: Learner, initial: Callable[[], Params]) -> State:
    newest = latest(federation.folder)
    if newest is not None:
        return load_state(newest, digest=federation.plan.digest)
    state = learner.init(initial())
    save_state(state, federation.folder, digest=federation.plan.digest, keep=frozenset())
    return state
