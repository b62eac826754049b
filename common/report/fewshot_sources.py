"""What the report says of the sources: which hospital's own body would serve a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.fewshot_values import cases, epsilon_of
from common.report.values import Metrics, show

_WAYS = {
    "logistic": "Logistic",
    "prototype": "Own means",
    "mapped": "Own means, mapped",
    "moments": "Released means, by moments",
    "labels": "Released means, by labels",
}


def source_tables(table: Metrics) -> list[dict[str, Any]]:
    """List a table for each new hospital: its title, its heads, a row a source, and a sentence.

    The sources stand in the order of their mean evidence.

    >>> row = {"evidence": -0.5, "distance": 1.2, "epsilon": 8.2, "picked": 3,
    ...        "accuracy": {"20": {"logistic": 0.6, "mapped": 0.5}}}
    >>> source_tables({"sources": {"a": {"b": row}}})[0]["rows"]
    [('b', ['8.2', '−0.500', '1.200', '3', '0.600', '0.500'])]
    """
    tables = []
    for name, rows in (table.get("sources") or {}).items():
        ordered = sorted(rows.items(), key=lambda item: -item[1]["evidence"])
        shots = next(iter(ordered[0][1]["accuracy"]))
        ways = list(ordered[0][1]["accuracy"][shots])
        choice = (table.get("source_choice") or {}).get(name)
        tables.append(
            {
                "title": f"{name}: each other hospital's own body, {cases(shots)}",
                "heads": ["Epsilon", "Evidence", "Distance", "Picked", *(_WAYS[w] for w in ways)],
                "rows": [(source, _cells(row, shots)) for source, row in ordered],
                "sentence": choice_sentence(choice) if choice else "",
            }
        )
    return tables


def _cells(row: Mapping[str, Any], shots: str) -> list[str]:
    figures = [show(value) for value in row["accuracy"][shots].values()]
    seen = [show(row["evidence"]), show(row["distance"]), show(row["picked"], 0)]
    return [epsilon_of(row), *seen, *figures]


def choice_sentence(choice: Mapping[str, Any]) -> str:
    """Say whether the ranking picked the best source.

    >>> way = {"best": 6, "accuracy": 0.55}
    >>> choice_sentence({"episodes": 9, "evidence": way, "distance": {"best": 2, "accuracy": 0.4},
    ...                  "blind": {"best": 3.0, "accuracy": 0.5}, "hindsight": 0.6})[:73]
    'By evidence the best source was picked in 6 of 9 episodes (blindly in 3.0'
    """
    evidence, distance, blind = (choice[way] for way in ("evidence", "distance", "blind"))
    return (
        f"By evidence the best source was picked in {evidence['best']} of {choice['episodes']} "
        f"episodes (blindly in {show(blind['best'], 1)} on average), by distance in "
        f"{distance['best']}. Logistic regression on the picked body: accuracy "
        f"{show(evidence['accuracy'])} by evidence, {show(distance['accuracy'])} by distance, "
        f"{show(blind['accuracy'])} blindly, {show(choice['hindsight'])} with hindsight."
    )
