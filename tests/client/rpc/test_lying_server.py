"""A coordinator that lies, at the relay's door of a real agent: refused, logged, nothing spent.

Whatever it sends, the agent stays well, and the next honest request is answered. What is no message
at all is in `test_lying_messages.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from client.policy import Reason
from common.codec import encode
from common.params import Params
from common.plan import write_plan
from tests.client.rpc.lied_to import ROUNDS, Hospital, approved_site, lied_to, theta, weights
from tests.ledger_reader import releases
from tests.small_world import small_plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def approved() -> Iterator[Path]:
    with approved_site() as folder:
        yield folder


@pytest.fixture
def hospital(approved: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Hospital]:
    with lied_to(approved, caplog) as hospital:
        yield hospital


# Another study than the one approved

OTHERS: dict[str, dict[str, Any]] = {
    "less noise": {"privacy": {"sigma": 0.5}},
    "more steps": {"learner": {"local_steps": 50}},
    "more rounds": {"rounds": {"count": ROUNDS + 1}},
    "a larger clip": {"privacy": {"clip": 100.0}},
    "another model": {"model": {"name": "mlp", "hidden": [8]}},
    "no privacy at all": {"privacy": None},
}


@pytest.mark.parametrize("tables", OTHERS.values(), ids=OTHERS.keys())
def test_a_study_that_was_not_approved_is_unknown(
    hospital: Hospital, tables: dict[str, Any]
) -> None:
    other = small_plan(**{"rounds": {"count": ROUNDS}, **tables})
    assert other.digest != hospital.plan.digest
    answer = hospital.ask(digest=other.digest, payload=weights(other))
    hospital.assert_refused(answer, Reason.UNKNOWN_STUDY)


@pytest.mark.parametrize("digest", ["0" * 64, "", "../approved/x", "approved", "A" * 64])
def test_a_digest_that_stands_for_nothing_is_unknown(hospital: Hospital, digest: str) -> None:
    hospital.assert_refused(hospital.ask(digest=digest), Reason.UNKNOWN_STUDY)


def test_what_a_request_says_of_noise_and_steps_is_not_heard(hospital: Hospital) -> None:
    """The plan is the hospital's copy: no header can change it, and the price is the plan's."""
    lies = {"sigma": 0.0, "local_steps": 999, "clip": 1e9, "model": "mlp", "declared": 1}
    hospital.rounds = 1
    answer = hospital.ask(**lies, plan={"sigma": 0}, price=[], site="beta", status="ok")
    assert answer.header["epsilon"] == hospital.plan.epsilon_after(1)
    assert answer.header["site"] == "alpha"
    [line] = releases(hospital.folder / "ledger.sqlite")
    [event] = line.events
    assert (event["sigma"], event["count"]) == (4.0, 2)
    hospital.assert_unharmed()


def test_a_plan_put_in_the_place_of_an_approved_one_is_not_run(hospital: Hospital) -> None:
    """Whoever could write to the site's folder: the content is held to the name."""
    approved = hospital.folder / "approved"
    honest = approved / f"{hospital.plan.digest}.toml"
    kept = honest.read_bytes()
    evil = small_plan(rounds={"count": ROUNDS}, privacy={"sigma": 0.5})
    content = write_plan(evil, hospital.folder).read_bytes()
    honest.write_bytes(content)
    answer = hospital.ask()
    honest.write_bytes(kept)
    assert "does not hold the study" in (hospital.folder / "site.log").read_text()
    assert answer.header["reason"] == str(Reason.FAILED)
    assert hospital.refusals() == ["FAILED"]
    hospital.assert_unharmed()


@pytest.mark.parametrize("name", ["evil", "f" * 64, "../alpha/evil"])
def test_a_plan_under_a_name_that_is_not_its_digest_is_not_run(
    hospital: Hospital, name: str
) -> None:
    evil = small_plan(rounds={"count": ROUNDS}, privacy={"sigma": 0.5})
    approved = hospital.folder / "approved"
    write_plan(evil, hospital.folder).rename(approved / f"{Path(name).name}.toml")
    reason = Reason.FAILED if len(name) == 64 else Reason.UNKNOWN_STUDY
    hospital.assert_refused(hospital.ask(digest=name), reason)


