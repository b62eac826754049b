"""The one door: what happens in which order, what is charged, and what gets out."""

from __future__ import annotations

import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from client.gate import Release, decode_fitting, release
from client.ledger import Charge, Key, Ledger
from client.policy import Policy, Reason, Refused, Ruling
from common.codec import decode, encode
from common.errors import GrandroundsError, SiteError
from common.params import Params
from common.plan import Plan, write_plan
from common.privacy.accounting import epsilon
from common.privacy.events import merge
from common.wire import Envelope
from tests.ledger_reader import releases
from tests.small_world import roomy, small_plan

LIKE = {"w": torch.zeros(2)}
GOOD = {"w": torch.tensor([1.0, 2.0])}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "secret").write_bytes(bytes(32))
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def asked(
    plan: Plan,
    compute: Callable[[], Params] = lambda: GOOD,
    *,
    number: int = 1,
    run: str = "main",
    payload: bytes = b"weights",
    **receipt: Any,
) -> Release:
    key = Key(plan.digest, run, "train", number)
    request = Envelope(receipt, payload)
    return Release(key, plan, plan.training_prices(), LIKE, compute, {"site": "alpha"}, request)


def ask(release_: Release, ledger: Ledger, policy: Policy | Ruling | None = None) -> Envelope:
    policy = policy or roomy(release_.plan, epsilon=1e3)
    ruling = policy if isinstance(policy, Ruling) else Ruling(policy)
    return release(release_, ledger=ledger, policy=ruling, declared=40)


def refusal(release_: Release, ledger: Ledger, policy: Policy | None = None) -> Reason:
    with pytest.raises(Refused) as caught:
        ask(release_, ledger, policy)
    return caught.value.reason


def states(path: Path) -> list[tuple[str, bytes | None]]:
    return [(line.state, line.reply) for line in releases(path)]


def never() -> Params:
    raise AssertionError("patients were read")


