"""MAML and its first-order form: exact without privacy, bounded and priced with it.

Seeds are fixed; each statistical bound would fail a sound learner with a probability of 1e-6 or
less.
"""

import math
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dp_accounting import pld
from scipy import stats

from common.cohort.parts import Part
from common.errors import StudyError
from common.learners import learner_for
from common.learners.maml import exact_meta_gradient
from common.learners.tasks import episodes, support_and_query
from common.learners.types import Patients
from common.models import build, params_of
from common.params import add, flatten
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.study import parse_study

FEATURES = [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)]
ALPHA = 0.5


def study(name="maml", *, steps=2, privacy=None, model="mlp", rounds=1, q=1.0, **meta):
    values = {
        "name": "test",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": FEATURES,
            "train_fraction": 0.5,
            "max_records": 3,
        },
        "model": {"name": model, "hidden": [5]},
        "learner": {
            "name": name,
            "learning_rate": ALPHA,
            "local_steps": steps,
            "sampling_rate": q,
            "meta": meta,
        },
        "rounds": {"count": rounds},
    }
    return parse_study(values if privacy is None else {**values, "privacy": privacy}, origin="t")


def people(n, *, seed=0, records=1):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n * records, 4, generator=rng, dtype=torch.float64)
    patient = torch.arange(n).repeat_interleave(records)
    draws = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    return Part(x, (x[:, 0] + 0.3 * x[:, 1] ** 2 > 0).long(), patient, n, draws)


def double(plan):
    """The plan's model in float64, with its weights."""
    module = build(plan.study, seed=1).double()
    return PrivateModel(module, closed_form=False), params_of(module)


def adapted(plan, part, *, declared, seed=0):
    model, theta = double(plan)
    return learner_for(plan).adapt(model, theta, Patients(part, declared), SeededSource(seed))


def loss_of(plan, part):
    """The mean over patients of their mean cross-entropy, written without our own functions."""
    module = build(plan.study).double()

    def loss(vector):
        values, at = {}, 0
        for name, p in module.named_parameters():
            values[name] = vector[at : at + p.numel()].view_as(p)
            at += p.numel()
        logits = torch.func.functional_call(module, values, (part.x,))
        each = F.cross_entropy(logits, part.y, reduction="none")
        sums = torch.zeros(part.patients, dtype=each.dtype).index_add(0, part.patient, each)
        return (sums / torch.bincount(part.patient)).mean()

    return loss


def by_autograd(plan, support, query, theta, *, steps):
    """The meta-gradient by plain double backward through the whole inner loop."""
    start = flatten(theta).clone().requires_grad_()
    on_support, on_query = loss_of(plan, support), loss_of(plan, query)
    phi = start
    for _ in range(steps):
        (slope,) = torch.autograd.grad(on_support(phi), phi, create_graph=True)
        phi = phi - ALPHA * slope
    (meta,) = torch.autograd.grad(on_query(phi), start)
    return meta, phi.detach()


def product_of(plan, part, at, direction):
    """The Hessian of the mean loss times a direction, by plain double backward."""
    point = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(plan, part)(point), point, create_graph=True)
    return torch.autograd.grad((slope * direction).sum(), point)[0]


def test_draws_part_support_and_query_for_good():
    plan, part = Plan(study(query_fraction=0.3), 0.0, 0.0), people(400)
    support, query = support_and_query(part, plan.study.learner.meta)
    assert support.patients + query.patients == 400
    assert stats.binomtest(query.patients, 400, 0.3).pvalue > 1e-6
    fewer = part.of_patients(torch.arange(400) != 7)
    again, others = support_and_query(fewer, plan.study.learner.meta)
    assert {support.patients - again.patients, query.patients - others.patients} == {0, 1}


def test_episodes_part_everybody_once_and_empty_ones_are_there():
    meta = study(unit="episode", episodes=40).learner.meta
    found = list(episodes(people(60), meta))
    assert len(found) == 40
    assert sum(s.patients + q.patients for s, q in found) == 60
    assert any(s.patients + q.patients == 0 for s, q in found)


def test_patients_without_draws_cannot_be_parted():
    plan, part = Plan(study(), 0.0, 0.0), replace(people(10), draws=None)
    with pytest.raises(StudyError, match="keyed draws"):
        adapted(plan, part, declared=20)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_by_patient_without_privacy_is_the_exact_meta_gradient(steps, records, model):
    """Faults it is for: the query at theta, a forgotten or transposed step, another batch."""
    plan, part = (
        Plan(study(steps=steps, pool="shared", model=model), 0.0, 0.0),
        people(9, records=records),
    )
    delta = adapted(plan, part, declared=18)  # D = q * 18 * .5 = 9, the number of patients
    theta = double(plan)[1]
    exact, _ = by_autograd(plan, part, part, theta, steps=steps)
    assert torch.allclose(flatten(delta), -ALPHA * exact, rtol=1e-9, atol=1e-12)
    assert float(exact.norm()) > 1e-3


