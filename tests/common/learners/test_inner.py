"""The private inner loop: what is added to a delta, by what it is divided, and that all is priced.

Seeds are fixed; each statistical bound would fail a sound loop with a probability of 1e-7 or less.
"""

import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting import pld
from scipy import stats

from common.cohort.parts import Part
from common.learners import learner_for
from common.learners.inner import private_steps
from common.learners.types import Contribution, Patients
from common.models import build, params_of
from common.params import flatten, subtract, zeros_like
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.study import parse_study

RARE = 1e-7
FEATURES = [{"name": f"x{i}", "range": [-1, 1]} for i in range(8)]


def study(*, privacy=None, rounds=1, hidden=(64,), model="mlp", records=1, server=None, **learner):
    values = {
        "name": "test",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": FEATURES,
            "train_fraction": 0.5,
            "max_records": records,
        },
        "model": {"name": model, "hidden": list(hidden)},
        "learner": {"learning_rate": 0.5, "local_steps": 1, **learner},
        "rounds": {"count": rounds},
        "server": server or {},
    }
    if privacy is not None:
        values["privacy"] = privacy
    return parse_study(values, origin="test")


def noisy_plan(sigma, *, clip=2.0, **rules):
    return Plan(study(privacy={"sigma": 1.0, "delta": 1e-4, "clip": clip}, **rules), sigma, 1.0)


def people(n, *, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=rng)
    return Part(x, (x[:, 0] > 0).long(), torch.arange(n), n)


def adapted(plan, patients, source, theta=None):
    module = build(plan.study, seed=1)
    theta = params_of(module) if theta is None else theta
    return private_steps(plan)(PrivateModel(module), theta, patients, source)


def two_sided(statistic, distribution):
    return 2 * min(distribution.cdf(statistic), distribution.sf(statistic))


class Counting:
    """A source that counts: the samples drawn, and the noise vectors of the model's size."""

    secure = False

    def __init__(self, seed, size):
        self._inner, self._size = SeededSource(seed), size
        self.samples = self.noises = 0

    def uniform(self, n):
        self.samples += 1
        return self._inner.uniform(n)

    def normal(self, n):
        self.noises += n == self._size
        return self._inner.normal(n)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reptile", "fedavg", "fedprox"])
@pytest.mark.parametrize("q", [1.0, 0.2])
def test_promise_covers_every_step_that_runs(name, q):
    """Faults it is for: one step too few in the price or the calibration, one too many in the loop.

    The run is counted from outside, then priced by dp-accounting without anything of ours.
    """
    proximal = 0.1 if name == "fedprox" else 0.0
    rules = study(privacy={"epsilon": 2.0, "delta": 1e-4}, rounds=3, model="logistic", name=name,
                  local_steps=4, sampling_rate=q, proximal=proximal, records=20)  # fmt: skip
    plan, learner = compile_study(rules), learner_for(compile_study(rules))
    module = build(rules)
    model, state = PrivateModel(module), learner.init(params_of(module))
    source = Counting(0, flatten(state.params).numel())
    for _ in range(rules.rounds.count):
        delta = learner.adapt(model, state.params, Patients(people(20), 40), source)
        state = learner.apply(state, [Contribution(40, delta)])
    assert source.noises == 12 == plan.steps
    assert source.samples == (12 if q < 1 else 0)  # at q = 1 there is nobody to choose
    assert plan.steps == source.noises
    step = dp_accounting.GaussianDpEvent(plan.sigma)
    step = step if q == 1 else dp_accounting.PoissonSampledDpEvent(q, step)
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    spent = accountant.compose(step, source.noises).get_epsilon(1e-4)
    assert spent == plan.epsilon_after(3)
    assert 2.0 * 0.99 < spent <= 2.0  # sigma halved, or a step forgotten, overspends


@pytest.mark.parametrize(("patients", "steps"), [(0, 1), (0, 4), (30, 1)])
def test_released_noise_has_standard_deviation_sigma_times_clip(steps, patients):
    """Faults it is for: sigma halved, noise left off a tensor, noise scaled by the batch.

    With a sum of the batch that is the same with and without noise (K = 1, or an empty batch) the
    difference is -alpha / D * noise, D = q * declared * train fraction = 20, K of them added.
    """
    sigma, clip, declared = 3.0, 2.0, 40
    part = people(30).select(torch.arange(patients))
    noisy, plain = (
        adapted(
            noisy_plan(s, clip=clip, local_steps=steps, hidden=(512,)),  # enough to see 10 % less
            Patients(part, declared),
            SeededSource(5),
        )
        for s in (sigma, 0.0)
    )
    per_step = 0.5 / 20 * sigma * clip
    for value in subtract(noisy, plain).values():
        z = value.double().flatten().numpy() / (per_step * math.sqrt(steps))
        assert two_sided((z**2).sum(), stats.chi2(z.size)) > RARE
        assert stats.kstest(z, "norm").pvalue > RARE
    if patients == 0:
        assert not flatten(plain).any()


