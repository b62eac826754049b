"""Handing a finished run's model, with its card, to the hospitals that took part."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from common.errors import RunError
from common.learners import learner_for
from common.plan import Plan
from common.report.model_card import model_card
from server.report import METRICS, read_metrics
from server.rounds.checkpoint import latest, load_state
from server.rounds.checks import matched
from server.rounds.exchange import GONE, ask, payloads
from server.rounds.federation import LOG, Federation
from server.store import TOOK_PART, Reply


def deliver(federation: Federation) -> list[Reply]:
    """Send the final weights and the model card to every member that is connected.

    A member is the node that it was in the run. Delivering again to one that has the model already
    changes nothing there.

    Returns:
        What each member made of it, in the order of their names; the store holds it as the phase
        'deliver' of the last round.

    Raises:
        RunError: the run is not finished.
    """
    plan, newest = federation.plan, latest(federation.folder)
    plan.study.check_trains("server deliver")
    state = None if newest is None else load_state(newest, digest=plan.digest)
    if state is None or state.round < plan.study.rounds.count:
        raise RunError(
            f"job {federation.job!r} has no model yet: {state.round if state else 0} of "
            f"{plan.study.rounds.count} rounds are done",
            remedy="resume the run to its end, then deliver it",
        )
    payload = payloads(partial(learner_for(plan).result, state))
    card = card_of(plan, federation.run_dir)
    rows = federation.store.members(federation.job)
    members = {r["site"]: int(r["node"] or 0) for r in rows if r["status"] == TOOK_PART}
    requests = {
        node: federation.request("deliver", state.round, payload(name), card=card)
        for name, node in members.items()
    }
    here, started = set(federation.grid.get_node_ids()), time.monotonic()
    asked = {node: request for node, request in requests.items() if node in here}
    answers = ask(federation.grid, asked, deadline_s=plan.study.rounds.deadline_s)
    replies = []
    for name, node in sorted(members.items()):
        answer = matched(answers.get(node, GONE), requests[node])
        LOG.info("%s, delivery: %s %s %s", federation.job, name, answer.status, answer.reason)
        replies.append(Reply(name, answer.status, answer.reason))
    federation.store.round(
        federation.job,
        number=state.round,
        phase="deliver",
        answers=replies,
        seconds=time.monotonic() - started,
    )
    return replies


def card_of(plan: Plan, run_dir: Path) -> str:
    """Return the run's model card, or what the plan alone says where there are no metrics yet."""
    if (run_dir / METRICS).is_file():
        return model_card(read_metrics(run_dir))
    study = plan.study
    promise = (
        f"({plan.epsilon:.3g}, {plan.delta:g})-differential privacy for each patient"
        if plan.private
        else "NOT PRIVATE"
    )
    return (
        f"# Model card: {study.title or study.name}\n\n{study.description}\n\n"
        f"Model {study.model.name}, {study.rounds.count} rounds; {promise}.\n\n"
        f"Study digest `{plan.digest}`. Its figures were not known when it was sent.\n"
    )