def test_by_patient_agrees_with_finite_differences():
    plan, part = Plan(study(steps=2, pool="shared"), 0.0, 0.0), people(9)
    vector = flatten(double(plan)[1])
    value = flatten(adapted(plan, part, declared=18)) / -ALPHA

    def outcome(at):
        phi, loss = at.clone(), loss_of(plan, part)
        for _ in range(2):
            point = phi.clone().requires_grad_()
            phi = phi - ALPHA * torch.autograd.grad(loss(point), point)[0]
        return float(loss_of(plan, part)(phi))

    step = 1e-6
    for i in range(0, len(vector), 5):
        nudge = torch.zeros_like(vector)
        nudge[i] = step
        slope = (outcome(vector + nudge) - outcome(vector - nudge)) / (2 * step)
        assert slope == pytest.approx(float(value[i]), rel=1e-5, abs=1e-8)


def test_first_order_is_the_query_gradient_at_the_adapted_weights_and_not_maml():
    first, second = (
        Plan(study(name, steps=2, pool="shared"), 0.0, 0.0) for name in ("fomaml", "maml")
    )
    part = people(9)
    theta = double(first)[1]
    _, phi = by_autograd(first, part, part, theta, steps=2)
    point = phi.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(first, part)(point), point)
    found = flatten(adapted(first, part, declared=18))
    assert torch.allclose(found, -ALPHA * expected, rtol=1e-9, atol=1e-12)
    other = flatten(adapted(second, part, declared=18))
    assert not torch.allclose(found, other, rtol=1e-2)


@pytest.mark.parametrize("name", ["fomaml", "maml"])
def test_parted_patients_are_read_on_their_own_side_alone(name):
    plan, part = Plan(study(name, steps=1, query_fraction=0.5), 0.0, 0.0), people(40)
    support, query = support_and_query(part, plan.study.learner.meta)
    delta = flatten(adapted(plan, part, declared=160))  # 160 * .5 * .5 = 40 on either side
    theta = double(plan)[1]
    slope = torch.func.grad(loss_of(plan, support))(flatten(theta)) * support.patients / 40
    phi = flatten(theta) - ALPHA * slope
    v = torch.func.grad(loss_of(plan, query))(phi) * query.patients / 40
    if name == "maml":
        product = product_of(plan, support, flatten(theta), v) * support.patients / 40
        v = v - ALPHA * product
    assert torch.allclose(delta, -ALPHA * v, rtol=1e-8, atol=1e-11)


def test_by_episode_without_privacy_is_the_mean_of_exact_meta_gradients():
    plan, part = Plan(study(steps=2, unit="episode", episodes=4), 0.0, 0.0), people(24)
    theta, total = double(plan)[1], 0.0
    for support, query in episodes(part, plan.study.learner.meta):
        total = total + by_autograd(plan, support, query, theta, steps=2)[0]
    delta = flatten(adapted(plan, part, declared=48))
    assert torch.allclose(delta, -ALPHA * total / 4, rtol=1e-9, atol=1e-12)


def test_exact_meta_gradient_of_convolutions():
    values = {
        "name": "t",
        "cohort": {"label": {"classes": ["a", "b"]}, "image": {"size": 16}},
        "model": {"name": "conv4", "width": 4},
        "learner": {"name": "maml", "learning_rate": ALPHA},
        "rounds": {"count": 1},
    }
    plan = Plan(parse_study(values, origin="t"), 0.0, 0.0)
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 16, 16, generator=rng, dtype=torch.float64)
    part = Part(x, torch.arange(6) % 2, torch.arange(6), 6)
    model, theta = double(plan)
    exact = exact_meta_gradient(model, theta, part, part, steps=2, learning_rate=ALPHA)
    expected, _ = by_autograd(plan, part, part, theta, steps=2)
    assert torch.allclose(flatten(exact), expected, rtol=1e-8, atol=1e-12)
    products = model.clipped_products(theta, part, direction=exact, clip=math.inf)
    twice = product_of(plan, part, flatten(theta), flatten(exact))
    assert torch.allclose(flatten(products) / 6, twice, rtol=1e-8, atol=1e-12)


def test_products_are_the_same_after_hooks_were_used():
    plan, part = Plan(study(), 0.0, 0.0), people(7)
    model, theta = double(plan)
    before = model.clipped_products(theta, part, direction=theta, clip=0.1)
    gradient = model.clipped_sum(theta, part, clip=0.1)
    after = model.clipped_products(theta, part, direction=theta, clip=0.1)
    assert torch.equal(flatten(before), flatten(after))
    assert torch.equal(flatten(gradient), flatten(model.clipped_sum(theta, part, clip=0.1)))


