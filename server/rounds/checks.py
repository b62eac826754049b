"""What an answer must be before it counts. What is not is dropped, with its reason, and named."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from common.codec import decode
from common.params import Params, misfit
from common.wire import Envelope, Header
from server.rounds.exchange import Answer, failed, plain
from server.rounds.robust import norm_of
from server.store import Past, Reply

_MOST_RESERVES = 10**9
# No bound for a study: `server.norm_bound` is. Beyond this no weights stay weights, in any model.
_LARGEST_NORM = 1e9
_TAG = re.compile(r"[0-9a-f]{64}")
_ROUNDING = 1e-3  # of an epsilon, whose composition is on a grid


@dataclass(frozen=True)
class Checked:
    """One site's answer after the checks: the row for the store, and its tensors if they count."""

    reply: Reply
    tensors: Params | None = None

    def dropped(self, reason: str) -> Checked:
        """Return it without its tensors, and with the reason."""
        return Checked(replace(self.reply, status="dropped", reason=reason))


def matched(answer: Answer, request: Envelope) -> Answer:
    """Return the answer, or what it becomes when it answers another study, run or round.

    Args:
        answer: What came back for `request`.
        request: What was asked.
    """
    if answer.status != "ok" or answer.envelope is None:
        return answer
    for name in ("digest", "run", "round"):
        wanted, found = request.header[name], answer.envelope.header.get(name)
        if type(found) is not type(wanted) or found != wanted:
            return Answer("dropped", plain(f"stale: its {name} is {found!r}, not {wanted!r}"))
    return answer


def check(site: str, answer: Answer, like: Params, past: Past) -> Checked:
    """Hold one answer of a phase in which tensors leave to their shape and to what was had before.

    Args:
        site: Who answered.
        answer: Its answer, matched to the request.
        like: Names, shapes and types that the tensors must have.
        past: What the store held before the site was asked.
    """
    header = answer.envelope.header if answer.envelope else {}
    epsilon, reserves, tag = _receipt(header)
    reply = Reply(site, answer.status, answer.reason, epsilon=epsilon, reserves=reserves, tag=tag)
    if answer.status != "ok" or answer.envelope is None:
        return Checked(reply)
    tensors = _tensors(answer.envelope.payload, like)
    if isinstance(tensors, str):
        return Checked(reply).dropped(tensors)
    backwards = _went_back(site, epsilon, reserves, past)
    if backwards:
        return Checked(reply).dropped(backwards)
    return Checked(reply, tensors)


def check_delta(checked: Checked) -> Checked:
    """Measure a delta that fits, and drop it where no model could be meant by it."""
    if checked.tensors is None:
        return checked
    norm = norm_of(checked.tensors)
    mark = _fingerprint(checked.tensors) if norm > 0 else ""  # no change is no copy
    measured = Checked(replace(checked.reply, norm=norm, fingerprint=mark), checked.tensors)
    if norm > _LARGEST_NORM:
        return measured.dropped(f"huge: its norm is {norm:.3g}, above {_LARGEST_NORM:g}")
    return measured


def without_copies(found: Iterable[Checked], past: dict[str, tuple[int, str]]) -> list[Checked]:
    """Drop deltas that are the same bytes as another's, or as one of an earlier round.

    Nobody can tell who copied from whom within a round, so none of the copies counts.

    Args:
        found: A round's answers.
        past: Fingerprint -> (round, site) of the deltas of earlier rounds.
    """
    answers = list(found)
    marks = Counter(c.reply.fingerprint for c in answers if c.tensors is not None)
    result = []
    for checked in answers:
        mark = checked.reply.fingerprint
        if checked.tensors is None or not mark:
            result.append(checked)
        elif marks[mark] > 1:
            others = [
                c.reply.site for c in answers if c is not checked and c.reply.fingerprint == mark
            ]
            result.append(checked.dropped(f"duplicate: the same delta as {', '.join(others)}"))
        elif mark in past:
            number, site = past[mark]
            result.append(checked.dropped(f"duplicate: the delta of {site} in round {number}"))
        else:
            result.append(checked)
    return result


def _tensors(payload: bytes, like: Params) -> Params | str:
    """Return the payload's tensors, or why they do not fit."""
    try:
        params = decode(payload)
    except Exception as error:  # a hostile answer is that hospital's failure, never the run's
        return failed(error).reason
    wrong = misfit(params, like)
    return plain(wrong) if wrong is not None else {name: params[name] for name in like}


def _receipt(header: Header) -> tuple[float | None, int | None, str | None]:
    """Return the site's own claim of epsilon and count, and its tag, where they are such."""
    epsilon, reserves, tag = (header.get(name) for name in ("epsilon", "reserves", "tag"))
    is_count = type(reserves) is int and 0 <= reserves <= _MOST_RESERVES
    is_finite = isinstance(epsilon, float) and math.isfinite(epsilon)
    is_tag = is_count and isinstance(tag, str) and _TAG.fullmatch(tag) is not None
    return epsilon if is_finite else None, reserves if is_count else None, tag if is_tag else None


def _went_back(site: str, epsilon: float | None, reserves: int | None, past: Past) -> str:
    """Say how a receipt is behind one had before, which a ledger that only grows cannot be.

    A request that was answered before is answered from the ledger again, under the same count.
    """
    had = past.receipt(site)
    least = had.reserves if site in past.answered else had.reserves + 1
    if reserves is not None and reserves < least:
        return f"ledger went back: its count is {reserves}, after {had.reserves} before"
    if epsilon is not None and epsilon < had.epsilon * (1 - _ROUNDING):
        return f"ledger went back: its epsilon is {epsilon:.4g}, after {had.epsilon:.4g} before"
    return ""


def _fingerprint(tensors: Params) -> str:
    digest = hashlib.sha256()
    for value in tensors.values():
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    return digest.hexdigest()
