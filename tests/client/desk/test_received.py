"""Delivered models: kept once, whole, for the hospital's own user, and only where they fit."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from client.desk.received import CARD, MODEL, keep, load, runs
from client.ledger import Ledger
from common.codec import encode
from common.errors import GrandroundsError, SiteError, StudyError, WireError
from common.models import build, params_of
from common.params import Params
from tests.small_world import hospital, small_plan

PLAN = small_plan()
OTHER = small_plan(name="other")


def weights(value: float = 0.5) -> Params:
    like = params_of(build(PLAN.study))
    return {name: torch.full_like(tensor, value) for name, tensor in like.items()}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    hospital(tmp_path / "site", PLAN, OTHER)
    ledger = Ledger(tmp_path / "site" / "ledger.sqlite", durable=False)
    yield ledger
    ledger.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


def deliver(folder: Path, ledger: Ledger, **changes: object) -> Path:
    usual = {"digest": PLAN.digest, "run": "run-1", "payload": encode(weights()), "card": "# Card"}
    return keep(folder, ledger=ledger, **{**usual, **changes})  # type: ignore[arg-type]


def test_a_model_is_kept_with_its_card_its_plan_and_an_entry(folder: Path, ledger: Ledger) -> None:
    where = deliver(folder, ledger)
    assert where == folder / "models" / "run-1"
    assert (where / CARD).read_text() == "# Card"
    found = load(folder)
    assert found.run == "run-1"
    assert found.plan.digest == PLAN.digest
    assert all(torch.equal(found.params[name], weights()[name]) for name in weights())
    (entry,) = ledger.entries("delivery")
    sha256 = hashlib.sha256(encode(weights())).hexdigest()
    body = {"digest": PLAN.digest, "run": "run-1", "sha256": sha256}
    assert body.items() <= entry.body.items()


def test_only_the_sites_own_user_can_read_it(folder: Path, ledger: Ledger) -> None:
    before = os.umask(0)
    try:
        where = deliver(folder, ledger)
    finally:
        os.umask(before)
    files = [p for p in (folder / "models").rglob("*") if p.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (where, where.parent)} == {0o700}


def test_the_same_model_again_changes_nothing(folder: Path, ledger: Ledger) -> None:
    first = (deliver(folder, ledger) / MODEL).stat().st_mtime_ns
    assert (deliver(folder, ledger) / MODEL).stat().st_mtime_ns == first
    assert len(ledger.entries("delivery")) == 1


def test_an_entry_lost_in_a_crash_is_made_up_for(folder: Path, ledger: Ledger, tmp_path: Path):
    empty = Ledger(tmp_path / "other.sqlite", durable=False)
    deliver(folder, empty)
    empty.close()
    deliver(folder, ledger)
    assert len(ledger.entries("delivery")) == 1


def test_another_model_under_the_same_run_is_refused(folder: Path, ledger: Ledger) -> None:
    deliver(folder, ledger)
    with pytest.raises(WireError, match="delivered before with other weights"):
        deliver(folder, ledger, payload=encode(weights(0.25)))
    with pytest.raises(WireError, match="or of another study"):
        deliver(folder, ledger, digest=OTHER.digest)
    assert torch.equal(load(folder).params["body.1.bias"], weights()["body.1.bias"])


def not_finite() -> Params:
    return weights(float("nan"))


def wrong_shape() -> Params:
    return {name: tensor[:1] for name, tensor in weights().items()}


def wrong_type() -> Params:
    return {name: tensor.double() for name, tensor in weights().items()}


@pytest.mark.parametrize("make", [not_finite, wrong_shape, wrong_type, dict])
def test_weights_that_do_not_fit_are_refused(folder: Path, ledger: Ledger, make) -> None:
    with pytest.raises(WireError, match="does not fit the study's model"):
        deliver(folder, ledger, payload=encode(make()))
    assert not (folder / "models").exists()
    assert not ledger.entries("delivery")


@pytest.mark.parametrize("run", ["", ".", "..", "../x", "a/b", "/etc", "a\x00", "x" * 129, "-rf"])
def test_a_run_cannot_lead_out_of_its_folder(folder: Path, ledger: Ledger, run: str) -> None:
    with pytest.raises(WireError, match="no plain name"):
        deliver(folder, ledger, run=run)
    assert not (folder / "models").exists()


def test_random_bytes_and_an_endless_card_are_refused(folder: Path, ledger: Ledger) -> None:
    with pytest.raises(WireError):
        deliver(folder, ledger, payload=b"\x07" * 100)
    with pytest.raises(WireError, match="model card has 1048577 characters"):
        deliver(folder, ledger, card="x" * ((1 << 20) + 1))
    assert not (folder / "models").exists()


def test_a_study_that_was_not_approved_delivers_nothing(folder: Path, ledger: Ledger) -> None:
    with pytest.raises(SiteError, match="not approved"):
        deliver(folder, ledger, digest="ab" * 32)


def test_a_card_cannot_steer_a_terminal(folder: Path, ledger: Ledger) -> None:
    where = deliver(folder, ledger, card="a\x1b[2Jb\tc\nd")
    assert (where / CARD).read_text() == "a[2Jb\tc\nd"


def test_the_newest_model_is_loaded_unless_one_is_named(folder: Path, ledger: Ledger) -> None:
    for number, value in enumerate((0.1, 0.2), start=1):
        where = deliver(folder, ledger, run=f"run-{number}", payload=encode(weights(value)))
        os.utime(where / MODEL, (number, number))
    assert runs(folder) == ["run-2", "run-1"]
    assert load(folder).run == "run-2"
    assert load(folder, "run-1").run == "run-1"


def test_models_of_two_studies_must_be_told_apart(folder: Path, ledger: Ledger) -> None:
    deliver(folder, ledger)
    deliver(folder, ledger, run="run-2", digest=OTHER.digest)
    with pytest.raises(SiteError, match="several studies") as error:
        load(folder)
    assert "--run" in error.value.remedy
    assert load(folder, "run-2").plan.digest == OTHER.digest


def test_an_unknown_run_and_no_model_are_told(folder: Path, ledger: Ledger) -> None:
    with pytest.raises(SiteError, match="no model has been delivered"):
        load(folder)
    deliver(folder, ledger)
    with pytest.raises(SiteError, match=r"--run is 'run-9'.*but run-1"):
        load(folder, "run-9")


def test_files_that_were_exchanged_are_noticed(folder: Path, ledger: Ledger) -> None:
    where = deliver(folder, ledger)
    plan = where / f"{PLAN.digest}.toml"
    text = plan.read_text()
    plan.write_text(text.replace("count = 3", "count = 4"))
    with pytest.raises(StudyError, match="does not hold the study of that digest"):
        load(folder)
    plan.write_text(text)
    (where / MODEL).write_bytes(b"no tensors")
    with pytest.raises(WireError, match=r"model file .* cannot be read"):
        load(folder)
    plan.unlink()
    with pytest.raises(GrandroundsError, match="0 plans beside it"):
        load(folder, "run-1")
