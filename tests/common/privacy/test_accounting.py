"""Epsilon against the reference figures, a closed form, dp-accounting itself and Opacus."""

import math
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting import pld
from scipy.optimize import brentq
from scipy.stats import norm

from common.errors import StudyError
from common.plan import compile_study
from common.privacy.accounting import (
    calibrate_sigma,
    delta_limit,
    epsilon,
    is_subsampled,
)
from common.privacy.engine import prv_epsilon
from common.privacy.events import PoissonGaussian, Unprotected, merge
from common.study import load_study

STUDIES = Path(__file__).parents[3] / "simulations" / "studies"
PRV_ERROR = 0.01


def gauss(sigma, count, *, q=1.0, part="train"):
    return PoissonGaussian(sigma, q, count, part)


def independent_pld(*, sigma, q, count, delta):
    """Ask dp-accounting for `count` steps directly, without anything of ours."""
    step = dp_accounting.GaussianDpEvent(sigma)
    if q < 1:
        step = dp_accounting.PoissonSampledDpEvent(q, step)
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(step, count)
    return accountant.get_epsilon(delta)


def by_the_accountant(events, delta):
    """Hand whole events to dp-accounting's own accountant."""
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in events:
        accountant.compose(event.to_dp_event())
    return accountant.get_epsilon(delta)


@pytest.mark.slow
@pytest.mark.parametrize("q", [1.0, 0.37, 0.05])
@pytest.mark.parametrize("sigma", [2.5, 15.419])
def test_every_count_costs_what_dp_accountings_own_call_says_to_the_last_bit(sigma, q):
    """Faults it is for: a kept step composed otherwise than afresh; the vectorised Gaussian."""
    for count in (1, 2, 5, 6, 30):
        event = gauss(sigma, count, q=q)
        assert epsilon([event], delta=3e-4) == by_the_accountant([event], 3e-4)
    mixed = [gauss(sigma, 3, q=q), gauss(2 * sigma, 7), gauss(sigma, 2, q=q / 2)]
    assert epsilon(mixed, delta=1e-5) == by_the_accountant(merge(mixed), 1e-5)


def closed_form(sigma, count, delta):
    """Epsilon of `count` Gaussians of sensitivity 1 on all patients (Balle and Wang 2018, thm 8).

    They are one Gaussian of mu = sqrt(count) / sigma, for which
    delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu); the product in logarithms.
    """
    mu = math.sqrt(count) / sigma

    def excess(eps):
        second = math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))
        return norm.cdf(mu / 2 - eps / mu) - second - delta

    return brentq(excess, 0.0, 500.0, xtol=1e-12)


@pytest.mark.parametrize(
    ("q", "count", "sigma", "delta", "pld_figure", "prv_figure"),
    [  # N = 500, 2,000 and 10,000; the RDP figures of the same rows are 7.74, 7.58 and 3.70
        (0.1, 500, 1.5, 2e-4, 6.98, 6.99),
        (0.05, 500, 1.0, 5e-5, 6.80, 6.81),
        (0.01, 1000, 0.8, 1e-5, 3.14, 3.15),
    ],
)
def test_reference_rows(q, count, sigma, delta, pld_figure, prv_figure):
    event = gauss(sigma, count, q=q)
    assert round(epsilon([event], delta=delta), 2) == pld_figure
    assert round(prv_epsilon([event], delta=delta), 2) == prv_figure


@pytest.mark.parametrize("name", ["heart", "breast_cancer"])
def test_compiled_plan_costs_what_dp_accounting_says_and_opacus_agrees(name):
    """Fault it is for: sigma halved in the plan, or one step too few in the price."""
    plan = compile_study(load_study(STUDIES / f"{name}.toml"))
    rules = plan.study
    steps = rules.learner.local_steps * rules.rounds.count
    q = rules.learner.sampling_rate
    train = independent_pld(sigma=plan.sigma, q=q, count=steps, delta=rules.privacy.delta)
    histograms = 1 if len(rules.cohort.label.classes) == 2 else len(rules.cohort.label.classes)
    holdout = independent_pld(
        sigma=plan.evaluation_sigma, q=1.0, count=histograms, delta=rules.privacy.delta
    )
    assert plan.epsilon_after(rules.rounds.count) == train
    assert plan.epsilon == max(train, holdout)
    assert plan.epsilon <= rules.privacy.epsilon
    # Opacus returns its upper end: the truth is at most two errors below it, and not above.
    prv = prv_epsilon(plan.training_prices(rounds=rules.rounds.count), delta=plan.delta)
    assert prv - 2 * PRV_ERROR - 1e-3 <= train <= prv + 1e-3
    if q == 1:
        exact = closed_form(plan.sigma, steps, plan.delta)
        assert exact <= train <= exact + 1e-3


