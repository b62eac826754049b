"""Local adaptation against scikit-learn's ridge solution, and at its edges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.func import functional_call, grad

from common.cohort.parts import Part
from common.learners.adaptation import adapt_locally
from common.models import build, params_of
from common.params import flatten, unflatten, zeros_like
from common.study import AdaptationSpec, parse_study


def model_of(classes=2, name="logistic"):
    return build(
        parse_study(
            {
                "name": "test",
                "cohort": {
                    "label": {"classes": [f"c{i}" for i in range(classes)]},
                    "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(3)],
                },
                "model": {"name": name, "hidden": [4]},
                "learner": {"learning_rate": 1.0},
                "rounds": {"count": 1},
            },
            origin="test",
        ),
        seed=1,
    )


def part_of(records, *, classes=2, patients=None):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(records, 3, generator=rng)
    y = (x[:, 0] + 0.5 * torch.randn(records, generator=rng)).gt(0).long()
    y = (y + (x[:, 1] > 0.8).long()) % classes
    owners = torch.arange(records) % (patients or records)
    return Part(x, y, owners, patients or records)


def double(params):
    return {k: v.double() for k, v in params.items()}


@pytest.mark.parametrize("prior", [0.5, 10.0])
@pytest.mark.parametrize("patients", [80, 33], ids=["one record each", "several records"])
def test_two_classes_around_zero_are_ridge_logistic_regression(prior, patients):
    """Both rows of the softmax pay: prior/2 (|w_0|^2 + |w_1|^2) with w_1 = -w_0 = u/2 is
    (prior/2)/2 |u|^2 for the log-odds u, so scikit-learn's C is 2 / prior. Its intercept is free.
    """
    part, module = part_of(80, patients=patients), model_of()
    center = double(zeros_like(params_of(module)))
    spec = AdaptationSpec(prior=prior, bias_prior=0.0)
    found = adapt_locally(module, center, part, spec)
    theirs = LogisticRegression(C=2 / prior, tol=1e-10, max_iter=10_000)
    theirs.fit(part.x.double().numpy(), part.y.numpy(), sample_weight=part.weights.numpy())
    weight, bias = found["body.1.weight"], found["body.1.bias"]
    np.testing.assert_allclose((weight[1] - weight[0]).numpy(), theirs.coef_[0], atol=1e-5)
    assert (bias[1] - bias[0]).item() == pytest.approx(theirs.intercept_[0], abs=1e-5)


def test_three_classes_around_zero_are_multinomial_ridge():
    """Here scikit-learn too penalises every row: C = 1 / prior."""
    part, module = part_of(120, classes=3), model_of(3)
    spec = AdaptationSpec(prior=4.0, bias_prior=0.0)
    found = adapt_locally(module, double(zeros_like(params_of(module))), part, spec)
    theirs = LogisticRegression(C=1 / 4, tol=1e-10, max_iter=10_000)
    theirs.fit(part.x.double().numpy(), part.y.numpy())
    np.testing.assert_allclose(found["body.1.weight"].numpy(), theirs.coef_, atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_gradient_of_the_objective_vanishes_at_the_answer(name):
    """The objective written again: unit mass a patient, one prior for weights, one for biases."""
    part, module, twin = part_of(60, patients=25), model_of(name=name), model_of(name=name)
    if name == "mlp":
        module.body[2] = twin.body[2] = torch.nn.Tanh()  # a ReLU has kinks, where none vanishes
    center = {k: v + 0.3 for k, v in double(params_of(module)).items()}
    spec = AdaptationSpec(prior=2.0, bias_prior=0.2, max_steps=500)
    found = adapt_locally(module, center, part, spec)
    anchor, twin = flatten(center), twin.double()
    strength = flatten({k: torch.full_like(v, 0.2 if k.endswith("bias") else 2.0)
                        for k, v in center.items()})  # fmt: skip

    def objective(vector):
        logits = functional_call(twin, unflatten(vector, center), (part.x.double(),))
        losses = F.cross_entropy(logits, part.y, reduction="none")
        means = torch.stack([losses[part.patient == j].mean() for j in range(part.patients)])
        return means.sum() + (strength * (vector - anchor) ** 2).sum() / 2

    assert grad(objective)(flatten(found)).abs().max().item() < 1e-4
    assert objective(flatten(found)) < objective(anchor)


def test_a_strong_prior_returns_the_center_and_a_weak_one_leaves_it():
    part, module = part_of(60), model_of()
    center = {k: v + 1 for k, v in params_of(module).items()}
    distances = []
    for prior in (0.1, 10.0, 1e3, 1e9):
        spec = AdaptationSpec(prior=prior, bias_prior=prior)
        found = adapt_locally(module, center, part, spec)
        distances.append((flatten(found) - flatten(center)).norm().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 1e-6


def test_without_patients_the_answer_is_the_center():
    module = model_of()
    center = {k: v + 1 for k, v in params_of(module).items()}
    nobody = part_of(3).select(torch.zeros(0, dtype=torch.int64))
    found = adapt_locally(module, center, nobody, AdaptationSpec())
    assert all(torch.equal(found[k], center[k]) for k in center)


def test_model_is_left_as_it_was_even_by_a_failure():
    module, part = model_of(name="mlp"), part_of(40)
    before, center = params_of(module), {k: v + 1 for k, v in params_of(module).items()}
    kept = {k: v.clone() for k, v in center.items()}
    found = adapt_locally(module, center, part, AdaptationSpec())
    assert all(v.dtype == torch.float32 for v in found.values())
    broken = Part(part.x[:, :2], part.y, part.patient, part.patients)
    with pytest.raises(RuntimeError):
        adapt_locally(module, center, broken, AdaptationSpec())
    after = params_of(module)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(torch.equal(kept[k], center[k]) for k in kept)
    assert module.training


def test_answer_is_the_same_every_time_and_for_every_model_it_is_computed_in():
    part, center = part_of(40), params_of(model_of())
    one, other = model_of(), model_of()
    for parameter in other.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    found = [adapt_locally(m, center, part, AdaptationSpec()) for m in (one, one, other)]
    for again in found[1:]:
        assert all(torch.equal(found[0][k], again[k]) for k in center)


def test_separable_patients_without_a_prior_end_finite():
    x = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]])
    part, module = Part(x, torch.tensor([0, 1]), torch.arange(2), 2), model_of()
    spec = AdaptationSpec(prior=0.0, bias_prior=0.0)
    found = adapt_locally(module, params_of(module), part, spec)
    assert flatten(found).isfinite().all()
    assert (found["body.1.weight"][1, 0] > 1).item()
