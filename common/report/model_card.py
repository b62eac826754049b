"""The model card: what a model is for, what it was trained on, what it promises, in Markdown.

Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from common.report.tables import arm_rows, privacy_rows, released_rows
from common.report.values import DASH, Metrics, arm_columns, show, took_part
from common.report.words import (
    REBUILD,
    accuracy_line,
    epsilon_line,
    gate_label,
    is_deployed,
    is_private,
    verdict,
)

_LOAD = """```python
from safetensors.torch import load_file

weights = load_file("model.safetensors")  # name -> tensor; no code is run by loading
for name, tensor in weights.items():
    print(name, tuple(tensor.shape))
```"""


def _plain(value: object) -> str:
    """Text of the metrics on one line, with what Markdown or HTML would act on made inert."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are set right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join(lines)


def _privacy(metrics: Metrics) -> str:
    """The privacy statement, its terms and the releases it covers."""
    privacy = metrics.get("privacy") or {}
    parts = [_plain(privacy["statement"])] if privacy.get("statement") else []
    if not is_private(metrics):
        parts.insert(0, "**Not private.** The weights may reveal who was in the training data.")
    rows = privacy_rows(metrics)
    parts.append("\n".join(f"- {term}: {_plain(value)}" for term, value in rows))
    releases: list[dict[str, Any]] = privacy.get("releases") or []
    if releases:
        parts.append("What left each hospital:")
        parts.append(
            "\n".join(
                f"- {_plain(r.get('what'))}, computed on {_plain(r.get('part'))} patients, "
                f"count {show(r.get('count'), 0)}, epsilon {show(r.get('epsilon'))}"
                for r in releases
            )
        )
    return "\n\n".join(part for part in parts if part)


def _performance(metrics: Metrics) -> str:
    """The table of arms, shared and adapted."""
    head = ["Arm", "Epsilon", *(heading for _, heading in arm_columns(metrics))]
    head += [f"{name}, adapted" for name in head[2:]]
    rows = [[r["name"], r["epsilon"], *r["shared"], *r["adapted"]] for r in arm_rows(metrics)]
    return _table(head, rows) if rows else "No arm was evaluated."


def _which(metrics: Metrics, main: str) -> str:
    return main if is_deployed(metrics) else f"the arm {main}, first seed"


def _figures(metrics: Metrics, main: str) -> str:
    """Exact figures of a simulation; of real hospitals, what they released."""
    if is_deployed(metrics):
        head = ["Hospital", "AUC", "Accuracy", "Sensitivity", "Specificity", "Brier"]
        head += ["Calibration slope", "Calibration intercept"]
        rows = released_rows(metrics)
        table = _table(head, rows) if rows else "No hospital released an evaluation."
        return f"Of the shared model, with 95% intervals; {gate_label(metrics)}.\n\n{table}"
    return (
        "Unweighted means over hospitals, ± standard deviation over seeds. These figures are "
        f"exact and would not leave a hospital. The epsilon of {main}: "
        f"{_plain(epsilon_line(metrics))}.\n\n{_performance(metrics)}\n\n"
        f"{_plain(accuracy_line(metrics))}"
    )


def model_card(metrics: Metrics) -> str:
    """Write the model card that stands beside `model.safetensors`.

    Args:
        metrics: figures of a run, as `grandrounds sim run --json` prints them.

    Returns:
        Markdown; every text of the metrics is made inert.

    >>> print(model_card({"title": "Demo"}).splitlines()[0])
    # Model card: Demo
    """
    main = _plain(metrics.get("main_arm") or "main arm")
    sites = [
        (site.get("name") or DASH, show(site.get("declared"), 0), site.get("status") or DASH)
        for site in metrics.get("sites") or []
    ]
    count = sum(map(took_part, metrics.get("sites") or []))
    versions = ", ".join(f"{k} {v}" for k, v in (metrics.get("versions") or {}).items())
    sections = [
        f"# Model card: {_plain(metrics.get('title') or metrics.get('study') or 'study')}",
        _plain(verdict(metrics)),
        "## Intended use\n\nResearch on learning between hospitals. **Not for clinical use**: the "
        "model is not a medical device, and nobody has tested it on the patients of a hospital "
        "outside this study.",
        f"## The model\n\nThe shared initialisation of {_which(metrics, main)}, after "
        f"{show(metrics.get('rounds'), 0)} rounds. It is meant to be adapted to a hospital's own "
        "patients; a model adapted without noise stays at that hospital.",
        f"## Training data\n\nHospitals that took part: {count}. Sizes are declared: public, "
        "rounded counts of all patients.\n\n"
        + _table(("Hospital", "Declared patients", "Status"), sites),
        f"## Privacy\n\n{_privacy(metrics)}",
        f"## Performance\n\n{_figures(metrics, main)}",
        "## Limits\n\n- The hospitals above are not a sample of all hospitals; check discrimination"
        " and calibration on your own patients first.\n- Means over hospitals hide the weakest one:"
        " read the figures by hospital in `report.html`.\n- Differences within the spread over"
        " seeds are not differences.\n- A patient known to two hospitals spends at both.",
        f"## How to load\n\n{_LOAD}\n\nThe names and shapes are those of the model in "
        "`study.toml`, with inputs encoded as its schema says.",
        f"## Provenance\n\nStudy digest `{_plain(metrics.get('study_digest') or DASH)}`. "
        f"{_plain(versions) or 'Versions not recorded'}. "
        f"Rebuild the report with `{REBUILD}`.",
    ]
    return "\n\n".join(sections) + "\n"
