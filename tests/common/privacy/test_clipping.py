"""The two rules of clipping: what one patient can do under each, on every way a step is taken.

The expected sums are by torch.func in float64 and by the formula of the paper, not by our code.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from common.cohort.parts import Part
from common.learners import learner_for
from common.learners.types import Patients
from common.models import build, params_of
from common.params import flatten
from common.plan import Plan, compile_study
from common.privacy import engine
from common.privacy.clipping import clip_factors, clip_rows
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.study import parse_study

CLIP = 0.3
RULES = ("norm", "automatic")
VALUES = (0.5, 1e3, 1e6, 1e30, math.nan, math.inf)


def study(learner="reptile", *, clipping="automatic", **meta):
    values = {
        "name": "t",
        "cohort": {
            "max_records": 200,
            "train_fraction": 0.5,
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
        },
        "model": {"name": "mlp", "hidden": [5]},
        "learner": {"name": learner, "learning_rate": 1.0, "local_steps": 1},
        "rounds": {"count": 1},
        "privacy": {"sigma": 1.0, "delta": 1e-4, "clip": CLIP, "clipping": clipping},
    }
    if meta:
        values["learner"]["meta"] = meta
    return parse_study(values, origin="t")


def people(n, *, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=rng)
    draws = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    return Part(x, (x[:, 0] > 0).long(), torch.arange(n), n, draws)


def with_patient(part, rows):
    who = torch.cat([part.patient, torch.full((len(rows),), part.patients)])
    y = torch.cat([part.y, torch.ones(len(rows), dtype=torch.long)])
    draws = torch.cat([part.draws, torch.tensor([[0.99, 0.0]], dtype=torch.float64)])
    return Part(torch.cat([part.x, rows]), y, who, part.patients + 1, draws)


def ways(monkeypatch):
    """The closed form, the hooks, and record by record, each as (model, context to use it in)."""
    for closed_form, large in ((True, None), (False, None), (False, 0)):
        with monkeypatch.context() as patch:
            if large is not None:
                patch.setattr(engine, "_LARGE", large)
            yield PrivateModel(build(study(), seed=1), closed_form=closed_form)


def reference(part, rule):
    """Per-patient sums in float64: C g / (|g| + C / 100), or g min(1, C / |g|)."""
    module = build(study(), seed=1).double()
    params = params_of(module)

    def loss(p, x, y):
        return F.cross_entropy(functional_call(module, p, (x[None],)), y[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(params, part.x.double(), part.y)
    rows = torch.cat([g.flatten(1) for g in found.values()], dim=1)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for patient in range(part.patients):
        g = rows[part.patient == patient].mean(dim=0)
        total += CLIP * g / (g.norm() + CLIP / 100) if rule == "automatic" else (
            g * min(1.0, CLIP / g.norm().item())
        )  # fmt: skip
    return total


@pytest.mark.parametrize("rule", RULES)
def test_every_way_gives_the_sum_of_the_formula(rule, monkeypatch):
    """Faults it is for: a way of a step that goes on clipping by norm; gamma left out."""
    one_each = people(9)
    several = Part(one_each.x, one_each.y, torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5]), 6)
    params = params_of(build(study(), seed=1))
    for part in (one_each, several):
        expected = reference(part, rule)
        for model in ways(monkeypatch):
            found = flatten(model.clipped_sum(params, part, clip=CLIP, rule=rule))
            assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [*VALUES, "repeated"])
def test_one_patient_moves_every_ways_sum_by_at_most_the_clip(rule, value, monkeypatch):
    """Faults it is for: no clip, a clip a record; gamma subtracted, which lets g through longer."""
    rng = torch.Generator().manual_seed(5)
    rows = torch.randn(1, 4, generator=rng)
    rows = rows.repeat(100, 1) if value == "repeated" else torch.full((1, 4), value)
    part = people(6)
    params = params_of(build(study(), seed=1))
    for model in ways(monkeypatch):
        more, less = (
            flatten(model.clipped_sum(params, p, clip=CLIP, rule=rule)).double()
            for p in (with_patient(part, rows), part)
        )
        moved = (more - less).norm().item()
        assert moved <= CLIP * (1 + 1e-5)
        if value in (math.nan, math.inf):
            assert moved <= 1e-6
        if value == "repeated":
            assert moved >= CLIP * 0.98  # the clip was at work


@pytest.mark.parametrize("value", VALUES)
def test_one_patient_moves_automatic_products_and_episodes_by_no_more(value):
    """Fault it is for: MAML's own clips left at the other rule, or at none."""
    part, plan = people(12), compile_study(study("maml"))
    model, theta = PrivateModel(build(plan.study, seed=1)), params_of(build(plan.study, seed=1))
    direction = {k: torch.ones_like(v) for k, v in theta.items()}
    both = (with_patient(part, torch.full((1, 4), value)), part)
    more, less = (
        flatten(model.clipped_products(theta, p, direction=direction, clip=CLIP, rule="automatic"))
        for p in both
    )
    assert (more - less).norm().item() <= CLIP * (1 + 1e-5)
    episodes = Plan(study("maml", unit="episode", episodes=3), 0.0, 0.0)
    adapt = learner_for(episodes).adapt
    more, less = (
        flatten(adapt(model, theta, Patients(p, 24), SeededSource(0))).double() for p in both
    )
    assert (more - less).norm().item() * 3 <= 2 * CLIP * (1 + 1e-5)