@pytest.mark.parametrize(
    ("sigma", "count", "delta"),
    [(1.0, 1, 1e-5), (5.0, 30, 3e-4), (20.0, 1, 1e-6), (2.0, 7, 1e-3), (15.0, 400, 5e-5)],
)
def test_full_batch_gaussian_equals_the_closed_form_from_above(sigma, count, delta):
    exact = closed_form(sigma, count, delta)
    found = epsilon([gauss(sigma, count)], delta=delta)
    assert exact <= found <= exact * (1 + 1e-3) + 1e-4
    # Two kinds of step compose as their squared mu add up: n/s^2 here and once more.
    both = epsilon([gauss(sigma, count), gauss(2 * sigma, 4 * count)], delta=delta)
    exact = closed_form(sigma, 2 * count, delta)
    assert exact <= both <= exact * (1 + 1e-3) + 1e-4


def test_opacus_agrees_on_a_mix_of_steps():
    events = [gauss(1.5, 40, q=0.1), gauss(4.0, 3)]
    ours, prv = epsilon(events, delta=1e-5), prv_epsilon(events, delta=1e-5)
    assert prv - 2 * PRV_ERROR - 1e-3 <= ours <= prv + 1e-3
    assert prv_epsilon([], delta=1e-5) == 0
    assert prv_epsilon([*events, Unprotected("train")], delta=1e-5) == math.inf


def test_parts_compose_in_parallel_and_one_part_adds_up():
    train, holdout = gauss(5.0, 20), gauss(3.0, 1, part="holdout")
    costs = [epsilon([e], delta=1e-4) for e in (train, holdout)]
    assert epsilon([train, holdout], delta=1e-4) == max(costs)
    same_part = epsilon([train, gauss(3.0, 1)], delta=1e-4)
    assert max(costs) < same_part < sum(costs)


def test_a_patient_known_to_two_hospitals_pays_twice():
    # The reference row of N = 2,000: 6.80 once; both hospitals' steps together, 10.05.
    assert round(epsilon([gauss(1.0, 500, q=0.05)] * 2, delta=5e-5), 2) == 10.05


def test_order_and_grouping_do_not_matter():
    events = [gauss(2.0, 3, q=0.1), gauss(3.0, 2), gauss(2.0, 1, part="holdout")]
    split = [gauss(2.0, 1, q=0.1), *events[1:], gauss(2.0, 2, q=0.1)]
    costs = {epsilon(e, delta=1e-5) for e in (events, events[::-1], split, iter(events))}
    assert len(costs) == 1


def test_edges():
    """The table of the module's docstring."""
    assert epsilon([], delta=1e-5) == 0
    assert epsilon([], delta=0) == 0
    assert epsilon([gauss(100.0, 1)], delta=0) == math.inf
    assert epsilon([Unprotected("train")], delta=0.1) == math.inf
    # Unprotected anywhere is infinite in all, the other part's noise notwithstanding.
    assert epsilon([gauss(9.0, 1), Unprotected("holdout")], delta=0.1) == math.inf
    assert epsilon([gauss(9.0, 1), Unprotected("train")], delta=0.1) == math.inf
    for delta in (-1e-9, 1.0, math.nan):
        with pytest.raises(ValueError, match="delta"):
            epsilon([], delta=delta)


@pytest.mark.slow
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise():
    def cost(sigma=2.0, count=10, q=0.2):
        return epsilon([gauss(sigma, count, q=q)], delta=1e-5)

    assert cost() < cost(count=11) < cost(count=20)
    assert cost(q=0.1) < cost() < cost(q=1.0)
    assert cost(sigma=4.0) < cost() < cost(sigma=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "delta", "q", "count"),
    [(1.0, 3e-4, 1.0, 30), (3.0, 1e-5, 1.0, 4), (0.1, 1e-3, 1.0, 200), (1.0, 1e-5, 0.3, 20)],
)
def test_calibrated_sigma_is_the_smallest_in_steps_of_a_thousandth(target, delta, q, count):
    sigma = calibrate_sigma(
        target_epsilon=target, delta=delta, price=lambda s: [gauss(s, count, q=q)]
    )
    assert sigma == round(sigma, 3)

    def cost(steps):
        return independent_pld(sigma=steps / 1000, q=q, count=count, delta=delta)

    assert cost(round(sigma * 1000)) <= target < cost(round(sigma * 1000) - 1)


def test_calibration_has_a_floor():
    # A price of ten times the noise meets the target far below the floor, and cheaply to compute.
    found = calibrate_sigma(target_epsilon=50.0, delta=1e-2, price=lambda s: [gauss(10 * s, 1)])
    assert found == 0.1


def test_calibration_that_no_noise_meets_names_field_and_remedy():
    with pytest.raises(StudyError, match=r"privacy\.epsilon is 1e-05.*(?s:.)*remedy: raise"):
        calibrate_sigma(target_epsilon=1e-5, delta=1e-9, price=lambda s: [gauss(s, 100_000)])


def test_delta_limit_and_subsampling():
    assert delta_limit(500) == 1 / 5000
    assert is_subsampled(gauss(1.0, 1, q=0.99))
    assert not is_subsampled(gauss(1.0, 1))
    assert not is_subsampled(Unprotected("train"))
