"""Feature alignment: gradients of the papers' losses, one patient's bound, the price, the gain."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from common import alignment
from common.alignment_spec import AlignmentSpec
from common.cohort.parts import Part
from common.errors import StudyError
from common.learners import learner_for
from common.learners.aligned import alignment_names, own_moments
from common.learners.types import Contribution, Patients
from common.models import build, initial_params, shapes_of, trained
from common.params import flatten, head_of, only, subtract
from common.plan import Plan, compile_study
from common.privacy.accounting import epsilon
from common.privacy.engine import PrivateModel, prv_epsilon
from common.privacy.moments import covariance_of, moments_of
from common.privacy.noise import SeededSource
from common.study import parse_study

torch.set_num_threads(1)

CORAL = {"kind": "coral", "radius": 2.0, "weight": 3.0}
LINEAR = {"kind": "mmd", "radius": 2.0, "weight": 3.0}
RBF = {"kind": "mmd", "kernel": "rbf", "radius": 2.0, "weight": 3.0, "frequencies": 20}
KINDS = pytest.mark.parametrize("kind", [CORAL, LINEAR, RBF], ids=["coral", "linear", "rbf"])


def plan_for(kind, *, privacy=None, steps=1, rounds=4, rate=0.5, q=1.0, server=None, **model):
    values = {
        "name": "t",
        "cohort": {
            "train_fraction": 0.5,
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
        },
        "model": {"name": "mlp", "hidden": [6], **model},
        "learner": {"name": "aligned", "learning_rate": rate, "local_steps": steps,
                    "sampling_rate": q, "alignment": kind},
        "rounds": {"count": rounds},
        "privacy": privacy,
        "server": server or {},
    }  # fmt: skip
    study = parse_study(values, origin="t")
    return compile_study(study) if privacy is None else Plan(study, privacy["sigma"], 1.0)


def people(n, *, seed=0, shift=0.0, records=1):
    rng = torch.Generator().manual_seed(seed)
    who = torch.arange(n).repeat_interleave(records)
    x = torch.randn(len(who), 4, generator=rng, dtype=torch.float64)
    return Part(x + shift, (x[:, 0] > 0).long(), who, n)


def started(plan, *others, seed=1):
    """Shared weights after a first round of other hospitals, whose moments they hold."""
    learner = learner_for(plan)
    theta = {k: v.double() for k, v in initial_params(plan.study, seed=seed).items()}
    if not others:
        return theta
    model = PrivateModel(build(plan.study).double())
    found = [
        Contribution(2 * p.patients, learner.adapt(model, theta, Patients(p, 2 * p.patients),
                                                   SeededSource(0)))
        for p in others
    ]  # fmt: skip
    return learner.apply(learner.init(theta), found).params


def batch_loss(spec, z, everybody):
    """The papers' distance of a whole hospital to fixed pooled moments, written from scratch."""
    length = z.norm(dim=1, keepdim=True)
    e = torch.where(length > spec.radius, z * spec.radius / length, z)
    if spec.kernel == "rbf":
        e = alignment.embedded(spec, z)
    if spec.kind == "mmd":
        return ((e.mean(0) - everybody["mean"]) ** 2).sum()
    covariance = torch.cov(e.T, correction=0)
    return ((covariance - everybody["covariance"]) ** 2).sum() / (4 * z.shape[1] ** 2)


