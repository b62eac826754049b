"""The two networks: held to others by leave-one-out, better where there is something to learn."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from common.meta.heterogeneity import mixed_model
from common.meta.moderators import features
from common.meta.neural import compare, verdict
from tests.meta_tables import table


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bcg(tmp_path_factory):
    effects = table(tmp_path_factory.mktemp("bcg"), "bcg", "RR")
    design = features(effects, ["ablat"]).design
    return effects, design, compare(effects.y, effects.v, design)


def test_thirteen_trials_do_not_tell_the_networks_from_the_line(bcg):
    effects, _, found = bcg
    said = verdict(effects.y, found)
    assert (
        "the networks predict neither clearly better nor worse than the linear regression" in said
    )
    assert found["linear"].rmse < found["mean"].rmse


def test_a_study_is_predicted_without_itself(bcg):
    """Fault it is for: a fit that has seen the study it is judged by."""
    effects, design, found = bcg
    y, v = effects.y, effects.v
    tau2, beta, covariance = mixed_model(y[1:], v[1:], design[1:], method="REML")
    assert found["linear"].mean[0] == pytest.approx(design[0] @ beta)
    expected = v[0] + tau2 + design[0] @ covariance @ design[0]
    assert found["linear"].variance[0] == pytest.approx(expected)
    moved = y.copy()
    moved[0] += 100.0
    for name, one in compare(moved, v, design).items():
        # Sharing nothing with its own effect, a prediction stays whatever that is.
        assert one.mean[0] == pytest.approx(found[name].mean[0], abs=0.05), name


def test_scores_are_of_the_predictions(bcg):
    effects, _, found = bcg
    for one in found.values():
        density = norm.logpdf(effects.y, one.mean, np.sqrt(one.variance))
        assert one.log_density == pytest.approx(density.mean())
        assert (one.variance > effects.v).all()


def test_the_same_seed_gives_the_same_networks(bcg):
    effects, design, _ = bcg
    y, v, few = effects.y[:4], effects.v[:4], design[:4]
    means = [compare(y, v, few, seed=seed)["neural"].mean for seed in (0, 0, 1)]
    assert np.array_equal(means[0], means[1])
    assert not np.array_equal(means[0], means[2])


@pytest.mark.slow
def test_many_studies_that_bend_and_differ_are_learnt():
    rng = np.random.default_rng(0)
    x, v = rng.uniform(-2, 2, 120), rng.uniform(0.005, 0.02, 120)
    spread = np.where(x > 0, 0.6, 0.05)
    y = np.sin(2 * x) + spread * rng.normal(size=120) + np.sqrt(v) * rng.normal(size=120)
    found = compare(y, v, np.column_stack([np.ones(120), x]))
    assert "the networks predict better than the linear regression" in verdict(y, found)
    # The variance is learnt too: more than three times as wide where studies differ.
    width = np.sqrt(found["neural"].variance)
    assert width[x > 0.3].mean() > 3 * width[x < -0.3].mean()


def test_a_level_that_only_the_left_out_study_has_is_survived():
    y, v = np.array([0.1, 0.3, 0.2, 0.5, 0.9]), np.full(5, 0.05)
    design = np.column_stack([np.ones(5), [1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, 1]])
    for one in compare(y, v, design).values():
        assert np.isfinite(one.mean).all()
        assert np.isfinite(one.log_density)
