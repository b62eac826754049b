"""The model card: what whoever downloads the weights is told."""

from __future__ import annotations

from common.report.model_card import model_card
from tests.example_metrics import example


def test_model_card_names_use_sites_and_how_to_load() -> None:
    card = model_card(example())
    assert "Not for clinical use" in card
    assert "| cleveland | 300 | took part |" in card
    assert "| riverside | 12 | left out: declared 12, below 50 |" in card
    assert 'load_file("model.safetensors")' in card
    assert "0.846 ± 0.035" in card
