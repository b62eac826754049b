"""The report's sentences: what they claim."""

from __future__ import annotations

from common.report.words import verdict
from tests.example_metrics import example


def test_verdict_claims_only_what_the_table_shows() -> None:
    metrics = example()
    said = verdict(metrics)
    assert "reptile adapted to each hospital reaches a mean AUC of 0.846 over 4 hospitals" in said
    assert "0.004 below each hospital training alone (0.850, not private) and" in said
    assert "0.008 above pooling all patients (0.838, adapted, not private), both within" in said
    metrics["arms"]["local"]["mean_auc"] = 0.7
    assert "0.146 above each hospital training alone" in verdict(metrics)
    assert "more than the spread over seeds" in verdict(metrics)
    metrics["arms"]["local"]["mean_auc"] = 0.846
    assert "equal to each hospital training alone" in verdict(metrics)
