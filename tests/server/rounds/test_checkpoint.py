"""Checkpoints: whole or not there, and the state that comes back is the one that was written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import RunError
from common.learners.types import State
from server.rounds.checkpoint import (
    at_round,
    checkpoint_folder,
    curve_rounds,
    latest,
    load_state,
    save_state,
)

DIGEST = "d" * 64


def state(number: int) -> State:
    # 'z' before 'a': the order of the names is the model's, and sums depend on it.
    params = {"z.w": torch.tensor([[0.1, -1e-30]]), "a": torch.tensor(float(number))}
    moments = {g: {k: s * v for k, v in params.items()} for g, s in (("second", 3), ("first", 5))}
    return State(params, moments, number)


def save(folder: Path, number: int, *, keep: frozenset[int] = frozenset()) -> Path:
    return save_state(state(number), folder, digest=DIGEST, keep=keep)


def test_a_state_comes_back_bit_for_bit_in_its_own_order(tmp_path: Path) -> None:
    loaded = load_state(save(tmp_path, 7), digest=DIGEST)
    assert loaded.round == 7
    assert list(loaded.params) == ["z.w", "a"]
    assert set(loaded.moments) == {"first", "second"}
    for name, params in {"": state(7).params, **state(7).moments}.items():
        found = loaded.moments[name] if name else loaded.params
        assert all(
            torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in params.items()
        )


def test_a_state_without_moments_has_none_when_it_comes_back(tmp_path: Path) -> None:
    path = save_state(State(state(0).params), tmp_path, digest=DIGEST, keep=frozenset())
    assert load_state(path).moments == {}


def test_a_checkpoint_of_another_study_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(RunError, match="belongs to study dddddddddddd") as caught:
        load_state(path, digest="e" * 64)
    assert "the study the run was started with" in caught.value.remedy
    assert load_state(path).round == 1


def test_the_newest_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "absent") is None
    for number in (9, 10):
        save(tmp_path, number, keep=frozenset({9}))
    assert latest(tmp_path) == at_round(tmp_path, 10)


def test_only_the_newest_and_the_curves_rounds_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path, number, keep=frozenset({0, 2}))
    assert [int(p.stem[6:]) for p in sorted(tmp_path.iterdir())] == [0, 2, 4]


@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = save(tmp_path, 1).read_bytes()
    if where == "write":
        monkeypatch.setattr("common.files.os.fsync", full)
    else:
        monkeypatch.setattr("common.files.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [at_round(tmp_path, 1).name]
    assert at_round(tmp_path, 1).read_bytes() == before


def test_what_a_killed_process_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / f".{at_round(tmp_path, 2).name}.abc").write_bytes(b"half")
    assert latest(tmp_path) == at_round(tmp_path, 1)


def test_a_file_that_is_no_checkpoint_is_named_with_a_remedy(tmp_path: Path) -> None:
    whole = save(tmp_path, 3).read_bytes()
    path = tmp_path / "broken.safetensors"
    for content in (b"", b"pickle", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"broken\.safetensors.* cannot be read") as caught:
            load_state(path)
        assert "resumes" in caught.value.remedy


@pytest.mark.parametrize(
    "header",
    [
        None,
        {"round": "1"},
        {"names": '["w"]', "round": "1"},
        {"names": '["v"]', "round": "1", "digest": DIGEST},
        {"names": '["w"]', "round": "one", "digest": DIGEST},
    ],
)
def test_other_tensors_are_no_checkpoint(tmp_path: Path, header: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"params/w": torch.zeros(1)}, path, metadata=header)
    with pytest.raises(RunError, match="cannot be read"):
        load_state(path, digest=DIGEST)


def test_jobs_do_not_share_checkpoints(tmp_path: Path) -> None:
    save(checkpoint_folder(tmp_path, "one"), 1)
    assert latest(checkpoint_folder(tmp_path, "two")) is None


@pytest.mark.parametrize("count", [1, 7, 20, 21, 333])
def test_a_learning_curve_has_its_two_ends_and_at_most_its_points(count: int) -> None:
    rounds = curve_rounds(count)
    assert {0, count} <= rounds <= set(range(count + 1))
    assert len(rounds) <= 21
