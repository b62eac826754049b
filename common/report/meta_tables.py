"""The tables of a meta-analysis as rows of text, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.report.values import DASH, finite, show

_MODELS = {"mean": "plain mean", "linear": "linear regression", "neural": "two networks"}


def told(row: Mapping[str, Any], prefix: str = "ci", digits: int = 3) -> str:
    """An estimate with an interval on the reader's scale.

    >>> told({"estimate": 0.5, "ci_low": 0.25, "ci_high": 1.0}, digits=2)
    '0.50 [0.25, 1.00]'
    """
    shown = row.get("ratio") or row.get("auc") or row
    ends = (
        f"[{show(shown.get(f'{prefix}_low'), digits)}, {show(shown.get(f'{prefix}_high'), digits)}]"
    )
    return f"{show(shown.get('estimate'), digits)} {ends}" if prefix == "ci" else ends


def p_value(p: float | None) -> str:
    """A p-value as journals print it.

    >>> p_value(0.0301), p_value(0.00002)
    ('0.030', '< 0.001')
    """
    return "< 0.001" if p is not None and p < 0.001 else show(p, 3)


def tables(values: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Every table: its name, title, heads and rows of text; those without rows are left out."""
    groups = (values.get("subgroups") or {}).get("groups") or []
    regression = values.get("regression") or {}
    predicted = regression.get("prediction") or {}
    scores = {name: predicted[name] for name in _MODELS if name in predicted}
    made: list[dict[str, Any]] = [
        {"name": "answer", "title": "The answer", "heads": ["", "Value"], "rows": answer(values)},
        {"name": "trust", "title": "Whether small studies tell another story",
         "heads": ["", "Value"], "rows": trust(values)},
        {"name": "groups", "title": f"By {(values.get('subgroups') or {}).get('column')}",
         "heads": ["", "Studies", "Mean [95%]", "Tau²", "I²"],
         "rows": [[g["name"], str(g["k"]), told(g), show(g["tau2"], 4), f"{100 * g['i2']:.0f}%"]
                  for g in groups] + _between(values)},
        {"name": "regression", "title": "Meta-regression (analysis scale)",
         "heads": ["", "Coefficient [95%]", "p"],
         "rows": [[row["name"], told(row, digits=4), p_value(row["p"])]
                  for row in regression.get("coefficients") or []] + _residual(regression)},
        {"name": "prediction", "title": "Each study predicted from the others",
         "heads": ["", "Root mean squared error", "Mean log density"],
         "rows": [[_MODELS[name], show(one["rmse"]), show(one["log_density"])]
                  for name, one in scores.items()]},
        {"name": "without", "title": "Without each study",
         "heads": ["", "Its effect [95%]", "Weight", "Mean without it [95%]", "Tau² without it",
                   "Studentised residual", "Cook's distance"],
         "rows": [_without(row) for row in values["studies"] if row.get("without")]},
    ]  # fmt: skip
    return [table for table in made if table["rows"]]


def answer(values: Mapping[str, Any]) -> list[list[str]]:
    """The pooled mean, its intervals and how the studies differ, as rows of text."""
    many = [finite(values.get(key)) for key in ("tau2", "tau2_low", "tau2_high", "i2", "h2", "q_p")]
    other = values["hartung_knapp"]
    rows = [
        [f"Pooled {values['measure_name']} [95%]", told(values)],
        [f"On the analysis scale ({values['scale']})",
         f"{show(values['estimate'], 4)}, standard error {show(values['se'], 4)}"],
        ["Prediction interval", told(values, "prediction")],
        ["By Hartung and Knapp [95%]", told(other)],
        ["Prediction interval, t with k \u2212 2", told(other, "prediction")],
        ["Tau² [95%, Q-profile]", f"{show(many[0], 4)} [{show(many[1], 4)}, {show(many[2], 4)}]"],
        ["I²", DASH if many[3] is None else f"{100 * many[3]:.1f}%"],
        ["H²", show(many[4], 2)],
        ["Q", f"{show(values['q'], 3)}, p {p_value(many[5])}"],
    ]  # fmt: skip
    missing = values["k"] == 1 or values["method"] == "FE"
    return rows[:2] + rows[5:] if missing else rows


def trust(values: Mapping[str, Any]) -> list[list[str]]:
    """Tests of the funnel, and trim and fill, as rows of text."""
    rows = []
    egger, begg, filled = (values.get(key) for key in ("egger", "begg", "trim_and_fill"))
    if egger:
        said = (
            f"intercept {show(egger['intercept'])}, t {show(egger['t'])}, p {p_value(egger['p'])}"
        )
        mixed = f"z {show(egger['z'])}, p {p_value(egger['z_p'])}"
        rows += [["Egger's regression", said], ["The same with a variance between studies", mixed]]
    if begg:
        rows.append(["Begg's rank test", f"tau {show(begg['tau'])}, p {p_value(begg['p'])}"])
    if filled:
        k0 = filled["k0"]
        where = f" on the {filled['side']}" if k0 else ""
        rows.append([f"Trim and fill: {k0} missing{where}", told(filled)])
    return rows


def _between(values: Mapping[str, Any]) -> list[list[str]]:
    found = (values.get("subgroups") or {}).get("between")
    if not found:
        return []
    said = f"Q {show(found['q'], 2)}, p {p_value(found['p'])}"
    return [["Between groups", str(found["df"]) + " df", said, "", ""]]


def _residual(regression: Mapping[str, Any]) -> list[list[str]]:
    if not regression:
        return []
    share = regression["r2"]
    of = "" if share is None else f"; {100 * share:.0f}% of it taken up"
    q = f"Q {show(regression['q_residual'], 2)}"
    return [["Tau² left", f"{show(regression['tau2'], 4)}{of}", ""],
            ["What is left", q, p_value(regression["q_residual_p"])]]  # fmt: skip


def _without(row: Mapping[str, Any]) -> list[str]:
    found = row.get("influence") or {}
    name = str(row["name"]) + (" (influential)" if found.get("influential") else "")
    own, others = told(row, digits=2), told(row["without"], digits=2)
    tau2, residual, cook = row["without"]["tau2"], found.get("rstudent"), found.get("cook")
    share = f"{100 * row['weight']:.1f}%"
    return [name, own, share, others, show(tau2, 4), show(residual, 2), show(cook, 2)]