@KINDS
def test_a_step_at_the_shared_weights_is_the_gradient_of_the_whole_distance(kind):
    """Without noise and clip. Faults: the moments' own part lost or doubled; a wrong factor."""
    plan, mine = plan_for(kind), people(30, shift=1.0)
    spec = plan.study.learner.alignment
    theta = started(plan, people(20, seed=1), people(40, seed=2))
    module = build(plan.study).double()
    model = PrivateModel(module)
    delta = learner_for(plan).adapt(model, theta, Patients(mine, 60), SeededSource(0))

    places = {k: v for k, v in theta.items() if k not in alignment_names(theta)}
    everybody = {"mean": theta[alignment.SUMS]}
    if kind is CORAL:
        sums = {"sums": theta[alignment.SUMS], "products": theta[alignment.PRODUCTS]}
        everybody["covariance"] = moments_of(sums, radius=spec.radius, patients=1).covariance
    weights = {k: v.clone().requires_grad_() for k, v in places.items()}
    with module.watched() as seen:
        outputs = functional_call(module, weights, (mine.x,))
    loss = torch.nn.functional.cross_entropy(outputs, mine.y)
    transfer = batch_loss(spec, seen[0], everybody)
    assert transfer > 1e-6
    total = loss + spec.weight * transfer
    found = torch.autograd.grad(total, list(weights.values()))
    for slope, name in zip(found, weights, strict=True):
        torch.testing.assert_close(delta[name], -0.5 * slope, rtol=1e-8, atol=1e-12)


@KINDS
def test_moments_leave_with_the_change_and_are_pooled_by_declared_size(kind):
    plan = plan_for(kind)
    parts = people(20, seed=1), people(60, seed=2)
    theta = started(plan)
    pooled = started(plan, *parts)
    model = PrivateModel(build(plan.study).double())
    own = [own_moments(plan, model, theta, Patients(p, 2 * p.patients), SeededSource(0))
           for p in parts]  # fmt: skip
    for name in alignment_names(theta):
        torch.testing.assert_close(pooled[name], 0.25 * own[0][name] + 0.75 * own[1][name])
    assert pooled[alignment.KNOWN].item() == 1.0
    spec, like = plan.study.learner.alignment, shapes_of(plan.study)
    assert {k: v.shape for k, v in theta.items()} == {k: v.shape for k, v in like.items()}
    assert trained(plan.study, like).keys() == like.keys()
    assert not any(name.startswith("alignment") for name in head_of(theta))
    width = 2 * spec.frequencies if kind is RBF else 6
    assert theta[alignment.SUMS].shape == (width,)


@pytest.mark.parametrize("server", [{"optimizer": "adam"}, {"learning_rate": 0.1}])
def test_a_server_that_steps_otherwise_pools_moments_all_the_same(server):
    plain, other = (started(plan_for(CORAL, server=s), people(20)) for s in (None, server))
    for name in alignment_names(plain):
        torch.testing.assert_close(plain[name], other[name])
    assert not torch.equal(plain["body.1.weight"], other["body.1.weight"])


def test_moments_pooled_with_a_shrinking_step_are_still_means():
    plan = plan_for(LINEAR, server={"decay": "linear"}, rounds=10)
    learner, theta = learner_for(plan), started(plan)
    state = learner.init(theta)
    delta = {k: torch.full_like(v, 0.0) for k, v in theta.items()}
    for _ in range(3):
        target = {alignment.SUMS: torch.full((6,), 2.0).double(), alignment.KNOWN: torch.ones(1)}
        change = {k: target[k] - state.params[k] for k in target}
        state = learner.apply(state, [Contribution(1, {**delta, **change})])
    found = alignment.pooled(state.params)
    torch.testing.assert_close(found[alignment.SUMS], torch.full((6,), 2.0).double())


def test_a_first_round_is_one_without_alignment():
    plan, mine = plan_for(CORAL, steps=3), Patients(people(20), 40)
    model = PrivateModel(build(plan.study).double())
    theta = started(plan)
    found = learner_for(plan).adapt(model, theta, mine, SeededSource(0))
    values = plan.study.model_dump(mode="json")
    values["learner"] |= {"name": "reptile", "alignment": None}
    other = compile_study(parse_study(values, origin="t"))
    weights = only(theta, model.trained)
    expected = learner_for(other).adapt(model, weights, mine, SeededSource(0))
    torch.testing.assert_close(only(found, model.trained), expected)


