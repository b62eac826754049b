"""The finished models that a coordinator delivered to this site.

DIR/models/<run>/model.safetensors    the shared weights
DIR/models/<run>/model_card.md        what the coordinator says about them
DIR/models/<run>/<digest>.toml        the plan that the site had approved
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from client.heads import with_kept
from client.ledger import Ledger
from client.site import load_site
from common.codec import decode
from common.errors import SiteError, WireError
from common.files import write_atomic
from common.models import shapes_of
from common.params import Params, misfit
from common.plan import Plan, read_plan, write_plan

FOLDER, MODEL, CARD = "models", "model.safetensors", "model_card.md"
MOST_CARD = 1 << 20  # characters; a card has a few thousand

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Received:
    """A delivered model, read and held to its plan.

    Attributes:
        run: The run that made it.
        plan: The study as the site had approved it.
        params: The shared weights, with those that this hospital keeps to itself.
    """

    run: str
    plan: Plan
    params: Params


def keep(folder: Path, *, ledger: Ledger, digest: str, run: str, payload: bytes, card: str) -> Path:
    """Keep a run's finished model; the same model delivered again changes nothing.

    Files come before the ledger's entry, so after a crash in between the next delivery adds it.

    Args:
        folder: The site's folder.
        ledger: Gets one entry of kind `delivery`, with the SHA-256 of the payload.
        digest: The study's digest, approved here.
        run: The run's name at this site; a plain file name.
        payload: The weights, a safetensors document.
        card: The model card, Markdown.

    Returns:
        The folder of the run's model.

    Raises:
        WireError: the run's name, the weights or the card do not fit, or the run was delivered
            before with other weights or of another study.
        SiteError: the study is not approved here.
    """
    if not RUN_NAME.fullmatch(run):
        raise WireError(
            f"run {run!r} is no plain name",
            remedy="use up to 128 letters, digits, '.', '_' and '-', a letter or digit first",
        )
    if len(card) > MOST_CARD:
        raise WireError(
            f"the model card has {len(card)} characters", remedy=f"send at most {MOST_CARD}"
        )
    plan = load_site(folder).approved(digest)
    if plan is None:
        raise SiteError(
            f"study {digest[:12]} is not approved here", remedy="approve the study first"
        )
    _check(decode(payload), plan, what="the delivered model")
    where = _write(folder, plan, run=run, payload=payload, card=card)
    body = {"digest": digest, "run": run, "sha256": hashlib.sha256(payload).hexdigest()}
    with ledger.transaction():
        if not any(body.items() <= entry.body.items() for entry in ledger.entries("delivery")):
            ledger.record("delivery", body)
    return where


def _write(folder: Path, plan: Plan, *, run: str, payload: bytes, card: str) -> Path:
    where = folder / FOLDER / run
    model = where / MODEL
    if model.is_file():
        if model.read_bytes() != payload or not (where / f"{plan.digest}.toml").is_file():
            raise WireError(
                f"run {run!r} was delivered before with other weights or of another study",
                remedy="deliver a new run under a name of its own",
            )
        return where
    for one in (where.parent, where):
        one.mkdir(mode=0o700, exist_ok=True)
    write_plan(plan, where).chmod(0o600)
    write_atomic(where / CARD, _readable(card), mode=0o600)
    write_atomic(model, payload, mode=0o600)  # last: with it the delivery is whole
    return where


def _readable(card: str) -> str:
    """Return the card without what could steer the terminal that shows it."""
    return "".join(c for c in card if c.isprintable() or c in "\n\t")


def runs(folder: Path) -> list[str]:
    """Return the runs whose models were delivered here, the newest first."""
    found = [path for path in (folder / FOLDER).glob(f"*/{MODEL}") if path.is_file()]
    found.sort(key=lambda path: (-path.stat().st_mtime_ns, path.parent.name))
    return [path.parent.name for path in found]


def load(folder: Path, run: str | None = None) -> Received:
    """Return a delivered model.

    Args:
        folder: The site's folder.
        run: Which; without it the newest, where all delivered models are of one study.

    Raises:
        SiteError: no model was delivered, or not of that run, or the choice is open.
        StudyError: the plan beside the model was edited.
        WireError: the model's file is damaged or was exchanged.
    """
    known = runs(folder)
    if not known:
        raise SiteError(
            f"no model has been delivered to site folder {str(folder)!r}",
            remedy="ask the coordinator: grandrounds server deliver DIR RUN",
        )
    if run is not None and run not in known:
        raise SiteError(
            f"--run is {run!r}, and no such model was delivered here (but {', '.join(known)})",
            remedy="name one of those",
        )
    if run is None and len({_plan_file(folder, name).stem for name in known}) > 1:
        raise SiteError(
            f"models of several studies were delivered here (runs {', '.join(known)})",
            remedy="say which with --run",
        )
    return _load(folder, run or known[0])


def _load(folder: Path, run: str) -> Received:
    plan = read_plan(_plan_file(folder, run))
    path = folder / FOLDER / run / MODEL
    try:
        params = decode(path.read_bytes())
    except WireError as error:
        raise WireError(
            f"model file {str(path)!r} cannot be read", remedy="have it delivered again"
        ) from error
    fitting = _check(params, plan, what=f"model file {str(path)!r}")
    last = plan.study.rounds.count + 1
    return Received(run, plan, with_kept(folder, fitting, digest=plan.digest, run=run, before=last))


def _plan_file(folder: Path, run: str) -> Path:
    plans = sorted((folder / FOLDER / run).glob("*.toml"))
    if len(plans) != 1:
        raise SiteError(
            f"the model of run {run!r} has {len(plans)} plans beside it instead of one",
            remedy="move the run's folder away and have the model delivered again",
        )
    return plans[0]


def _check(params: Params, plan: Plan, *, what: str) -> Params:
    """Return the weights in the model's own order, or say what does not fit."""
    like = shapes_of(plan.study)
    wrong = misfit(params, like)
    if wrong is not None:
        raise WireError(
            f"{what} does not fit the study's model: {wrong}",
            remedy="have the model of an approved study delivered",
        )
    return {name: params[name] for name in like}
