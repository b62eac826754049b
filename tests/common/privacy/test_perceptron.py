"""The closed form against the hooks it stands in for."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.cohort.parts import Part, join
from common.models import Classifier, params_of
from common.privacy.engine import PrivateModel
from common.privacy.perceptron import clipped_sum, linear_layers

ODD = {"nan": math.nan, "inf": math.inf, "minus inf": -math.inf, "huge": 1e30, "large": 1e6}


def stack(*widths, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return Classifier(nn.Sequential(*layers[:-1]), input_shape=(widths[0],))


def patients(n, width, *, classes=2, seed=0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(n, width, generator=rng)
    return Part(x, torch.randint(0, classes, (n,), generator=rng), torch.arange(n), n)


def both(model, batch, clip):
    params = params_of(model)
    fast = clipped_sum(params, linear_layers(model), batch, clip=clip)
    slow = PrivateModel(model, closed_form=False).clipped_sum(params, batch, clip=clip)
    return fast, slow


def assert_close(fast, slow, *, scale):
    assert fast.keys() == slow.keys()
    for name in fast:
        assert fast[name].shape == slow[name].shape
        assert (fast[name] - slow[name]).abs().max().item() <= 1e-6 * scale


@settings(max_examples=25, deadline=None)
@given(
    widths=st.sampled_from([(3, 2), (5, 4, 2), (4, 6, 3, 3)]),
    n=st.integers(0, 12),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    clip=st.sampled_from([0.01, 1.0, math.inf]),
)
def test_closed_form_equals_the_hooks(widths, n, seed, scale, clip):
    """Fault it is for: any slip in the chain rule, in the norm (a bias left out), in the clip."""
    model = stack(*widths, seed=seed)
    batch = patients(n, widths[0], classes=widths[-1], seed=seed, scale=scale)
    fast, slow = both(model, batch, clip)
    assert_close(fast, slow, scale=max(1.0, scale * scale * n))


@pytest.mark.parametrize("value", ODD)
def test_odd_rows_are_treated_as_the_hooks_treat_them(value):
    model, batch = stack(4, 5, 2), patients(6, 4)
    batch.x[2] = ODD[value]
    fast, slow = both(model, batch, 1.0)
    assert all(bool(torch.isfinite(v).all()) for v in fast.values())
    assert_close(fast, slow, scale=1.0)


def test_a_row_that_is_not_finite_adds_nothing():
    """Fault it is for: zero times NaN in the product of matrices."""
    model, batch = stack(4, 5, 2), patients(6, 4)
    without = batch.select(torch.tensor([0, 1, 3, 4, 5]))
    batch.x[2, 1] = math.nan
    layers, params = linear_layers(model), params_of(model)
    found = clipped_sum(params, layers, batch, clip=1.0)
    expected = clipped_sum(params, layers, without, clip=1.0)
    assert all(torch.allclose(found[k], expected[k], atol=1e-7) for k in found)


def test_only_a_plain_stack_is_taken():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    assert linear_layers(stack(3, 4, 2)) == [
        ("body.1.weight", "body.1.bias"),
        ("body.3.weight", "body.3.bias"),
    ]
    assert linear_layers(nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))) is None
    assert linear_layers(nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.Tanh())) is None
    assert linear_layers(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(3, 2))) is None
    assert linear_layers(Twice()) is None


def test_patients_of_several_records_go_through_the_hooks(monkeypatch):
    model, batch = stack(4, 2), patients(6, 4)
    several = Part(batch.x, batch.y, torch.tensor([0, 0, 1, 2, 3, 4]), 5)
    called = []
    monkeypatch.setattr("common.privacy.perceptron.clipped_sum", lambda *a, **k: called.append(1))
    PrivateModel(model).clipped_sum(params_of(model), several, clip=1.0)
    assert not called
    PrivateModel(model).clipped_sum(params_of(model), batch, clip=1.0)
    assert called


def test_layers_that_are_called_in_another_way_are_no_stack():
    """Fault it is for: the closed form of what the layers look like, not of what `forward` does."""

    class Doubled(torch.nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    layers = [torch.nn.Flatten(), torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)]
    assert linear_layers(torch.nn.Sequential(*layers)) is not None
    assert linear_layers(Doubled(*layers)) is None


def test_a_patient_of_two_records_changes_nobody_elses_part_however_large_the_weights():
    """Fault it is for: gradients beyond float32 that the closed form clips and the hooks drop, so
    that one patient who takes the batch to the hooks takes everybody's part along."""
    model, clip, n = stack(4, 4, 2), 100.0, 50
    params = {k: torch.zeros_like(v) for k, v in params_of(model).items()}
    first, _, last, _ = params.values()
    first += 0.1
    last[0, 0] = 2.5e38  # times an input of 2 it is more than float32 holds
    others = Part(torch.full((n, 4), 2.0), torch.ones(n, dtype=torch.int64), torch.arange(n), n)
    two = torch.zeros(2, dtype=torch.int64)
    engine, extra = PrivateModel(model), Part(torch.zeros(2, 4), two, two, 1)
    totals = [
        engine.clipped_sum(params, part, clip=clip) for part in (others, join([others, extra]))
    ]
    change = torch.cat([(totals[1][k] - totals[0][k]).flatten() for k in params]).double()
    assert float(change.norm()) <= clip
