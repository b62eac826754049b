"""The server's state on disk after each round: safetensors, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from common.errors import RunError
from common.files import write_atomic
from common.learners.types import State
from common.params import Params

_PARAMS, _OWN = "params", "own"


def checkpoint_folder(run_dir: Path, job: str) -> Path:
    """Return the folder of a job's checkpoints."""
    return run_dir / "checkpoints" / job


def save_state(state: State, folder: Path, *, digest: str, keep: frozenset[int]) -> Path:
    """Write the state of a round, then remove the one before unless its round is to be kept.

    Args:
        state: What to write.
        folder: The job's checkpoint folder.
        digest: Of the study, so that nobody resumes with another.
        keep: Rounds whose checkpoints stay, for learning curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = {_PARAMS: state.params, _OWN: state.own, **state.moments}
    tensors = {f"{group}/{k}": v.contiguous() for group, p in groups.items() for k, v in p.items()}
    # The names in their order, which safetensors does not keep and sums depend on.
    header = {"digest": digest, "round": str(state.round), "names": json.dumps(list(tensors))}
    path = folder / _name(state.round)
    write_atomic(path, save(tensors, metadata=header))
    before = state.round - 1
    if before not in keep:
        (folder / _name(before)).unlink(missing_ok=True)
    return path


def load_state(path: Path, *, digest: str | None = None) -> State:
    """Read a state that `save_state` wrote.

    Raises:
        RunError: the file is unreadable, or belongs to another study.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            # Copied: a product of matrices may differ in its last bit with where they lie.
            tensors = {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118
        names, number = json.loads(header["names"]), int(header["round"])
        values: dict[str, Params] = {}
        for name in names:
            group, weight = name.split("/", 1)
            values.setdefault(group, {})[weight] = tensors[name]
        params, own = values.pop(_PARAMS), values.pop(_OWN, {})
        state = State(params=params, moments=values, round=number, own=own)
        owner = header["digest"]
    except Exception as error:  # safetensors raises its own type, without a public name
        raise RunError(
            f"checkpoint {str(path)!r} cannot be read: {error}",
            remedy="remove it; the run then resumes from the one before, or from the start",
        ) from None
    if digest is not None and owner != digest:
        raise RunError(
            f"checkpoint {str(path)!r} belongs to study {owner[:12]}...",
            remedy="resume with the study the run was started with",
        )
    return state


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a job, or None."""
    return max(folder.glob("round-*.safetensors"), default=None)


def at_round(folder: Path, number: int) -> Path:
    """Return where the checkpoint of a round lies."""
    return folder / _name(number)


def curve_rounds(count: int, *, points: int = 20) -> frozenset[int]:
    """Return the rounds of a learning curve: at most about `points`, the first and last among them.

    >>> sorted(curve_rounds(4))
    [0, 1, 2, 3, 4]
    >>> len(curve_rounds(1000))
    21
    """
    number = min(count, points)
    return frozenset(round(i * count / number) for i in range(number + 1))


def _name(number: int) -> str:
    return f"round-{number:05d}.safetensors"