def test_noise_is_fresh_in_every_tensor_step_and_round():
    """Fault it is for: noise drawn once and used again."""
    plan, source = noisy_plan(1.0, hidden=(64, 64)), SeededSource(6)
    nobody = Patients(people(1).select(torch.zeros(0, dtype=torch.int64)), 40)
    module = build(plan.study)
    model, theta, adapt = PrivateModel(module), params_of(module), private_steps(plan)
    rounds = np.stack([flatten(adapt(model, theta, nobody, source)).numpy() for _ in range(4)])
    n = rounds.shape[1]
    together = np.corrcoef(rounds)[np.triu_indices(4, 1)]
    assert np.abs(together).max() * math.sqrt(n) < 5.5
    assert np.abs(np.corrcoef(rounds[0, :-1], rounds[0, 1:])[0, 1]) * math.sqrt(n) < 5.5
    # Pieces of 500 values, of the same tensor and of others, side by side over the rounds.
    pieces = np.stack([rounds[:, i * 500 : (i + 1) * 500].ravel() for i in range(n // 500)])
    between = np.corrcoef(pieces)[np.triu_indices(len(pieces), 1)]
    assert np.abs(between).max() * math.sqrt(pieces.shape[1]) < 6
    # Two steps in one round are two draws: twice the variance, not four times.
    plan = noisy_plan(1.0, hidden=(64, 64), local_steps=2)
    twice = flatten(adapted(plan, nobody, SeededSource(7)))
    z = twice.double().numpy() / (0.5 / 20 * 2.0 * math.sqrt(2))
    assert two_sided((z**2).sum(), stats.chi2(z.size)) > RARE


@pytest.mark.parametrize("q", [1.0, 0.25])
def test_divisor_is_public_and_blind_to_the_number_of_patients(q):
    """delta = -alpha / (q * declared * train fraction) * sum, whoever is there."""
    plan = noisy_plan(0.0, sampling_rate=q)
    for n in (1, 7, 60):
        part = people(n)
        source, same = SeededSource(8), SeededSource(8)
        delta = flatten(adapted(plan, Patients(part, 40), source))
        drawn = part.select(torch.nonzero(torch.from_numpy(same.uniform(n) < q))[:, 0])
        module = build(plan.study, seed=1)
        total = PrivateModel(module).clipped_sum(params_of(module), drawn, clip=2.0)
        expected = -0.5 / (q * 40 * 0.5) * flatten(total)
        assert torch.allclose(delta, expected, rtol=1e-5, atol=1e-7)


def test_delta_of_a_patient_moves_by_at_most_alpha_over_d_times_the_clip():
    """Fault it is for: no clip. One step, no noise, one patient of huge rows more."""
    plan, part = noisy_plan(0.0, clip=0.1), people(10)
    module = build(plan.study, seed=1)
    x, y = part.x.clone(), part.y.clone()
    x[9] *= 1e6
    y[9] = 1 - module(x[9:]).argmax()  # wrong, so that the gradient is as huge as the row
    part = Part(x, y, part.patient, 10)
    with_one, without = (
        adapted(plan, Patients(p, 40), SeededSource(0))
        for p in (part, part.select(torch.arange(9)))
    )
    change = flatten(subtract(with_one, without)).double().norm().item()
    assert 0.1 * 0.5 / 20 * 0.99 <= change <= 0.1 * 0.5 / 20 * (1 + 1e-4)


def test_only_max_records_of_a_patient_are_used():
    part = people(6)
    part = Part(part.x, part.y, torch.zeros(6, dtype=torch.int64), 1)
    one, six = (
        flatten(adapted(noisy_plan(0.0, records=k), Patients(part, 40), SeededSource(3)))
        for k in (1, 6)
    )
    records = [part.select(torch.tensor([i])) for i in range(6)]
    singles = [flatten(adapted(noisy_plan(0.0), Patients(r, 40), SeededSource(0))) for r in records]
    assert sum(torch.allclose(one, s, atol=1e-7) for s in singles) == 1
    assert not any(torch.allclose(six, s, atol=1e-7) for s in singles)


def test_without_privacy_no_noise_and_no_clip():
    plan = compile_study(study())
    part = people(10)
    delta = adapted(plan, Patients(part, 40), SeededSource(0))
    module = build(plan.study, seed=1)
    loss = torch.nn.functional.cross_entropy(module(part.x), part.y, reduction="sum")
    slopes = torch.autograd.grad(loss, list(module.parameters()))
    gradient = torch.cat([g.flatten() for g in slopes])
    assert torch.allclose(flatten(delta), -0.5 / 20 * gradient, atol=1e-6)
    assert plan.epsilon == math.inf


def test_same_source_same_delta_and_theta_is_left_alone():
    plan = noisy_plan(1.0, local_steps=3)
    theta = zeros_like(params_of(build(plan.study)))
    one, other = (adapted(plan, Patients(people(9), 40), SeededSource(4), theta) for _ in range(2))
    assert torch.equal(flatten(one), flatten(other))
    assert not flatten(theta).any()
    assert flatten(one).isfinite().all()


def test_hostile_weights_do_not_break_the_bound():
    """A coordinator may send any finite weights: the step is then noise and at most the clip."""
    plan = noisy_plan(0.0, clip=0.1)
    theta = {k: torch.full_like(v, 1e38) for k, v in params_of(build(plan.study)).items()}
    module = build(plan.study)
    total = PrivateModel(module).clipped_sum(theta, people(5), clip=0.1)
    assert flatten(total).double().norm().item() <= 5 * 0.1
