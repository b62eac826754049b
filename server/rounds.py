"""The round loop: join, train round by round with a quorum and a deadline, evaluate once.

Flower's own `Strategy.start` has no start round, no checkpoint and no quorum; this loop has.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.serverapp import Grid

from common.codec import decode, encode
from common.errors import RunError
from common.learners import learner_for
from common.learners.types import Contribution, Learner, State
from common.params import Params, misfit
from common.plan import Plan
from common.wire import Envelope
from server.checkpoint import checkpoint_folder, curve_rounds, latest, load_state, save_state
from server.exchange import POLL_S, Answer, ask, failed, plain
from server.store import Introduction, Reply, Store

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MOST_PATIENTS = 10**9
_MOST_RESERVES = 10**9


@dataclass(frozen=True)
class Member:
    """A site that takes part."""

    node: int
    name: str
    declared: int


@dataclass(frozen=True)
class Federation:
    """One job: a plan, the hospitals it runs over, and where its state lies.

    Attributes:
        job: Its name, which is also the run's name at the sites.
        expected: How many nodes to wait for before the start; the quorum where it is 0.
    """

    grid: Grid
    plan: Plan
    job: str
    store: Store
    run_dir: Path
    expected: int = 0

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return checkpoint_folder(self.run_dir, self.job)

    def request(self, kind: str, number: int, payload: bytes = b"") -> Envelope:
        """Return the request for one phase of one round."""
        header = {"kind": kind, "digest": self.plan.digest, "run": self.job, "round": number}
        return Envelope(header, payload)


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
    learner = learner_for(federation.plan)
    members = join(federation)
    state = _resume(federation, learner, initial)
    keep = curve_rounds(federation.plan.study.rounds.count)
    while state.round < federation.plan.study.rounds.count:
        contributions = train(federation, members, state)
        state = learner.apply(state, contributions)
        save_state(state, federation.folder, digest=federation.plan.digest, keep=keep)
    evaluate(federation, members, state)
    return state


def join(federation: Federation) -> list[Member]:
    """Ask every node who it is; return those that take part, in the order of their names.

    Raises:
        RunError: fewer than the quorum take part.
    """
    rounds = federation.plan.study.rounds
    nodes = _wait_for_nodes(federation)
    asked = {node: federation.request("join", 0) for node in nodes}
    members: list[Member] = []
    introductions: list[Introduction] = []
    names: set[str] = set()
    for node, answer in ask(federation.grid, asked, deadline_s=rounds.deadline_s).items():
        member, objection = _introduced(node, answer, names)
        names.add(member.name)
        if not objection:
            members.append(member)
        status = f"left out: {objection}" if objection else "took part"
        introductions.append(Introduction(member.name, member.declared or None, status))
    federation.store.introduce(federation.job, introductions)
    if len(members) < rounds.quorum:
        left_out = sorted(f"{i.site}: {i.status}" for i in introductions if i.status != "took part")
        reasons = "; ".join(left_out)
        raise RunError(
            f"{len(members)} of {len(nodes)} hospitals take part, the quorum (rounds.quorum) is "
            f"{rounds.quorum}" + (f" ({reasons})" if reasons else ""),
            remedy="have more hospitals join, or lower rounds.quorum or cohort.min_declared",
        )
    return sorted(members, key=lambda m: m.name)


def _introduced(node: int, answer: Answer, taken: set[str]) -> tuple[Member, str]:
    """Return whom a node says it is, as far as that is credible, and why it is left out, if so."""
    header = answer.envelope.header if answer.envelope else {}
    name, declared = header.get("site"), header.get("declared")
    is_named = isinstance(name, str) and _NAME.fullmatch(name) is not None and name not in taken
    size = declared if type(declared) is int and 0 < declared <= _MOST_PATIENTS else 0
    member = Member(node, str(name) if is_named else f"node {node}", size)
    if answer.status != "ok":
        return member, answer.reason
    if not is_named:
        return member, "its name is malformed, or another hospital's"
    return member, "" if size else "its declared size is no count of patients"


def _wait_for_nodes(federation: Federation) -> list[int]:
    """Return the nodes once as many as expected are there, or the deadline has passed."""
    rounds = federation.plan.study.rounds
    end = time.monotonic() + rounds.deadline_s
    while True:
        nodes = list(federation.grid.get_node_ids())
        if len(nodes) >= (federation.expected or rounds.quorum) or time.monotonic() >= end:
            return nodes
        time.sleep(POLL_S)


def train(federation: Federation, members: list[Member], state: State) -> list[Contribution]:
    """Run one training round and return the deltas that fit, in the order of the members.

    Raises:
        RunError: fewer of them than the quorum.
    """
    number, rounds = state.round + 1, federation.plan.study.rounds
    deltas, answers = _collect(federation, members, "train", number, state.params, state.params)
    if len(deltas) < rounds.quorum:
        failures = [f"{a.site} {a.status}: {a.reason}" for a in answers if a.status != "ok"]
        raise RunError(
            f"round {number}: {len(deltas)} of {len(members)} hospitals answered, the quorum "
            f"(rounds.quorum) is {rounds.quorum} ({'; '.join(failures)})",
            remedy="mend what those hospitals report, then resume the run",
        )
    return [Contribution(m.declared, deltas[m.name]) for m in members if m.name in deltas]


def evaluate(federation: Federation, members: list[Member], state: State) -> None:
    """Collect one noisy histogram from each hospital; those that come go to the store."""
    plan = federation.plan
    shape = (plan.histograms, 2, plan.study.evaluation.bins)
    like = {"counts": torch.zeros(shape, dtype=torch.float64)}
    released, _ = _collect(federation, members, "evaluate", state.round, state.params, like)
    for site, value in released.items():
        federation.store.histogram(
            federation.job, site=site, sigma=plan.evaluation_sigma, counts=value["counts"].tolist()
        )


def _resume(federation: Federation, learner: Learner, initial: Callable[[], Params]) -> State:
    newest = latest(federation.folder)
    if newest is not None:
        return load_state(newest, digest=federation.plan.digest)
    state = learner.init(initial())
    save_state(state, federation.folder, digest=federation.plan.digest, keep=frozenset())
    return state


def _collect(
    federation: Federation,
    members: list[Member],
    kind: str,
    number: int,
    params: Params,
    like: Params,
) -> tuple[dict[str, Params], list[Reply]]:
    """Ask all members for one phase of a round, drop what does not fit, and record every answer."""
    request = federation.request(kind, number, encode(params))
    started = time.monotonic()
    answers = ask(
        federation.grid,
        {m.node: request for m in members},
        deadline_s=federation.plan.study.rounds.deadline_s,
    )
    values, replies = {}, []
    for member in members:
        answer = answers[member.node]
        tensors = _tensors(answer, like)
        if isinstance(tensors, str):
            answer = Answer("failed", tensors)
        elif tensors is not None:
            values[member.name] = tensors
        replies.append(_reply(member, answer))
    federation.store.round(
        federation.job,
        number=number,
        phase=kind,
        answers=replies,
        seconds=time.monotonic() - started,
    )
    return values, replies


def _tensors(answer: Answer, like: Params) -> Params | str | None:
    """Return the answer's tensors, why they do not fit, or None where there are none."""
    if answer.status != "ok" or answer.envelope is None:
        return None
    try:
        params = decode(answer.envelope.payload)
    except Exception as error:  # a hostile answer is that hospital's failure, never the run's
        return failed(error).reason
    wrong = misfit(params, like)
    return plain(wrong) if wrong is not None else {name: params[name] for name in like}


def _reply(member: Member, answer: Answer) -> Reply:
    """Return the row of the store: the receipt is the site's own claim."""
    header = answer.envelope.header if answer.envelope else {}
    claimed, reserves = header.get("epsilon"), header.get("reserves")
    is_count = type(reserves) is int and 0 <= reserves <= _MOST_RESERVES
    return Reply(
        site=member.name,
        status=answer.status,
        reason=answer.reason,
        epsilon=claimed if isinstance(claimed, float) and math.isfinite(claimed) else None,
        reserves=reserves if is_count else None,
    )
