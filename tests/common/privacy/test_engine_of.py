"""Clipped sums of a loss of one's own: those of the objective, where it is the model's."""

import math

import pytest
import torch

from common.cohort.parts import Part
from common.models import Classifier, params_of
from common.params import flatten, only
from common.privacy import engine
from common.privacy.engine import PrivateModel

CLIP = 0.2


def model_of():
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)]
    return Classifier(torch.nn.Sequential(*layers), input_shape=(3,)).double()


def patients(n, *, records=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n * records, 3, generator=rng, dtype=torch.float64)
    who = torch.arange(n).repeat_interleave(records)
    return Part(x, torch.randint(2, (n * records,), generator=rng), who, n)


@pytest.mark.parametrize("clip", [CLIP, math.inf])
@pytest.mark.parametrize("held", [2**25, 40])  # values at once: all patients, or two
@pytest.mark.parametrize("records", [1, 3])
def test_of_the_models_own_loss_it_is_the_clipped_sum(monkeypatch, clip, held, records):
    module, batch = model_of(), patients(7, records=records)
    model, params = PrivateModel(module, closed_form=False), params_of(module)
    expected = model.clipped_sum(params, batch, clip=clip)
    monkeypatch.setattr(engine, "_CHUNK_VALUES", held)
    found = model.clipped_sum_of(model.loss, params, batch, clip=clip)
    assert found.keys() == expected.keys()
    assert torch.allclose(flatten(found), flatten(expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_record_that_is_not_finite_counts_as_nothing(value):
    """Fault it is for: sums of a learner's own loss that go round what clipped sums refuse."""
    module, batch = model_of(), patients(5, records=1)
    model, params = PrivateModel(module), params_of(module)
    x = batch.x.clone()
    x[2] = value
    found = model.clipped_sum_of(model.loss, params, Part(x, batch.y, batch.patient, 5), clip=CLIP)
    others = batch.of_patients(torch.arange(5) != 2)
    expected = model.clipped_sum_of(model.loss, params, others, clip=CLIP)
    difference = (flatten(found) - flatten(expected)).norm()
    assert float(difference) <= CLIP * (1 + 1e-9)
    if not math.isfinite(value):
        assert float(difference) < 1e-14


def test_what_the_point_names_is_clipped_as_one_and_nothing_else_is_moved():
    module, batch = model_of(), patients(1)
    model, params = PrivateModel(module), params_of(module)
    fixed, at = only(params, ["body.1.weight", "body.1.bias"]), params.keys() - {"body.1.weight"}
    point = {**only(params, sorted(at - {"body.1.bias"})), "extra": torch.zeros(2).double()}

    def loss(here, x, y):
        scaled = {k: v * (1 + here["extra"].sum()) for k, v in here.items() if k != "extra"}
        return 50 * model.loss({**fixed, **scaled}, x, y)

    found = model.clipped_sum_of(loss, point, batch, clip=CLIP)
    assert found.keys() == point.keys()
    assert float(flatten(found).norm()) == pytest.approx(CLIP, rel=1e-5)
    assert float(found["extra"].norm()) > 1e-3


def test_no_patient_gives_zeros():
    model = PrivateModel(model_of())
    empty = patients(3).of_patients(torch.zeros(3, dtype=torch.bool))
    found = model.clipped_sum_of(model.loss, params_of(model_of()), empty, clip=CLIP)
    assert float(flatten(found).norm()) == 0
