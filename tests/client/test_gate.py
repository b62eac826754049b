"""The one door: what happens in which order, what is charged, and what gets out."""

from __future__ import annotations

import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from client.gate import Release, decode_fitting, release
from client.ledger import Key, Ledger
from client.policy import Policy, Reason, Refused
from common.codec import decode, encode
from common.errors import GrandroundsError
from common.params import Params
from common.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.events import merge
from common.wire import Envelope
from tests.small_world import roomy, small_plan

LIKE = {"w": torch.zeros(2)}
GOOD = {"w": torch.tensor([1.0, 2.0])}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def asked(
    plan: Plan, compute: Callable[[], Params] = lambda: GOOD, *, number: int = 1, run: str = "main"
) -> Release:
    key = Key(plan.digest, run, "train", number)
    return Release(key, plan, (plan.training_price(),), LIKE, compute, {"site": "alpha"})


def ask(release_: Release, ledger: Ledger, policy: Policy | None = None) -> Envelope:
    policy = policy or roomy(release_.plan, epsilon=1e3)
    return release(release_, ledger=ledger, policy=policy, declared=40)


def refusal(release_: Release, ledger: Ledger, policy: Policy | None = None) -> Reason:
    with pytest.raises(Refused) as caught:
        ask(release_, ledger, policy)
    return caught.value.reason


def rows(path: Path) -> list[tuple[str, str, bytes | None]]:
    """Read the ledger as another program would: through its own connection."""
    db = sqlite3.connect(path)
    found = db.execute("SELECT state, events, reply FROM entries ORDER BY id").fetchall()
    db.close()
    return found


def never() -> Params:
    raise AssertionError("patients were read")


def test_the_price_is_in_the_file_before_patients_are_read_and_the_reply_only_after_the_check(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Break it once: commit before compute, or reserve after it.
    seen = []

    def compute() -> Params:
        seen.extend(rows(path))
        return GOOD

    answer = ask(asked(plan, compute), ledger)
    [(state, events, reply)] = seen
    assert state == "reserved"
    assert '"part": "train"' in events
    assert reply is None
    assert [(s, r) for s, _, r in rows(path)] == [("committed", answer.payload)]


def test_the_policy_is_asked_before_the_reserve_and_about_the_ledger_with_the_release(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    seen = []

    class Watching(Policy):
        def objection(self, plan, *, declared, run, accounts):
            accounts = list(accounts)
            seen.append((len(rows(path)), accounts, declared, run))

    ask(asked(plan), ledger, Watching(epsilon=1, delta=0.1))
    [(entries, [account], declared, run)] = seen
    assert (entries, declared, run) == (0, 40, "main")
    assert account.events == (plan.training_price(),)


def test_what_the_policy_sees_is_what_is_charged_though_another_process_writes(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Two agents on one folder could each find room for the last release. Break it once: check and
    # reserve in two transactions.
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    locked = []

    class Racing(Policy):
        def objection(self, plan, *, declared, run, accounts):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            locked.append(True)

    def compute() -> Params:
        other.execute("BEGIN IMMEDIATE")  # computing holds nobody up
        other.execute("ROLLBACK")
        return GOOD

    ask(asked(plan, compute), ledger, Racing(epsilon=1, delta=0.1))
    other.close()
    assert locked == [True]


def test_a_refused_release_computes_nothing_and_writes_nothing(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    policy = roomy(plan, epsilon=1e-6)
    assert refusal(asked(plan, never), ledger, policy) is Reason.BUDGET
    assert rows(path) == []


def test_the_same_request_twice_is_computed_once_and_charged_once(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    # Break it once: skip the replay check.
    first = ask(asked(plan), ledger)
    second = ask(asked(plan, never), ledger)
    assert second == first
    assert decode(first.payload)["w"].tolist() == [1.0, 2.0]
    assert len(rows(path)) == 1


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
    assert len(rows(path)) == 2


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_crash_after_the_reserve_leaves_the_price_and_the_next_ask_pays_again(
    plan: Plan, ledger: Ledger, path: Path, failure: type[BaseException]
) -> None:
    # Break it once: refund on failure.
    def crash() -> Params:
        raise failure

    with pytest.raises(failure):
        ask(asked(plan, crash), ledger)
    assert [s for s, _, _ in rows(path)] == ["reserved"]
    answer = ask(asked(plan), ledger)
    assert [s for s, _, _ in rows(path)] == ["reserved", "committed"]
    assert answer.header["reserves"] == 2
    twice = merge([plan.training_price()] * 2)
    assert answer.header["epsilon"] == epsilon(twice, delta=plan.delta)


def test_crashes_use_up_the_budget(plan: Plan, ledger: Ledger, path: Path) -> None:
    def crash() -> Params:
        raise RuntimeError

    policy = roomy(plan, epsilon=plan.epsilon_after(2) + 1e-9)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            ask(asked(plan, crash), ledger, policy)
    assert refusal(asked(plan, never), ledger, policy) is Reason.BUDGET
    assert len(rows(path)) == 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from client.gate import Release, release
from client.ledger import Key, Ledger
from common.plan import read_plan
from tests.small_world import roomy

def die():
    os.kill(os.getpid(), signal.SIGKILL)

plan = read_plan(Path(sys.argv[2]))
asked = Release(Key(plan.digest, "main", "train", 1), plan, (plan.training_price(),), {}, die, {})
release(asked, ledger=Ledger(sys.argv[1]), policy=roomy(plan), declared=40)
"""


def test_a_process_killed_while_it_computes_has_paid(
    plan: Plan, path: Path, tmp_path: Path
) -> None:
    from common.plan import write_plan

    command = [sys.executable, "-c", _KILLED, str(path), str(write_plan(plan, tmp_path))]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    ledger = Ledger(path)
    [account] = ledger.accounts()
    assert (account.events, account.reserves) == ((plan.training_price(),), 1)
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
    assert [(s, r) for s, _, r in rows(path)] == [("reserved", None)]


def test_a_reply_that_is_no_longer_kept_is_not_computed_again(
    plan: Plan, ledger: Ledger, path: Path
) -> None:
    ask(asked(plan, number=1), ledger)
    ask(asked(plan, number=2), ledger)
    assert refusal(asked(plan, never, number=1), ledger) is Reason.ALREADY_ANSWERED
    assert len(rows(path)) == 2


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
    }


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
