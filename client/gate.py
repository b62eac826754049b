"""The one door: everything that leaves a hospital leaves through `release`.

    replay check -> policy -> budget -> ledger reserve -> compute -> release check -> ledger commit
    -> reply

Digest and kind are settled by the agent before it asks for a release, and it records refusals; a
release without a price does not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from client.ledger import Account, Key, Ledger
from client.policy import Judge, Reason, Refused
from common.codec import decode, encode
from common.errors import WireError
from common.params import Params, misfit
from common.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.events import Event, merge
from common.wire import Envelope, Header

_MOST_SEEN = 2**53

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """What a site is asked to let out.

    Attributes:
        key: Which request it answers.
        plan: The approved study.
        price: Events to reserve; empty only for what no patient enters (a declared size).
        like: Names, shapes and types that the tensors must have: nothing else gets out.
        compute: Reads patients and returns the tensors. Called once, after the reserve.
        public: Header fields that do not depend on patients; the site's name as `site`.
        request: The message as it came: the same key must come with the same payload, and its
            header may say how many reserves of this study the coordinator has `seen`, with the
            `tag` of the receipt that said so.
    """

    key: Key
    plan: Plan
    price: tuple[Event, ...]
    like: Params
    compute: Callable[[], Params]
    public: Header
    request: Envelope = field(repr=False)


def release(asked: Release, *, ledger: Ledger, policy: Judge, declared: int) -> Envelope:
    """Answer one request, or refuse it.

    Guarantees
        Whatever `compute` returns leaves only after its price is in the ledger for good; the same
        key is computed once and answered with the stored bytes thereafter; the same key with
        another payload is refused, answered or not; a failure after the reserve leaves the price
        in place; nothing leaves while the site has paused or its ledger has lost entries.

    Raises:
        Refused: with one of a closed set of reasons, none of which depends on a patient.
        SiteError: the ledger cannot be written: nothing was computed, or what was stays here.
    """
    payload_hash = hashlib.sha256(asked.request.payload).hexdigest()
    ledger.check_seen(asked.key.digest, _seen(asked, ledger))
    with ledger.transaction():  # what the policy sees is what is charged, whoever else writes
        stored = _replay(asked.key, payload_hash, ledger)
        accounts = ledger.accounts()
        if stored is None:
            accounts = _with(accounts, asked)
            reason = policy.objection(
                asked.plan, declared=declared, run=asked.key.run, accounts=accounts
            )
            if reason is not None:
                raise Refused(reason)
            entry = ledger.reserve(
                asked.key, delta=asked.plan.delta, events=asked.price, request=payload_hash
            )
    if stored is None:
        stored = _compute(asked)
        ledger.commit(entry, asked.key, stored)
    return _reply(asked, stored, accounts, ledger)


def _seen(asked: Release, ledger: Ledger) -> int:
    """Return how many reserves of the study the coordinator has seen here.

    A count is believed above the ledger's own only with the tag of a receipt that this site gave:
    the site stops on it, and only its administrator lets it go on, at the price of a whole plan.
    """
    header = asked.request.header
    seen, tag = header.get("seen", 0), header.get("tag")
    is_tag = tag is None or isinstance(tag, str)
    if type(seen) is not int or not 0 <= seen <= _MOST_SEEN or not is_tag:
        raise Refused(Reason.MALFORMED)
    if tag is None:
        accounts = ledger.accounts() if seen else []
        is_true = seen <= sum(a.reserves for a in accounts if a.digest == asked.key.digest)
    else:
        own = _tag(asked, ledger, reserves=seen) or ""
        is_true = hmac.compare_digest(own.encode(), tag.encode(errors="replace")) and own != ""
    if not is_true:
        raise Refused(Reason.FALSE_RECEIPT)
    return seen


def _tag(asked: Release, ledger: Ledger, *, reserves: int) -> str | None:
    site = str(asked.public["site"])
    return ledger.tag(site=site, digest=asked.key.digest, reserves=reserves)


def _replay(key: Key, payload_hash: str, ledger: Ledger) -> bytes | None:
    """Return the stored reply of a key that was answered, or None for one to be computed."""
    if ledger.paused():
        raise Refused(Reason.PAUSED)
    if ledger.behind is not None:
        raise Refused(Reason.LEDGER_BEHIND)
    if ledger.request(key) not in (None, payload_hash):
        raise Refused(Reason.CHANGED_REQUEST)
    was_answered, stored = ledger.answered(key)
    if was_answered and stored is None:
        raise Refused(Reason.ALREADY_ANSWERED)
    return stored


def _compute(asked: Release) -> bytes:
    start = time.monotonic()
    value = asked.compute()
    log.info("computed: %s, %.3f s", asked.key.phase, time.monotonic() - start)
    wrong = misfit(value, asked.like)
    if wrong is not None:
        raise WireError(f"the release does not fit: {wrong}", remedy="report this as a defect")
    return encode(value)


def _reply(asked: Release, payload: bytes, accounts: Iterable[Account], ledger: Ledger) -> Envelope:
    """Add the receipt: this study's epsilon and its own count of reserves, nothing about others."""
    own = next(a for a in accounts if a.digest == asked.plan.digest)
    receipt = {"epsilon": epsilon(own.events, delta=own.delta), "reserves": own.reserves}
    tag = _tag(asked, ledger, reserves=own.reserves)
    proof = {} if tag is None else {"tag": tag}
    names = {"digest": asked.key.digest, "run": asked.key.run, "round": asked.key.round}
    return Envelope({"status": "ok", **names, **asked.public, **receipt, **proof}, payload)


def _with(accounts: list[Account], asked: Release) -> list[Account]:
    """Return the accounts as they would stand with the release asked for."""
    digest = asked.plan.digest
    own = next((a for a in accounts if a.digest == digest), Account(digest, asked.plan.delta))
    after = replace(
        own,
        events=merge([*own.events, *asked.price]),
        runs=own.runs | {asked.key.run},
        reserves=own.reserves + (1 if asked.price else 0),
    )
    return [a for a in accounts if a.digest != digest] + [after]


def decode_fitting(payload: bytes, like: Params) -> Params:
    """Return the request's tensors, or refuse what does not fit the study's model.

    Raises:
        Refused: the tensors are unreadable, or not finite values of the model's shapes.
    """
    try:
        params = decode(payload)
    except WireError:
        raise Refused(Reason.MALFORMED) from None
    if misfit(params, like) is not None:
        raise Refused(Reason.MALFORMED)
    return {name: params[name] for name in like}
