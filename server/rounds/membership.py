"""Who takes part: sites introduce themselves at the start, and those that come late in a round."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace

from common.errors import RunError
from common.schema import MOST_PATIENTS
from server.rounds.checks import matched
from server.rounds.exchange import POLL_S, Answer, ask
from server.rounds.federation import LOG, Federation, Member
from server.store import Introduction
from server.tables import SEEDED

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Roster:
    """The members of a job. It grows: a site enrolled late, or back from a pause, joins in a round.

    A name belongs to the node that joined with it first. Flower ties a node's id to its key, so
    another node under the same name is not that hospital come back but somebody else.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._members: dict[str, Member] = {}

    @property
    def members(self) -> list[Member]:
        """Those who take part, in the order of their names."""
        return sorted(self._members.values(), key=lambda m: m.name)

    def strangers(self, nodes: list[int]) -> list[int]:
        """Return those nodes that are no members."""
        known = {m.node for m in self._members.values()}
        return [node for node in nodes if node not in known]

    def admit(self, answers: Mapping[int, Answer]) -> list[Introduction]:
        """Take in those who introduced themselves credibly; record all, and return those left out.

        Args:
            answers: Node id -> its answer to a join.
        """
        request = self._federation.request("join", 0)
        checked = {node: matched(answer, request) for node, answer in answers.items()}
        # A refusal reserves no name, so those who join go first; the sort keeps their order.
        in_order = sorted(checked.items(), key=lambda item: item[1].status != "ok")
        told = [self._introduced(node, answer) for node, answer in in_order]
        self._federation.store.introduce(self._federation.job, told)
        return [i for i in told if not i.takes_part]

    def _introduced(self, node: int, answer: Answer) -> Introduction:
        member, objection = self._believed(node, answer)
        if objection:
            LOG.info("%s: %s left out: %s", self._federation.job, member.name, objection)
        else:
            self._members[member.name] = member
        status = f"left out: {objection}" if objection else "took part"
        header = answer.envelope.header if answer.envelope else {}
        noise = SEEDED if header.get("noise") == SEEDED else ""
        return Introduction(
            member.name, member.declared or None, status, node=str(node), noise=noise
        )

    def _believed(self, node: int, answer: Answer) -> tuple[Member, str]:
        """Return whom a node says it is, as far as credible, and why it is left out, if so."""
        header = answer.envelope.header if answer.envelope else {}
        name, declared = header.get("site"), header.get("declared")
        is_named = isinstance(name, str) and _NAME.fullmatch(name) is not None
        owner = self._members.get(str(name)) if is_named else None
        size = declared if type(declared) is int and 0 < declared <= MOST_PATIENTS else 0
        member = Member(node, str(name) if is_named and owner is None else f"node {node}", size)
        if answer.status != "ok":
            return member, answer.reason
        if not is_named:
            return member, "its name is malformed"
        enrolled = self._federation.enrolled()
        if enrolled.get(node, name) != name or (node not in enrolled and name in enrolled.values()):
            there = f"{enrolled[node]!r}" if node in enrolled else "no hospital"
            return replace(member, name=f"node {node}"), f"its name {name!r}: enrolled as {there}"
        if owner is not None:
            return member, f"its name {name!r} is that of another node, {owner.node}"
        return member, "" if size else "its declared size is no count of patients"


def join(federation: Federation) -> Roster:
    """Ask every node who it is, and take in those that take part.

    Raises:
        RunError: fewer than the quorum take part.
    """
    rounds, roster = federation.plan.study.rounds, Roster(federation)
    nodes = _wait_for_nodes(federation)
    asked = {node: federation.request("join", 0) for node in nodes}
    left_out = roster.admit(ask(federation.grid, asked, deadline_s=rounds.deadline_s))
    if len(roster.members) < rounds.quorum:
        reasons = "; ".join(sorted(f"{i.site}: {i.status}" for i in left_out))
        raise RunError(
            f"{len(roster.members)} of {len(nodes)} hospitals take part, the quorum "
            f"(rounds.quorum) is {rounds.quorum}" + (f" ({reasons})" if reasons else ""),
            remedy="have more hospitals join, or lower rounds.quorum or cohort.min_declared",
        )
    return roster


def _wait_for_nodes(federation: Federation) -> list[int]:
    """Return the nodes once as many as expected are there, or the deadline has passed."""
    rounds = federation.plan.study.rounds
    end = time.monotonic() + rounds.deadline_s
    while True:
        nodes = list(federation.grid.get_node_ids())
        if len(nodes) >= (federation.expected or rounds.quorum) or time.monotonic() >= end:
            return nodes
        time.sleep(POLL_S)
