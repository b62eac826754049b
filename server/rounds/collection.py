"""One phase of one round: ask the members, check what comes, and record every answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.params import Params
from common.wire import Envelope
from server.rounds.checks import Checked, check, check_delta, matched, without_copies
from server.rounds.exchange import GONE, Answer, ask, payloads
from server.rounds.federation import LOG, Federation, Member
from server.rounds.membership import Roster
from server.rounds.robust import bounded
from server.store import Reply

LATE_JOIN_S = 30.0  # how long a round waits for strangers once its members have answered


class Collection:
    """The answers to one phase of one round; asked again, it asks only who is missing.

    Args:
        federation: The job.
        roster: Its members; in training it grows by those who join in this round.
        kind: 'train' or 'evaluate'.
        number: The round.
        sent: Gives the weights that a hospital is sent, by its name: asked again, the same.
        like: Names, shapes and types of what comes back.
    """

    def __init__(
        self,
        federation: Federation,
        roster: Roster,
        kind: str,
        number: int,
        *,
        sent: Callable[[str], Params],
        like: Params,
    ) -> None:
        self._federation, self._roster = federation, roster
        self._kind, self._number, self._like = kind, number, like
        self._payload = payloads(sent)
        self._past = federation.store.past(federation.job, number=number, phase=kind)
        self._answers: dict[str, Answer] = {}
        self._absent: dict[int, Reply] = {}
        self._started = time.monotonic()
        self.values: dict[str, Params] = {}
        self.replies: list[Reply] = []

    @property
    def missing(self) -> list[Reply]:
        """The answers that do not count."""
        return [r for r in self.replies if r.status != "ok"]

    def ask(self) -> None:
        """Ask those members whose answer is missing and, in training, strangers to join and train.

        Afterwards `values` holds what counts, by site, and `replies` what the store holds.
        """
        nodes = list(self._federation.grid.get_node_ids())
        asked = [m for m in self._roster.members if m.name not in self.values]
        requests = {m.node: self._request(m) for m in asked if m.node in nodes}
        if self._kind == "train":
            joining = self._federation.request("join", 0)
            requests |= dict.fromkeys(self._roster.strangers(nodes), joining)
        answers = ask(
            self._federation.grid,
            requests,
            deadline_s=self._federation.plan.study.rounds.deadline_s,
            join_s=LATE_JOIN_S,
            follow=self._welcome,
        )
        self._turn_away({n: answers[n] for n in self._roster.strangers(list(answers))})
        for member in self._roster.members:
            if member.name not in self.values:
                answer = answers.get(member.node, GONE)
                self._answers[member.name] = matched(answer, self._request(member))
        self._examine()

    def _request(self, member: Member) -> Envelope:
        """Return a member's request; its own receipt lets its ledger notice that it is behind."""
        had = self._past.receipt(member.name)
        proof = {} if had.tag is None else {"tag": had.tag}
        return self._federation.request(
            self._kind, self._number, self._payload(member.name), seen=had.reserves, **proof
        )

    def _welcome(self, node: int, answer: Answer) -> Envelope | None:
        """Ask a stranger that has just joined to train; None for everybody else."""
        if answer.status != "ok" or not self._roster.strangers([node]):
            return None
        self._roster.admit({node: answer})
        joined = [m for m in self._roster.members if m.node == node]
        if not joined:
            return None
        self._absent.pop(node, None)
        LOG.info("%s round %d: %s joined", self._federation.job, self._number, joined[0].name)
        return self._request(joined[0])

    def _turn_away(self, answers: dict[int, Answer]) -> None:
        """Note strangers that stay away, and why."""
        for left_out in self._roster.admit(answers) if answers else ():
            row = Reply(left_out.site, "absent", left_out.status)
            self._absent[int(left_out.node)] = row

    def _examine(self) -> None:
        """Check every answer and put this phase's rows into the store."""
        found = [check(n, a, self._like, self._past) for n, a in sorted(self._answers.items())]
        clipped = 0
        self.values = {}
        if self._kind == "train":
            found, clipped = self._examine_deltas(found)
        else:
            self.values = {c.reply.site: c.tensors for c in found if c.tensors is not None}
        self.replies = [c.reply for c in found]
        for reply in self.missing:
            LOG.info("%s round %d, %s: %s %s: %s", self._federation.job, self._number,
                     self._kind, reply.site, reply.status, reply.reason)  # fmt: skip
        self._federation.store.round(
            self._federation.job,
            number=self._number,
            phase=self._kind,
            answers=[*self.replies, *self._absent.values()],
            seconds=time.monotonic() - self._started,
            clipped=clipped,
        )

    def _examine_deltas(self, found: list[Checked]) -> tuple[list[Checked], int]:
        """Drop what is huge or a copy, scale down what is too long, and count the latter."""
        found = [check_delta(c) for c in found]
        # Without noise equal weights give equal deltas, so there an earlier delta is no sign.
        marks = [c.reply.fingerprint for c in found] if self._federation.plan.private else []
        earlier = self._federation.store.deltas_before(self._federation.job, self._number, marks)
        found = without_copies(found, earlier)
        bound, clipped = self._federation.plan.study.server.norm_bound, 0
        for checked in found:
            if checked.tensors is not None and checked.reply.norm is not None:
                delta, was_long = bounded(checked.tensors, norm=checked.reply.norm, bound=bound)
                self.values[checked.reply.site] = delta
                clipped += was_long
        return found, clipped