# Other weights than the model's

NAN, INF = math.nan, math.inf
FAULTS: dict[str, Callable[[Params, str], Params]] = {
    "nan": lambda w, n: {**w, n: torch.full_like(w[n], NAN)},
    "one nan": lambda w, n: {**w, n: w[n].index_fill(-1, torch.tensor([0]), NAN)},
    "infinite": lambda w, n: {**w, n: torch.full_like(w[n], -INF)},
    "transposed": lambda w, n: {**w, n: w[n].unsqueeze(0)},
    "empty": lambda w, n: {**w, n: w[n][..., :0]},
    "huge shape": lambda w, n: {**w, n: torch.zeros(1000, 1000)},
    "doubles": lambda w, n: {**w, n: w[n].double()},
    "halves": lambda w, n: {**w, n: w[n].half()},
    "integers": lambda w, n: {**w, n: w[n].long()},
    "complex": lambda w, n: {**w, n: w[n].to(torch.complex64)},
    "extra": lambda w, n: {**w, "extra": torch.zeros(1)},
    "missing": lambda w, n: {k: v for k, v in w.items() if k != n},
    "renamed": lambda w, n: {(f"{k}\n" if k == n else k): v for k, v in w.items()},
    "none": lambda w, n: {},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize(("kind", "number"), [("train", 1), ("evaluate", ROUNDS)])
def test_weights_that_are_not_the_models_are_malformed(
    hospital: Hospital, kind: str, number: int, fault: Callable[[Params, str], Params]
) -> None:
    params = theta(hospital.plan)
    payload = save(fault(params, next(iter(params))))  # a liar has a codec of its own
    answer = hospital.ask(kind=kind, round=number, payload=payload)
    hospital.assert_refused(answer, Reason.MALFORMED)


def test_the_same_round_with_other_weights_is_refused_and_the_first_answer_stands(
    hospital: Hospital,
) -> None:
    first = hospital.work()
    moved = encode({k: v + 1e-3 for k, v in theta(hospital.plan).items()})
    again = hospital.ask(payload=moved)
    assert hospital.ask() == first
    hospital.assert_refused(again, Reason.CHANGED_REQUEST)


# Rounds, runs and counts

ROUND = [0, ROUNDS + 1, -1, -(2**63), 2**31, 2**64, 10**300]
NO_ROUND = [True, False, None, 1.0, 0.5, NAN, INF, "1", "", [1], {"round": 1}]


@pytest.mark.parametrize("number", ROUND)
def test_a_round_that_the_plan_does_not_have_is_refused(hospital: Hospital, number: int) -> None:
    hospital.assert_refused(hospital.ask(round=number), Reason.OUT_OF_PLAN)


@pytest.mark.parametrize(("kind", "number"), [("join", 1), ("evaluate", 1), ("deliver", 1)])
def test_a_phase_at_another_round_than_its_own_is_refused(
    hospital: Hospital, kind: str, number: int
) -> None:
    answer = hospital.ask(kind=kind, round=number)
    hospital.assert_refused(answer, Reason.OUT_OF_PLAN)


@pytest.mark.parametrize("number", NO_ROUND, ids=repr)
def test_a_round_that_is_no_number_is_malformed(hospital: Hospital, number: object) -> None:
    hospital.assert_refused(hospital.ask(round=number), Reason.MALFORMED)


RUNS = [
    *("../../etc/passwd", "/etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "run\0", "run\n"),
    *("", " 0", "r" * 129, "\x1b[2J\x1b]0;owned\x07", "<script>", "é", "\ud800", "${HOME}", "~"),
    *("-rf", "run;id"),
]


@pytest.mark.parametrize("run", RUNS, ids=ascii)
def test_a_run_is_a_plain_name(hospital: Hospital, run: str) -> None:
    before = set(hospital.folder.parent.rglob("*"))
    for kind, number in {"join": 0, "train": 1, "evaluate": ROUNDS, "deliver": ROUNDS}.items():
        answer = hospital.ask(kind=kind, run=run, round=number)
        assert answer.header["reason"] == str(Reason.MALFORMED)
    # Nothing new but the site's log: no folder anywhere.
    made = set(hospital.folder.parent.rglob("*")) - before
    assert {path.name for path in made} == {"site.log"}
    hospital.assert_refused(answer, Reason.MALFORMED)


def test_a_run_more_than_was_approved_is_refused(hospital: Hospital) -> None:
    hospital.work()
    hospital.assert_refused(hospital.ask(run="another"), Reason.RUN_LIMIT)


@pytest.mark.parametrize("kind", ["peek", "__init__", "_train", "handle", "", 7, None, ["train"]])
def test_a_kind_that_there_is_none_of_is_malformed(hospital: Hospital, kind: object) -> None:
    hospital.assert_refused(hospital.ask(kind=kind), Reason.MALFORMED)


@pytest.mark.parametrize("seen", [2**64, 10**300, -1, True, 1.0, "1"])
def test_a_count_that_is_none_is_malformed(hospital: Hospital, seen: object) -> None:
    hospital.assert_refused(hospital.ask(seen=seen), Reason.MALFORMED)


@pytest.mark.parametrize("seen", [2, 3, 10_000, 2**53])
@pytest.mark.parametrize("tag", [None, "", "0" * 64, "of another count"])
def test_a_count_that_no_receipt_of_this_hospital_bears_out_blocks_nothing(
    hospital: Hospital, seen: int, tag: str | None
) -> None:
    """Break it once: believe the number, and the site stops until it pays for a whole plan."""
    given = hospital.work().header["tag"]
    proof = {} if tag is None else {"tag": given if tag.startswith("of") else tag}
    hospital.assert_refused(hospital.ask(round=2, seen=seen, **proof), Reason.FALSE_RECEIPT)
    assert hospital.agent.ledger.entries("behind") == []


# The finished model


def test_hostile_weights_are_no_finished_model(hospital: Hospital) -> None:
    params = theta(hospital.plan)
    payload = encode({**params, next(iter(params)): torch.full((1,), NAN)})
    answer = hospital.ask(kind="deliver", round=ROUNDS, payload=payload, card="# Card")
    assert not any((hospital.folder / "models").iterdir())
    hospital.assert_refused(answer, Reason.MALFORMED)


@pytest.mark.parametrize("card", [7, None, ["# Card"], {"a": 1}])
def test_a_card_that_is_no_text_is_malformed(hospital: Hospital, card: object) -> None:
    answer = hospital.ask(kind="deliver", round=ROUNDS, card=card)
    assert not any((hospital.folder / "models").iterdir())
    hospital.assert_refused(answer, Reason.MALFORMED)


def test_a_card_cannot_steer_a_terminal_nor_leave_its_folder(hospital: Hospital) -> None:
    card = "# Card\x1b]0;owned\x07\x1b[2J\r\x9b1m\u202e\n<script src=x></script> ![](file:///etc)\n"
    answer = hospital.ask(kind="deliver", round=ROUNDS, card=card)
    assert answer.header["status"] == "ok"
    where = hospital.folder / "models" / "main"
    kept = (where / "model_card.md").read_text()
    assert all(c.isprintable() or c == "\n" for c in kept)
    expected = {"model_card.md", "model.safetensors", f"{hospital.plan.digest}.toml"}
    assert {path.name for path in where.iterdir()} == expected
    assert {path.stat().st_mode & 0o777 for path in where.iterdir()} == {0o600}
    hospital.assert_unharmed()


def test_a_model_that_was_delivered_is_not_exchanged(hospital: Hospital) -> None:
    assert hospital.ask(kind="deliver", round=ROUNDS).header["status"] == "ok"
    model = hospital.folder / "models" / "main" / "model.safetensors"
    before = model.read_bytes()
    moved = encode({k: v + 1 for k, v in theta(hospital.plan).items()})
    again = hospital.ask(kind="deliver", round=ROUNDS, payload=moved)
    assert model.read_bytes() == before
    hospital.assert_refused(again, Reason.CHANGED_REQUEST)