def with_record(part, value):
    """One patient more, with a record of that value, on the support's side and in episode 0."""
    x = torch.cat([part.x, torch.full((1, 4), value, dtype=part.x.dtype)])
    draws = torch.cat([part.draws, torch.tensor([[0.99, 0.0]], dtype=torch.float64)])
    y, who = torch.cat([part.y, torch.tensor([1])]), torch.arange(part.patients + 1)
    return Part(x, y, who, part.patients + 1, draws)


@pytest.mark.parametrize("value", [0.5, 1e3, 1e6, 1e30, math.nan, math.inf])
def test_one_patient_moves_the_products_by_at_most_the_clip(value):
    """Fault it is for: a batch's product clipped in place of each patient's, or none at all."""
    plan, part = Plan(study(), 0.0, 0.0), people(12)
    model, theta = double(plan)
    direction = {k: torch.randn_like(v) for k, v in theta.items()}
    one, more = (
        model.clipped_products(theta, p, direction=direction, clip=0.05)
        for p in (part, with_record(part, value))
    )
    moved = float((flatten(one) - flatten(more)).norm())
    assert moved <= 0.05 * (1 + 1e-9)
    assert moved == 0 if not math.isfinite(value) else True


def test_an_empty_batch_has_no_product():
    plan = Plan(study(), 0.0, 0.0)
    model, theta = double(plan)
    empty = people(3).select(torch.zeros(0, dtype=torch.long))
    assert (
        float(flatten(model.clipped_products(theta, empty, direction=theta, clip=1.0)).norm()) == 0
    )


@pytest.mark.parametrize("value", [0.5, 1e3, 1e6, 1e30, math.nan, math.inf])
def test_one_patient_moves_the_sum_over_episodes_by_at_most_twice_the_clip(value):
    privacy = {"sigma": 1.0, "delta": 1e-4, "clip": 0.02}
    plan = Plan(study(unit="episode", episodes=4, privacy=privacy), 0.0, 0.0)
    part = people(24)
    one, more = (flatten(adapted(plan, p, declared=48)) for p in (part, with_record(part, value)))
    moved = float((one - more).norm()) * 4 / ALPHA
    assert moved <= 2 * 0.02 * (1 + 1e-9)


class Recording:
    """A source that keeps what it gave: the noise of every sum, one after another."""

    secure = False

    def __init__(self, seed):
        self._inner, self.noises, self.samples = SeededSource(seed), [], 0

    def uniform(self, n):
        self.samples += 1
        return self._inner.uniform(n)

    def normal(self, n):
        self.noises.append(n)
        return self._inner.normal(n)


NOISE_OF = {  # K steps; K steps and a query; the same and K products
    ("fomaml", "patient"): (4, 4),
    ("maml", "patient"): (7, 4),
    ("maml", "episode"): (1, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), NOISE_OF)
@pytest.mark.parametrize("pool", ["parted", "shared"])
def test_every_sum_gets_noise_of_its_own_and_no_batch_is_drawn_twice(name, unit, pool):
    """Faults: products without noise, or on a fresh sample, which would be a third mechanism."""
    q = 1.0 if unit == "episode" else 0.5
    privacy = {"sigma": 1.0, "delta": 1e-4}
    plan = compile_study(study(name, steps=3, unit=unit, pool=pool, q=q, privacy=privacy))
    model, theta = double(plan)
    source = Recording(0)
    people_here = people(30)
    several = replace(people_here, patient=people_here.patient)
    learner_for(plan).adapt(model, theta, Patients(several, 60), source)
    size, (sums, samples) = flatten(theta).numel(), NOISE_OF[name, unit]
    assert source.noises == [size] * sums
    assert source.samples == samples


@pytest.mark.parametrize("pool", ["parted", "shared"])
def test_the_noise_of_the_query_and_of_the_products_has_its_scale(pool):
    """With no patients the delta is noise alone: -alpha (v_K carried back), v_K ~ N(0, s^2 / D^2).

    Faults it is for: the product's noise left at C where its sensitivity is c |v|, sigma for
    sigma_q.
    """
    privacy = {"sigma": 2.0, "delta": 1e-4, "clip": 0.5}
    base = study("maml", steps=1, pool=pool, privacy=privacy, curvature_clip=3.0)
    plan = Plan(base, 2.0, 1.0, 5.0)
    module = build(plan.study).double()
    model, theta = PrivateModel(module, closed_form=False), params_of(module)
    nobody = people(1).select(torch.zeros(0, dtype=torch.long))
    share = 0.5 if pool == "parted" else 1.0
    divisor, firsts, seconds = 100 * 0.5 * share, [], []
    for seed in range(60):
        recorded = SeededSource(seed)
        size = flatten(theta).numel()
        recorded.normal(size)
        v = 5.0 * 0.5 * torch.from_numpy(recorded.normal(size)) / divisor
        delta = flatten(
            learner_for(plan).adapt(model, theta, Patients(nobody, 100), SeededSource(seed))
        )
        rest = (delta / -ALPHA - v) * divisor / -ALPHA / (2.0 * 3.0 * float(v.norm()))
        firsts.append(rest)
        seconds.append(recorded.normal(size))
    assert np.allclose(torch.stack(firsts).numpy(), np.stack(seconds), rtol=1e-6)