class Scripted(PrivateModel):
    """A model that answers with a script, and keeps what it would have answered."""

    def __init__(self, module, script=None):
        super().__init__(module, closed_form=False)
        self.asked, self._script = [], script

    def _answer(self, own):
        self.asked.append(own)
        return own if self._script is None else self._script[len(self.asked) - 1]

    def clipped_sum_of(self, *args, **more):
        return self._answer(super().clipped_sum_of(*args, **more))

    def moment_sums(self, *args, **more):
        return self._answer(super().moment_sums(*args, **more))


def answers_moved(plan, value, records):
    """How far each answer moves for one patient more; all see the answers of the smaller part."""
    part = people(20)
    more = Part(
        torch.cat([part.x, torch.full((records, 4), value, dtype=torch.float64)]),
        torch.cat([part.y, torch.zeros(records, dtype=torch.int64)]),
        torch.cat([part.patient, torch.full((records,), 20)]),
        21,
    )
    theta = started(plan, people(30, seed=3))
    adapt = learner_for(plan).adapt
    first = Scripted(build(plan.study).double())
    adapt(first, theta, Patients(part, 40), SeededSource(5))
    second = Scripted(build(plan.study).double(), first.asked)
    adapt(second, theta, Patients(more, 40), SeededSource(5))
    return [
        float(flatten(subtract(a, b)).norm())
        for a, b in zip(first.asked, second.asked, strict=True)
    ]


@pytest.mark.parametrize("value", [0.5, 1e6, math.nan])
@KINDS
def test_one_patient_moves_the_moments_by_their_bound_and_a_step_by_the_clip(kind, value):
    """Faults it is for: features that are not drawn in; two clips, of the task and of the rest."""
    plan = plan_for(kind, privacy={"sigma": 1.0, "delta": 1e-4, "clip": 0.3}, steps=2)
    moments, *steps = answers_moved(plan, value, records=1)
    bound = {"coral": 2 * math.sqrt(2), "mmd": 1.0 if kind is RBF else 2.0}[kind["kind"]]
    assert moments <= bound * (1 + 1e-9)
    assert len(steps) == 2
    assert max(steps) <= 0.3 * (1 + 1e-9)
    if value == 0.5:
        assert moments > 0
        assert min(steps) > 0
    if value == 1e6 and kind is not RBF:
        assert moments == pytest.approx(bound)


def test_a_patient_of_many_records_is_still_one():
    plan = plan_for(CORAL, privacy={"sigma": 1.0, "delta": 1e-4, "clip": 0.3})
    assert answers_moved(plan, 1e6, 100) == pytest.approx(answers_moved(plan, 1e6, 1))