class Noting(PrivateModel):
    """The engine, which notes by which rule it was asked to clip."""

    def clipped_sum(self, params, batch, *, clip, rule="norm"):
        self.asked = [*getattr(self, "asked", []), rule]
        return super().clipped_sum(params, batch, clip=clip, rule=rule)

    def clipped_products(self, params, batch, *, direction, clip, rule="norm"):
        self.asked = [*self.asked, rule]
        return super().clipped_products(params, batch, direction=direction, clip=clip, rule=rule)


@pytest.mark.parametrize(
    ("learner", "meta", "sums"),
    [
        ("reptile", {}, 1),
        ("fomaml", {"unit": "patient"}, 2),
        ("maml", {"unit": "patient"}, 3),
        ("maml", {"unit": "episode", "episodes": 2}, 0),
    ],
)
def test_a_studys_rule_reaches_every_sum(learner, meta, sums):
    """Fault it is for: a digest that says 'automatic' over an engine that clips by norm."""
    part = people(20)
    found = {}
    for rule in RULES:  # gradients are longer than the clip of .3: the rules differ by gamma alone
        plan = Plan(study(learner, clipping=rule, **meta), 0.0, 0.0)
        theta = params_of(build(plan.study, seed=1))
        model = Noting(build(plan.study))
        found[rule] = flatten(
            learner_for(plan).adapt(model, theta, Patients(part, 40), SeededSource(0))
        )
        assert getattr(model, "asked", []) == [rule] * sums
    assert not torch.equal(found["norm"], found["automatic"])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    exponent=st.floats(-40, 40),
    clip=st.floats(1e-3, 1e3),
    width=st.integers(1, 300),
    rule=st.sampled_from(RULES),
)
def test_no_row_whatever_is_left_longer_than_the_clip(exponent, clip, width, rule):
    rows = torch.full((1, width), 10.0**exponent, dtype=torch.float64).to(torch.float32)
    assert clip_rows(rows, clip=clip, rule=rule).double().norm().item() <= clip


def test_automatic_clipping_by_hand():
    # C = 2: 2 |g| / (|g| + .02) for |g| of 0, .02 and 2, and 0 for what is not finite.
    rows = torch.tensor([[0.0, 0.0], [0.012, 0.016], [1.2, 1.6], [math.nan, 1.0], [math.inf, 0.0]])
    left = clip_rows(rows.double(), clip=2.0, rule="automatic").norm(dim=1)
    expected = torch.tensor([0.0, 1.0, 2 * 2 / 2.02, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(left, expected, rtol=2e-6, atol=0)


def test_automatic_clipping_needs_a_clip():
    with pytest.raises(ValueError, match="finite clip"):
        clip_factors(torch.ones(1), clip=math.inf, dtype=torch.float32, rule="automatic")
    public = parse_study({**study().rules(), "privacy": None}, origin="t")
    assert compile_study(public).clipping == "norm"  # whose clip is infinite
