"""Every learner, query by query: one patient more moves each answer by no more than its clip.

Two hospitals differ in one patient and are given the same answers, drawn for the first: what each
would have added to the noise is then comparable at every step, however the steps hang together.
"""

import math

import pytest
import torch

from common.cohort.parts import Part
from common.learners import LEARNERS, learner_for
from common.learners.adaptation import adapt_locally
from common.learners.types import Patients
from common.models import beside, build, load_params, params_of
from common.params import add, flatten, head_of, subtract
from common.plan import compile_study
from common.privacy.class_sums import sensitivity as of_classes
from common.privacy.engine import PrivateModel
from common.privacy.moments import sensitivity
from common.privacy.noise import SeededSource
from common.study import AdaptationSpec, parse_study

CLIP, CURVATURE = 0.3, 0.7
BY_STEPS = [
    "reptile",
    "fedavg",
    "fedprox",
    "fomaml",
    "maml",
    "fedrep",
    "anil",
    "hypernetwork",
    "metanet",
    "aligned",
    "prototypical",
    "matching",
    "siamese",
    "triplet",
]

WITH_QUERY = ("fomaml", "maml", "anil", "metanet")


def plan_for(name, *, pool="parted", steps=3):
    learner = {"name": name, "learning_rate": 0.5, "local_steps": steps}
    if name in WITH_QUERY:
        learner["meta"] = {"pool": pool, "curvature_clip": CURVATURE}
    if name in ("prototypical", "matching", "siamese", "triplet"):
        learner["metric"] = {"radius": 2.0}
    if name == "fedprox":
        learner["proximal"] = 0.1
    values = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
        },
        "model": {"name": "mlp", "hidden": [6]},
        "learner": learner,
        "rounds": {"count": 2},
        "privacy": {"sigma": 1.0, "delta": 1e-4, "clip": CLIP},
    }
    return compile_study(parse_study(values, origin="t"))


def people(n, *, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=rng, dtype=torch.float64)
    draws = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    return Part(x, (x[:, 0] > 0).long(), torch.arange(n), n, draws)


def with_one_more(part, value, *, side):
    x = torch.cat([part.x, torch.full((1, 4), value, dtype=part.x.dtype)])
    draws = torch.cat([part.draws, torch.tensor([[side, 0.5]], dtype=torch.float64)])
    y = torch.cat([part.y, torch.tensor([0])])
    return Part(x, y, torch.arange(part.patients + 1), part.patients + 1, draws)


class Scripted(PrivateModel):
    """A model that answers with a script, and keeps what it would have answered and the clip."""

    def __init__(self, module, script=None):
        super().__init__(module, closed_form=False)
        self.asked, self._script = [], script

    def _answer(self, own, clip):
        self.asked.append((own, clip))
        return own if self._script is None else self._script[len(self.asked) - 1][0]

    def clipped_sum(self, params, batch, *, clip, **more):
        return self._answer(super().clipped_sum(params, batch, clip=clip, **more), clip)

    def clipped_sum_of(self, loss, at, batch, *, clip, **more):
        return self._answer(super().clipped_sum_of(loss, at, batch, clip=clip, **more), clip)

    def moment_sums(self, params, part, *, radius, second, **more):
        own = super().moment_sums(params, part, radius=radius, second=second, **more)
        return self._answer(own, sensitivity(radius, second=second))

    def class_sums(self, params, batch, *, radius, **more):
        own = super().class_sums(params, batch, radius=radius, **more)
        return self._answer(own, of_classes(radius))

    def clipped_products(self, params, batch, *, direction, clip, **more):
        own = super().clipped_products(params, batch, direction=direction, clip=clip, **more)
        return self._answer(own, clip)


def moves(adapt, plan, part, more):
    """By how much of its clip the one patient moves each answer."""
    first = Scripted(build(plan.study, seed=1).double())
    theta = {k: v.double() for k, v in beside(plan.study, first._model, seed=1).items()}
    theta |= params_of(build(plan.study, seed=1).double())
    adapt(first, theta, Patients(part, 40), SeededSource(5))
    second = Scripted(build(plan.study).double(), script=first.asked)
    adapt(second, theta, Patients(more, 40), SeededSource(5))
    assert [c for _, c in first.asked] == [c for _, c in second.asked]
    return [
        float(flatten(subtract(a, b)).norm()) / clip
        for (a, clip), (b, _) in zip(first.asked, second.asked, strict=True)
    ]


@pytest.mark.parametrize("value", [0.5, pytest.param(1e6, marks=pytest.mark.slow), math.nan])
@pytest.mark.parametrize("side", [0.1, 0.9])  # in the query, in the support
@pytest.mark.parametrize(
    ("name", "pool"),
    [(n, pool) for n in BY_STEPS for pool in ("parted", "shared")[: 1 + (n in WITH_QUERY)]],
)
def test_one_patient_moves_no_answer_by_more_than_its_clip(name, pool, side, value):
    plan, part = plan_for(name, pool=pool), people(20)
    found = moves(learner_for(plan).adapt, plan, part, with_one_more(part, value, side=side))
    assert max(found) <= 1 + 1e-9
    if value == 0.5:
        assert max(found) > 0


@pytest.mark.parametrize("name", WITH_QUERY)
def test_a_patient_of_one_side_moves_nothing_on_the_other(name):
    """Fault it is for: prices that compose in parallel over patients who are read twice."""
    plan, part = plan_for(name, steps=2), people(20)
    in_query = moves(learner_for(plan).adapt, plan, part, with_one_more(part, 0.5, side=0.1))
    in_support = moves(learner_for(plan).adapt, plan, part, with_one_more(part, 0.5, side=0.9))
    assert [m > 0 for m in in_query[:3]] == [False, False, True]
    assert [m > 0 for m in in_support[:3]] == [True, True, False]
    assert all(m == 0 for m in in_query[3:])  # products are of the support's patients


def test_a_head_trained_without_noise_before_the_body_is_caught():
    """The planted fault: the hospital fits its head freely, then takes sound steps of the body.

    Each patient's gradient is clipped, and noise is added, yet one patient moves the head and
    through it everybody's gradient.
    """
    plan, part = plan_for("fedrep"), people(20)
    sound = learner_for(plan).adapt

    def wrong(model, theta, patients, source):
        module = build(plan.study).double()
        load_params(module, theta)
        fitted = adapt_locally(module, theta, patients.train, AdaptationSpec(prior=0.01))
        start = {**theta, **{k: fitted[k].double() for k in head_of(theta)}}
        return add(sound(model, start, patients, source), subtract(start, theta))

    more = with_one_more(part, 3.0, side=0.9)
    assert max(moves(sound, plan, part, more)) <= 1 + 1e-9
    assert max(moves(wrong, plan, part, more)) > 1.2


def test_every_learner_is_replayed():
    assert set(BY_STEPS) == set(LEARNERS)
