"""Pictures of released figures: what a noisy histogram shows."""

from __future__ import annotations

import math

import pytest

from common.report.figures_released import reliability


def test_reliability_drops_bins_the_noise_can_hide() -> None:
    histogram = {"edges": [0, 0.5, 1], "negative": [100, 3], "positive": [100, 2], "sigma": 2.9}
    ((middle, rate, low, high),) = reliability(histogram)
    # Eased rate (100 + 1) / (200 + 2) = 0.5; variance 0.25 / 202 + 2.9^2 * 0.5 / 200^2.
    half = 1.96 * math.sqrt(0.25 / 202 + 2.9**2 * 0.5 / 200**2)
    assert (middle, rate) == (0.25, 0.5)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
