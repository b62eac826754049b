"""What a run shows on the terminal: tables, and the promise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from common.report.loho_values import averaged
from common.report.values import C_INDICES, headline, is_graded, of_survival
from simulations.fewshot.display import print_new_hospitals

_SHORT = {"pooled_recalibrated": "pooled recalib."}


def print_comparison(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the arms, the hospitals and the promise."""
    console.print(_arms(metrics))
    if metrics["published"]:
        console.print(_published(metrics["published"]))
    console.print(_sites(metrics))
    if metrics["retrieval"]:
        console.print(_retrieval(metrics["retrieval"]))
    if metrics["fewshot"]:
        console.print("A hospital that was new, after training without it:")
        print_new_hospitals(console, metrics["fewshot"])
    for remark in metrics["remarks"]:
        console.print(f"note: {remark}")
    _print_promise(console, metrics)


def print_leave_one_out(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the means over the hospitals left out, the pooled AUC, and the promise."""
    for shots in map(str, metrics["shots"]):
        console.print(_left_out(metrics, shots))
    for remark in metrics["remarks"]:
        console.print(f"note: {remark}")
    _print_promise(console, metrics)


def print_few_shot(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print a table for each new hospital, their mean, and the promise."""
    print_new_hospitals(console, metrics)
    for remark in metrics["remarks"]:
        console.print(f"note: {remark}")
    _print_promise(console, metrics)


def _left_out(metrics: Mapping[str, Any], shots: str) -> Table:
    over = averaged(metrics, int(shots))
    table = Table(
        title=f"A hospital that took no part, {shots} labelled patients",
        caption=f"mean over {over}; slope: of calibration; pooled: random effects, 95%",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("arm", no_wrap=True)
    for heading in ("AUC", "acc.", "Brier", "logl.", "slope", "O/E", "pooled AUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm, row in metrics["mean"][shots].items():
        pooled = metrics["pooled"][shots].get(arm, {})
        table.add_row(_SHORT.get(arm, arm), *_left_out_row(row), _pooled(pooled))
        if "adapted" in row and shots != "0":
            table.add_row(
                f" {arm} adapted", *_left_out_row(row["adapted"]), _pooled(pooled.get("adapted"))
            )
    return table


def _left_out_row(row: Mapping[str, Any]) -> list[str]:
    keys = ("auc", "accuracy", "brier", "log_loss", "calibration_slope", "observed_expected")
    return [_number(row[key]) for key in keys]


def _pooled(row: Mapping[str, Any] | None) -> str:
    if not row or row.get("auc") is None:
        return "-"
    return f"{row['auc']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"


def _print_promise(console: Console, metrics: Mapping[str, Any]) -> None:
    privacy = metrics["privacy"]
    console.print(f"privacy: {privacy['statement']}")
    if privacy["private"]:
        console.print(
            f"  sigma {privacy['sigma']:g}, sampling rate {privacy['sampling_rate']:g}, "
            f"{privacy['steps']} steps; {privacy['accountant']}; noise: {privacy['noise']}"
        )
    console.print(f"split: {metrics['split']}")
    console.print("All figures but the released ones are exact: they would not leave a hospital.")


def _arms(metrics: Mapping[str, Any]) -> Table:
    title = f"{metrics['title']}: mean over hospitals, {metrics['seeds']} seed(s)"
    caption = "± is the spread over seeds"
    table = Table(title=title, box=SIMPLE_HEAD, caption=caption, padding=(0, 1, 0, 0))
    table.add_column("arm", no_wrap=True)
    table.add_column("epsilon", justify="right", no_wrap=True)
    columns = _columns(metrics)
    for form in ("shared", "adapted"):
        for figure in columns.values():
            table.add_column(f"{form}\n{figure}", justify="right", no_wrap=True)
    for name, arm in metrics["arms"].items():
        epsilon = f"{arm['epsilon']:.3g}" if arm["private"] else "-"
        forms = (_figures(form, columns) for form in (arm, arm["adapted"]))
        table.add_row(name, epsilon, *itertools.chain(*forms))
    return table


def _columns(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return an arm's figures for a narrow screen: key in its row -> heading."""
    if of_survival(metrics):
        return {"mean_c_index": "C-index", "pooled_c_index": "pooled", "mean_auc": "AUC"}
    kappa = {"mean_kappa": "kappa"} if is_graded(metrics) else {}
    return {"mean_auc": "AUC", "mean_accuracy": "acc.", "mean_brier": "Brier", **kappa}


def _figures(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    first, *others = columns
    sd = row[first.replace("mean_", "sd_")]
    spread = f" ±{sd:.3f}".replace("0.", ".") if sd else ""
    return [_number(row[first]) + spread, *(_number(row[name]) for name in others)]


def _published(published: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"Published: {published['source']}",
        caption=published["note"],
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method")
    table.add_column("epsilon")
    headings = {"mean_auc": "AUC", "mean_accuracy": "acc.", "weighted_accuracy": "weighted acc."}
    headings |= dict(C_INDICES)
    given = [key for key in headings if any(row.get(key) is not None for row in published["rows"])]
    for key in given:
        table.add_column(headings[key], justify="right", no_wrap=True)
    for row in published["rows"]:
        table.add_row(
            row["method"], row["epsilon"] or "-", *(_number(row.get(key)) for key in given)
        )
    return table


def _retrieval(found: Mapping[str, Any]) -> Table:
    table = Table(
        title="Similar cases: holdout images among the hospital's own training images",
        caption="mean over hospitals, first seed; P@k: share of the k nearest of the same class",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("body", no_wrap=True)
    headings = [f"{letter}@{k}" for letter in "PR" for k in found["ks"]]
    for heading in (*headings, "mAP", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in {"none (inputs)": found["inputs"], **found["arms"]}.items():
        shares = [row[what][str(k)] for what in ("precision", "recall") for k in found["ks"]]
        table.add_row(name, *map(_number, (*shares, row["map"], row["chance"])))
    return table


def _sites(metrics: Mapping[str, Any]) -> Table:
    main = metrics["main_arm"]
    table = Table(
        title=f"Hospitals: {main} and local",
        box=SIMPLE_HEAD,
        caption=f"released: {_noisy(metrics)}first seed, 95% interval",
        padding=(0, 1, 0, 0),
    )
    table.add_column("hospital", no_wrap=True)
    key, name = headline(metrics)
    for heading in ("size", f"{name}\nlocal", "\nshared", "\nadapted", "Brier\nlocal", "\nadapted"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("AUC\nreleased", justify="right", no_wrap=True)
    for site in metrics["sites"]:
        if not site["arms"]:
            table.add_row(site["name"], str(site["declared"]), "left out")
            continue
        own, alone = site["arms"].get(main), site["arms"].get("local")
        table.add_row(
            site["name"],
            str(site["declared"]),
            _number(alone and alone[key]),
            _number(own[key]),
            _number(own["adapted"][key]),
            _number(alone and alone["brier"]),
            _number(own["adapted"]["brier"]),
            _released(site["private"]),
        )
    return table


def _noisy(metrics: Mapping[str, Any]) -> str:
    return "with the noise that leaves the hospital, " if metrics["privacy"]["private"] else ""


def _released(private: Mapping[str, Any] | None) -> str:
    if private is None:
        return "-"
    if private["auc"] is None:
        return "too noisy"
    return f"{private['auc']:.2f} ({private['auc_low']:.2f} to {private['auc_high']:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
