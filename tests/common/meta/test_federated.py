"""Hospitals pooled: the noise within them, and what makes the answer as wide as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import DataError
from common.meta.federated import pool_released
from common.meta.released import Released, wald
from common.meta.released_tables import table_effect
from tests.effect_world import TRIAL

HOSPITALS = {
    "a": wald(0.2, 0.04, 0.02),
    "b": wald(1.4, 0.05, 0.01),
    "c": wald(0.6, 0.02, 0.09),
}


def trial(sigma=0.0, seed=0):
    rng = np.random.default_rng(seed)
    tables = {n: np.array(t) + sigma * rng.normal(size=(2, 2)) for n, t in TRIAL.items()}
    names = [n for n in TRIAL if sigma == 0 or n != "western"]  # too small to take part
    return {n: table_effect(tables[n], sigma=sigma, measure="OR") for n in names}


def test_the_trials_centres_without_privacy_give_metafors_answer():
    """Inverse variances by hand: tau2 is 0 by every method, so fixed and random effects agree."""
    y, w = [], []
    for name in ("indiana", "kentucky", "michigan"):
        (b, a), (d, c) = TRIAL[name]
        y.append(math.log(a * d / (b * c)))
        w.append(1 / (1 / a + 1 / b + 1 / c + 1 / d))
    mean = math.exp(np.dot(w, y) / sum(w))
    found = pool_released("OR", trial())
    assert found["ratio"]["estimate"] == pytest.approx(mean, abs=1e-6)
    assert mean == pytest.approx(0.5001, abs=1e-4)
    assert abs(mean - (27 * 255) / (268 * 52)) < 0.02  # the table of the whole trial
    assert [row["name"] for row in found["left_out"]] == ["western"]
    assert "no event" in found["left_out"][0]["why"]
    assert found["width"] == {"patients": 1.0, "hospitals": 0.0, "noise": 0.0}


@pytest.mark.parametrize("sigma", [1.17, 3.01])
def test_with_noise_the_interval_is_wider_and_covers_the_exact_answer(sigma):
    """60 draws of noise alone: the exact answer is not the truth, so nearly all cover."""
    exact, covered, widths = pool_released("OR", trial()), 0, []
    for seed in range(60):
        found = pool_released("OR", trial(sigma, seed), method="FE")
        covered += found["ci_low"] <= exact["estimate"] <= found["ci_high"]
        widths.append(found["se"] / exact["se"])
    assert covered >= 58
    assert np.median(widths) > 1.02


def test_the_shares_of_the_width_are_the_variances_parts():
    found = pool_released("OR", HOSPITALS, method="DL")
    tau2, rows = found["tau2"], list(HOSPITALS.values())
    w = np.array([1 / (r.variance + tau2) for r in rows])
    whole = 1 / w.sum()
    assert tau2 > 0
    assert found["se"] ** 2 == pytest.approx(whole)
    parts = {
        "patients": (w**2 * [r.sampling for r in rows]).sum() / w.sum() ** 2 / whole,
        "hospitals": (w**2 * tau2).sum() / w.sum() ** 2 / whole,
        "noise": (w**2 * [r.noise for r in rows]).sum() / w.sum() ** 2 / whole,
    }
    assert found["width"] == pytest.approx(parts)
    assert sum(parts.values()) == pytest.approx(1.0)


def test_noise_is_not_taken_for_a_difference_between_hospitals():
    """For: noise left out of the within-hospital variance, which made tau2 of it."""
    noisy = {n: wald(r.value, 0.05, 0.5) for n, r in HOSPITALS.items()}
    bare = {n: wald(r.value, 0.05, 0.0) for n, r in HOSPITALS.items()}
    assert pool_released("OR", noisy)["tau2"] == 0
    assert pool_released("OR", bare)["tau2"] > 0.1


def test_a_hospital_shows_its_own_interval_and_what_its_patients_alone_would_make():
    odd = Released(0.3, None, 0.9, 0.04, 0.05)
    (row,) = [
        r for r in pool_released("OR", {**HOSPITALS, "odd": odd})["studies"] if r["name"] == "odd"
    ]
    assert (row["ci_low"], row["ci_high"], row["ratio"]["ci_low"]) == (None, 0.9, None)
    assert row["sampling"]["ci_high"] == pytest.approx(0.3 + 1.959964 * 0.2)
    assert (row["sampling_se"], row["noise_se"]) == (0.2, pytest.approx(math.sqrt(0.05)))


def test_nobody_left_to_pool_is_said_with_each_reason():
    noisy = {"a": Released(None, None, None, why="too noisy: a count")}
    with pytest.raises(DataError, match="a: too noisy: a count"):
        pool_released("OR", noisy)
    with pytest.raises(DataError, match="none answered"):
        pool_released("OR", {})


def test_estimates_nearer_than_chance_have_no_variance_by_dersimonian_and_laird():
    """For: a tau2 below 0, which made an interval of nothing (the trial's three centres)."""
    found = pool_released("OR", trial(), method="DL")
    assert found["tau2"] == 0
    assert found["estimate"] == pytest.approx(pool_released("OR", trial())["estimate"], abs=1e-6)