def independent_epsilon(events, *, delta, replaced=False):
    relation = dp_accounting.NeighboringRelation
    kind = relation.REPLACE_ONE if replaced else relation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(kind)
    for sigma, q, count in events:
        step = dp_accounting.GaussianDpEvent(sigma)
        accountant.compose(step if q == 1 else dp_accounting.PoissonSampledDpEvent(q, step), count)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("name", ["fomaml", "maml"])
def test_parted_prices_compose_in_parallel(name):
    """Each side meets the target alone, with the least noise; nobody pays for both."""
    privacy = {"epsilon": 2.0, "delta": 1e-4}
    plan = compile_study(study(name, steps=4, rounds=3, privacy=privacy))
    support, query = sides(plan, q=1.0, steps=12, rounds=3)
    assert max(support, query) <= 2.0
    assert min(support, query) > 1.98
    assert plan.epsilon_after(3) == pytest.approx(max(support, query), rel=1e-3)
    assert plan.query_sigma < plan.sigma


@pytest.mark.slow
def test_parted_prices_are_of_samples_where_patients_are_sampled():
    privacy = {"sigma": 1.5, "delta": 1e-4}
    plan = compile_study(study("maml", steps=4, rounds=3, q=0.3, privacy=privacy))
    support, query = sides(plan, q=0.3, steps=12, rounds=3)
    assert support > 1.5 * query
    assert plan.epsilon_after(3) == pytest.approx(support, rel=1e-3)


def sides(plan, *, q, steps, rounds):
    """What a support and a query patient pay, by dp-accounting alone."""
    worth = plan.sigma / math.sqrt(2) if plan.study.learner.name == "maml" else plan.sigma
    support = independent_epsilon([(worth, q, steps)], delta=1e-4)
    return support, independent_epsilon([(plan.query_sigma, q, rounds)], delta=1e-4)


@pytest.mark.parametrize("name", ["fomaml", "maml"])
def test_a_shared_pool_pays_for_both(name):
    """Fault it is for: the query forgotten in the price of a pool that everybody is in."""
    rules = study(name, steps=4, rounds=3, pool="shared", privacy={"epsilon": 2.0, "delta": 1e-4})
    plan = compile_study(rules)
    worth = plan.sigma / math.sqrt(2) if name == "maml" else plan.sigma
    both = independent_epsilon([(worth, 1.0, 12), (plan.query_sigma, 1.0, 3)], delta=1e-4)
    assert 1.98 < both <= 2.0
    assert plan.epsilon_after(3) == pytest.approx(both, rel=1e-3)


def test_episodes_are_priced_for_an_exchange():
    rules = study(unit="episode", rounds=5, privacy={"epsilon": 2.0, "delta": 1e-4})
    plan = compile_study(rules)
    price = independent_epsilon([(plan.sigma, 1.0, 5)], delta=1e-4, replaced=True)
    assert 1.98 < price <= 2.0
    assert plan.epsilon_after(5) == pytest.approx(price, rel=1e-3)
    assert plan.adjacency == "replace"
    assert plan.evaluation_price().adjacency == "replace"
    once = independent_epsilon([(plan.evaluation_sigma, 1.0, 1)], delta=1e-4, replaced=True)
    assert once <= 2.0


def test_two_queries_on_one_sample_are_one_gaussian_of_the_smaller_noise():
    """The hockey-stick divergence of two unit queries is that of the one that prices them."""
    sigma, eps = 1.3, 0.7
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2_000_000, 2))
    loss = (draws + 1 / sigma) @ np.array([1, 1]) / sigma - 1 / sigma**2
    ratio = np.maximum(0, 1 - np.exp(eps - loss)).mean()
    mu = math.sqrt(2) / sigma
    closed = stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu)
    assert ratio == pytest.approx(closed, abs=2e-3)


def test_steps_then_query_differ_from_query_at_theta():
    """The mutant 'query = support at theta' is a plain gradient step: MAML must not be that."""
    plan, part = Plan(study(steps=3, pool="shared"), 0.0, 0.0), people(9)
    theta = double(plan)[1]
    plain = torch.func.grad(loss_of(plan, part))(flatten(theta))
    found = flatten(adapted(plan, part, declared=18)) / -ALPHA
    assert not torch.allclose(found, plain, rtol=1e-2)
    assert add(theta, theta).keys() == theta.keys()
