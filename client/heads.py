"""Weights that a hospital keeps to itself from round to round: DIR/kept/DIGEST/RUN/ROUND.

Of a learner with a shared body the head stays here. It was trained by steps that were paid for, so
that what is released through it later costs nothing more (`common.learners.fedrep`). A round starts
from what the newest round before it left behind; where nothing is kept (a first round, a folder
restored from a backup), from the weights that the coordinator sent.
"""

from __future__ import annotations

from pathlib import Path

from common.codec import decode, encode
from common.errors import WireError
from common.files import write_atomic
from common.params import Params, misfit


def keep(folder: Path, params: Params, *, digest: str, run: str, number: int) -> None:
    """Keep weights as of the end of a round; a round computed again replaces its own."""
    path = _folder(folder, digest, run) / f"{number:05d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, encode(params), mode=0o600)


def with_kept(folder: Path, params: Params, *, digest: str, run: str, before: int) -> Params:
    """Return `params` with what this hospital kept of its own before that round.

    A file that does not fit the model, or cannot be read, counts as none: the round can go on
    without it.
    """
    for path in sorted(_folder(folder, digest, run).glob("*.safetensors"), reverse=True):
        if path.stem.isdigit() and int(path.stem) < before:
            own = _read(path, params)
            if own is not None:
                return {**params, **own}
    return params


def _folder(folder: Path, digest: str, run: str) -> Path:
    return folder / "kept" / digest / run


def _read(path: Path, params: Params) -> Params | None:
    try:
        own = decode(path.read_bytes())
    except (OSError, WireError):
        return None
    known = {name: params[name] for name in own if name in params}
    return own if misfit(own, known) is None else None