@pytest.mark.parametrize("q", [1.0, 0.2])
@KINDS
def test_moments_leave_with_noise_of_the_stated_size(kind, q):
    """sigma / q times the bound, over the public count; the numbers are the source's first ones."""
    plan = plan_for(kind, privacy={"sigma": 2.0, "delta": 1e-4, "clip": 0.3}, q=q)
    bare = plan_for(kind, q=q)
    theta = started(bare, people(30, seed=3))
    model, mine = PrivateModel(build(plan.study).double()), Patients(people(20), 60)
    noisy, plain = (own_moments(p, model, theta, mine, SeededSource(7)) for p in (plan, bare))
    bound = {"coral": 2 * math.sqrt(2), "mmd": 1.0 if kind is RBF else 2.0}[kind["kind"]]
    names = [k for k in (alignment.SUMS, alignment.PRODUCTS) if k in noisy]
    found = flatten(only(subtract(noisy, plain), names)).numpy()
    expected = 2.0 / q * bound * SeededSource(7).normal(len(found)) / (60 * 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_price_is_that_of_one_gaussian_and_k_sampled_ones_a_round():
    """At q = 1 all are Gaussians: mu^2 = R (1 + K) / sigma^2 (Dong, Roth and Su, corollary 3.3)."""
    from scipy.stats import norm

    plan = plan_for(CORAL, privacy={"sigma": 8.0, "delta": 1e-4, "clip": 0.3}, steps=3, rounds=4)
    found = plan.epsilon_after(4)
    mu = math.sqrt(4 * (1 + 3)) / 8.0
    delta = norm.cdf(-found / mu + mu / 2) - math.exp(found) * norm.cdf(-found / mu - mu / 2)
    assert delta == pytest.approx(1e-4, rel=0.02)

    sampled = plan_for(CORAL, privacy={"sigma": 2.0, "delta": 1e-4, "clip": 0.3}, steps=3, q=0.2)
    events = sampled.training_prices(rounds=4)
    assert {(e.sigma, e.sampling_rate, e.count) for e in events} == {(10.0, 1.0, 4), (2.0, 0.2, 12)}
    assert epsilon(events, delta=1e-4) == pytest.approx(
        prv_epsilon([*events], delta=1e-4), rel=0.02
    )


@pytest.mark.slow
@KINDS
def test_alignment_draws_two_scanners_together(kind):
    """One hospital's inputs are shifted and stretched; both learn the task as well."""
    sites = [Patients(people(30, seed=1), 60), Patients(people(30, seed=2, shift=1.5), 60)]

    def gap(weight):
        plan = plan_for({**kind, "weight": weight}, rounds=20, rate=0.3)
        learner, theta = learner_for(plan), started(plan)
        model, state = PrivateModel(build(plan.study).double()), learner.init(theta)
        for _ in range(20):
            found = [
                Contribution(60, learner.adapt(model, state.params, s, SeededSource(0)))
                for s in sites
            ]
            state = learner.apply(state, found)
        one, other = (own_moments(plan, model, state.params, s, SeededSource(0)) for s in sites)
        if kind is CORAL:
            one, other = (
                {alignment.SUMS: covariance_of(m[alignment.PRODUCTS], m[alignment.SUMS], 2.0)}
                for m in (one, other)
            )
        return float((one[alignment.SUMS] - other[alignment.SUMS]).norm())

    assert gap({"coral": 200.0, "mmd": 1.0}[kind["kind"]]) < 0.8 * gap(1e-6)


def test_random_features_are_of_norm_one_and_their_products_are_the_kernel():
    # m = 4000: the mean of cosines has a spread of at most 1/sqrt(8000) = .011; 5 of them.
    spec = AlignmentSpec(kind="mmd", kernel="rbf", frequencies=4000, bandwidth=1.5, radius=9.0)
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    e = alignment.embedded(spec, z)
    torch.testing.assert_close(e.norm(dim=1), torch.ones(5, dtype=torch.float64))
    kernel = torch.exp(-torch.cdist(z, z).square() / (2 * 1.5**2))
    assert (e @ e.T - kernel).abs().max() < 0.06


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "logistic"}}, "whose last layer is all of it"),
        ({"model": {"name": "mlp", "hidden": []}}, "whose last layer is all of it"),
        ({"model": {"name": "mlp", "frozen": "body"}}, "do not move"),
        ({"server": {"norm_bound": 1.0}}, "server.norm_bound is 1"),
        ({"learner": {"name": "reptile"}}, "alignment is given with learner 'reptile'"),
        ({"learner": {"task": {"kind": "pairs"}}}, "task is given with learner 'aligned'"),
        ({"learner": {"alignment": {"kernel": "rbf"}}}, "kernel is 'rbf' and kind is 'coral'"),
        ({"learner": {"alignment": {"radius": 0}}}, "learner.alignment.radius is 0"),
    ],
)
def test_what_cannot_be_aligned_is_refused(changes, words):
    values = plan_for(CORAL).study.model_dump(mode="json")
    for table, change in changes.items():
        values[table] = {**values[table], **change} if table != "model" else change
    with pytest.raises(StudyError, match=words) as caught:
        compile_study(parse_study(values, origin="t"))
    assert caught.value.remedy


def test_another_arm_of_the_study_has_no_alignment():
    spec = plan_for(CORAL).study.learner
    assert spec.named("reptile").alignment is None
    assert spec.named("reptile").named("aligned").alignment == AlignmentSpec()
    assert spec.named("aligned").alignment == spec.alignment