def test_the_price_is_in_the_file_before_patients_are_read_and_the_reply_only_after_the_check(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Break it once: commit before compute, or reserve after it.
    seen = []

    def compute() -> Params:
        seen.extend(releases(path))
        return GOOD

    answer = ask(asked(plan, compute), ledger)
    [line] = seen
    assert (line.state, line.reply) == ("reserved", None)
    assert [event["part"] for event in line.events] == ["train"]
    assert states(path) == [("committed", answer.payload)]


def test_the_policy_is_asked_before_the_reserve_and_about_the_ledger_with_the_release(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    seen = []

    class Watching(Ruling):
        def objection(self, plan, *, declared, run, accounts):
            accounts = list(accounts)
            seen.append((len(releases(path)), accounts, declared, run))

    ask(asked(plan), ledger, Watching(roomy(plan)))
    [(entries, [account], declared, run)] = seen
    assert (entries, declared, run) == (0, 40, "main")
    assert account.events == plan.training_prices()


def test_what_the_policy_sees_is_what_is_charged_though_another_process_writes(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Two agents on one folder could each find room for the last release. Break it once: check and
    # reserve in two transactions.
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    locked = []

    class Racing(Ruling):
        def objection(self, plan, *, declared, run, accounts):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            locked.append(True)

    def compute() -> Params:
        other.execute("BEGIN IMMEDIATE")  # computing holds nobody up
        other.execute("ROLLBACK")
        return GOOD

    ask(asked(plan, compute), ledger, Racing(roomy(plan)))
    other.close()
    assert locked == [True]


def test_a_refused_release_computes_nothing_and_writes_nothing(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    policy = roomy(plan, epsilon=1e-6)
    assert refusal(asked(plan, never), ledger, policy) is Reason.BUDGET
    assert releases(path) == []


def test_the_same_request_twice_is_computed_once_and_charged_once(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Break it once: skip the replay check.
    first = ask(asked(plan), ledger)
    second = ask(asked(plan, never), ledger)
    assert second == first
    assert decode(first.payload)["w"].tolist() == [1.0, 2.0]
    assert len(releases(path)) == 1


def test_a_stored_reply_is_given_whatever_the_policy_says_by_now(
    plan: Plan, ledger: Ledger
) -> None:
    first = ask(asked(plan), ledger)
    spent = Policy(epsilon=1e-6, delta=0)
    assert ask(asked(plan, never), ledger, spent) == first


@pytest.mark.parametrize("other", [{"number": 2}, {"run": "again"}])
def test_another_round_or_run_is_another_release(
    plan: Plan, ledger: Ledger, path: Path, other: dict[str, object]
) -> None:
    policy = roomy(plan, epsilon=1e3, runs=2)
    ask(asked(plan), ledger, policy)
    answer = ask(asked(plan, **other), ledger, policy)  # type: ignore[arg-type]
    assert answer.header["reserves"] == 2
    assert len(releases(path)) == 2


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_crash_after_the_reserve_leaves_the_price_and_the_next_ask_pays_again(
    plan: Plan, ledger: Ledger, path: Path, failure: type[BaseException]
) -> None:
    # Break it once: refund on failure.
    def crash() -> Params:
        raise failure

    with pytest.raises(failure):
        ask(asked(plan, crash), ledger)
    assert [state for state, _ in states(path)] == ["reserved"]
    answer = ask(asked(plan), ledger)
    assert [state for state, _ in states(path)] == ["reserved", "committed"]
    assert answer.header["reserves"] == 2
    twice = merge(plan.training_prices() * 2)
    assert answer.header["epsilon"] == epsilon(twice, delta=plan.delta)


def test_crashes_use_up_the_budget(plan: Plan, ledger: Ledger, path: Path) -> None:
    # The plan has three rounds: three crashes cost as much.
    def crash() -> Params:
        raise RuntimeError

    policy = roomy(plan, epsilon=plan.epsilon)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            ask(asked(plan, crash), ledger, policy)
    assert refusal(asked(plan, never), ledger, policy) is Reason.BUDGET
    assert len(releases(path)) == 3


_KILLED = """
import os, signal, sys
from pathlib import Path
from client.gate import Release, release
from client.ledger import Charge, Key, Ledger
from client.policy import Ruling
from common.plan import read_plan
from common.wire import Envelope
from tests.ledger_reader import releases
from tests.small_world import roomy

def die():
    os.kill(os.getpid(), signal.SIGKILL)

plan = read_plan(Path(sys.argv[2]))
key, request = Key(plan.digest, "main", "train", 1), Envelope({}, b"weights")
asked = Release(key, plan, plan.training_prices(), {}, die, {"site": "alpha"}, request)
release(asked, ledger=Ledger(sys.argv[1]), policy=Ruling(roomy(plan)), declared=40)
"""


@pytest.mark.slow
def test_a_process_killed_while_it_computes_has_paid(
    plan: Plan, path: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, str(path), str(write_plan(plan, tmp_path))]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    ledger = Ledger(path)
    [account] = ledger.accounts()
    assert (account.events, account.reserves) == (plan.training_prices(), 1)
    assert ask(asked(plan), ledger).header["reserves"] == 2
    ledger.close()


@pytest.mark.parametrize(
    "value",
    [
        {**GOOD, "patients": torch.tensor([41.0])},
        {},
        {"v": torch.zeros(2)},
        {"w": torch.zeros(3)},
        {"w": torch.zeros(2, 1)},
        {"w": torch.zeros(2, dtype=torch.float64)},
        {"w": torch.tensor([0.0, math.nan])},
        {"w": torch.tensor([0.0, math.inf])},
    ],
    ids=["extra", "missing", "renamed", "longer", "reshaped", "wider", "nan", "inf"],
)
def test_what_does_not_fit_never_gets_out_and_is_paid_for(
    plan: Plan, ledger: Ledger, path: Path, value: Params
) -> None:
    # Break it once: skip the release check.
    with pytest.raises(GrandroundsError, match="does not fit"):
        ask(asked(plan, lambda: value), ledger)
    assert states(path) == [("reserved", None)]


def test_a_reply_that_is_no_longer_kept_is_not_computed_again(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    ask(asked(plan, number=1), ledger)
    ask(asked(plan, number=2), ledger)
    assert refusal(asked(plan, never, number=1), ledger) is Reason.ALREADY_ANSWERED
    assert len(releases(path)) == 2


def test_a_receipt_tells_nothing_of_other_studies(plan: Plan, ledger: Ledger) -> None:
    # epsilon of one round of this study alone, though another has spent twice as often.
    other = small_plan(name="other")
    policy = roomy(plan, epsilon=1e3, delta=0.1)
    for number in (1, 2):
        ask(asked(other, number=number), ledger, policy)
    answer = ask(asked(plan), ledger, policy)
    assert answer.header == {
        "status": "ok",
        "site": "alpha",
        "digest": plan.digest,
        "run": "main",
        "round": 1,
        "epsilon": plan.epsilon_after(1),
        "reserves": 1,
        "tag": ledger.tag(site="alpha", digest=plan.digest, reserves=1),
    }


def test_the_same_round_with_other_parameters_is_refused_answered_or_not(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # A difference of two answers under one noise, or two for one price. Break it once: compare
    # with the answered requests only.
    def crash() -> Params:
        raise RuntimeError

    first = ask(asked(plan), ledger)
    with pytest.raises(RuntimeError):
        ask(asked(plan, crash, number=2), ledger)
    for number in (1, 2):
        changed = asked(plan, never, number=number, payload=b"other")
        assert refusal(changed, ledger) is Reason.CHANGED_REQUEST
    assert len(releases(path)) == 2
    assert ask(asked(plan, never), ledger).payload == first.payload
    assert ask(asked(plan, number=2), ledger).header["reserves"] == 3


def test_other_parameters_are_told_apart_after_a_restart_too(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    ask(asked(plan), ledger)
    ledger.close()
    again = Ledger(path)
    assert refusal(asked(plan, never, payload=b""), again) is Reason.CHANGED_REQUEST
    again.close()


def test_a_paused_site_gives_nothing_not_even_an_answer_that_it_gave(
    plan: Plan, ledger: Ledger
) -> None:
    first = ask(asked(plan), ledger)
    ledger.record("pause", {})
    for number in (1, 2):
        assert refusal(asked(plan, never, number=number), ledger) is Reason.PAUSED
    ledger.record("resume", {})
    assert ask(asked(plan, never), ledger) == first


def test_a_coordinator_that_has_seen_more_reserves_stops_every_release_until_reconciled(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Break it once: hear what was seen within the transaction that the refusal rolls back.
    ask(asked(plan), ledger)
    shown = {"seen": 7, "tag": ledger.tag(site="alpha", digest=plan.digest, reserves=7)}
    assert ask(asked(plan, number=2, seen=1), ledger).header["reserves"] == 2
    assert refusal(asked(plan, never, number=3, **shown), ledger) is Reason.LEDGER_BEHIND
    assert refusal(asked(plan, never, number=3), ledger) is Reason.LEDGER_BEHIND
    other = small_plan(name="other")
    assert refusal(asked(other, never), ledger) is Reason.LEDGER_BEHIND
    assert len(releases(path)) == 2
    ledger.reconcile([Charge(plan.digest, plan.delta, plan.training_prices(rounds=3))], "restored")
    answer = ask(asked(plan, number=3, **shown), ledger)
    assert answer.header["reserves"] == 8
    assert answer.header["epsilon"] == plan.epsilon_after(6)


@pytest.mark.parametrize(
    "receipt",
    [*({"seen": n} for n in (-1, "3", 1.0, True, None, [], 2**53 + 1, 10**400)),
     *({"seen": 0, "tag": t} for t in (7, True, b"tag", ["0" * 64]))],
    ids=lambda receipt: repr(receipt)[:30],
)  # fmt: skip
def test_a_receipt_that_is_none_is_malformed(
    plan: Plan, ledger: Ledger, receipt: dict[str, Any]
) -> None:
    assert refusal(asked(plan, never, **receipt), ledger) is Reason.MALFORMED
    assert ledger.behind is None


def test_a_ledger_that_lost_its_head_releases_nothing(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    ask(asked(plan), ledger)
    ledger.close()
    path.with_suffix(".head").unlink()
    again = Ledger(path)
    assert refusal(asked(plan, never, number=2), again) is Reason.LEDGER_BEHIND
    again.close()


def test_a_full_disk_under_the_ledger_computes_nothing(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Break it once: reserve after computing.
    db = ledger._journal.db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    computed = []

    def compute() -> Params:
        computed.append(True)
        return GOOD

    def ask_many() -> None:
        for number in range(100):
            ask(asked(plan, compute, number=number), ledger, Policy(epsilon=1e6, delta=0.1))

    with pytest.raises(SiteError, match="disk is full"):
        ask_many()
    assert len(computed) <= len(releases(path)) < 100
    assert ledger.verify().ok


_SPENDER = """
import sys
from pathlib import Path
import torch
from client.gate import Release, release
from client.ledger import Charge, Key, Ledger
from client.policy import Refused, Ruling
from common.plan import read_plan
from common.wire import Envelope
from tests.small_world import roomy

plan = read_plan(Path(sys.argv[2]))
plan.epsilon, plan.epsilon_after(4)  # warm
print("ready", flush=True)
first = int(sys.stdin.readline())
ledger, policy = Ledger(sys.argv[1]), Ruling(roomy(plan, epsilon=plan.epsilon))
for number in range(first, first + 5):
    key = Key(plan.digest, "main", "train", number)
    asked = Release(key, plan, plan.training_prices(), {}, dict, {"site": "alpha"}, Envelope({}))
    try:
        release(asked, ledger=ledger, policy=policy, declared=40)
    except Refused as refused:
        print(refused, flush=True)
"""


@pytest.mark.slow
def test_two_processes_cannot_spend_one_budget_twice(
    plan: Plan, path: Path, tmp_path: Path
) -> None:
    # Room for the plan's three rounds; each process asks for five of its own.
    command = [sys.executable, "-c", _SPENDER, str(path), str(write_plan(plan, tmp_path))]
    root, pipe = Path(__file__).parents[2], subprocess.PIPE
    spenders = [
        subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    for spender in spenders:
        assert spender.stdout is not None
        assert spender.stdout.readline() == "ready\n"
    for first, spender in zip((1, 11), spenders, strict=True):
        assert spender.stdin is not None
        spender.stdin.write(f"{first}\n")
        spender.stdin.flush()
    refused = 0
    for spender in spenders:
        output, errors = spender.communicate()
        assert spender.returncode == 0, errors
        refused += output.count(Reason.BUDGET)
    assert (len(releases(path)), refused) == (3, 7)
    ledger = Ledger(path)
    assert ledger.verify().ok
    ledger.close()


def test_a_release_cannot_be_made_without_naming_its_price(plan: Plan) -> None:
    with pytest.raises(TypeError, match="price"):
        Release(Key("d", "r", "train", 1), plan, like=LIKE, compute=never, public={})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04pickle",
        b"\xff" * 64,
        encode({}),
        encode({**LIKE, "more": torch.zeros(1)}),
        encode({"w": torch.zeros(2, 2)}),
        encode({"w": torch.zeros(2, dtype=torch.int64)}),
        encode({"w": torch.tensor([0.0, math.nan])}),
        encode({"w": torch.tensor([math.inf, 0.0])}),
        # A type that safetensors knows and PyTorch does not.
        (b"\x40" + bytes(7) + b'{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}').ljust(72)
        + b"\0",
    ],
    ids=["empty", "pickle", "junk", "none", "extra", "shape", "integers", "nan", "inf", "type"],
)
def test_weights_that_do_not_fit_the_model_are_malformed(payload: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode_fitting(payload, LIKE)
    assert caught.value.reason is Reason.MALFORMED


def test_weights_that_fit_are_taken_in_the_models_order() -> None:
    like = {"b": torch.zeros(1), "a": torch.zeros(1)}
    assert list(decode_fitting(encode(like), like)) == ["b", "a"]
