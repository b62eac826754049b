"""The pages of a run folder, built from its metrics.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import RunError, StudyError
from common.files import write_atomic
from common.report.effect_page import effect_html
from common.report.fewshot_page import few_shot_html
from common.report.fewshot_values import FEW_SHOT
from common.report.loho_page import loho_html
from common.report.loho_values import LEAVE_ONE_OUT
from common.report.model_card import model_card
from common.report.page import report_html
from common.schema import read_toml
from server.effects import EFFECT
from server.store import FLOWER
from server.store import METRICS as METRICS


def write_pages(run_dir: Path) -> Path:
    """Write report.html, and model_card.md where there is one model; return the report.

    Raises:
        RunError: the folder holds no finished run.
    """
    metrics, page = read_metrics(run_dir), run_dir / "report.html"
    # Several models, or none: no card of one.
    several = {LEAVE_ONE_OUT: loho_html, FEW_SHOT: few_shot_html, EFFECT: effect_html}
    write = several.get(str(metrics.get("kind")))
    if write is not None:
        write_atomic(page, write(metrics))
    else:
        write_atomic(page, report_html(metrics))
        write_atomic(run_dir / "model_card.md", model_card(metrics))
    return page


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """Read a run's metrics.

    Raises:
        RunError: there are none, or they are malformed.
    """
    path = run_dir / METRICS
    resume = _resume(run_dir)
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{str(run_dir)!r} holds no {METRICS}",
            remedy=f"give the folder of a finished run; {resume} finishes one",
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{str(path)!r} cannot be read: {error}", remedy=f"write it again with {resume}"
        ) from None
    if not isinstance(metrics, dict) or not metrics.keys() & {"arms", "held_out", "counted"}:
        raise RunError(
            f"{str(path)!r} does not hold the metrics of a run",
            remedy=f"write it again with {resume}",
        )
    return metrics


def _resume(run_dir: Path) -> str:
    """Return the command that goes on with what a folder holds, or both where it does not say."""
    if (run_dir / FLOWER).is_file():
        folder = run_dir.resolve()
        return f"grandrounds server resume {folder.parent.parent} {folder.name}"
    try:
        study = read_toml(run_dir / "study.toml", what="study")
        return f"grandrounds sim {study['simulation']['command']} --resume {run_dir}"
    except (StudyError, KeyError, TypeError):
        return f"grandrounds sim run --resume {run_dir} (or sim loho or fewshot, if that began it)"
