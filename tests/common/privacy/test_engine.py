"""The clipped sum: what one patient can do to it, and that it is the sum it claims to be."""

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.func import functional_call, grad, vmap

from common.cohort.parts import Part
from common.models import build, params_of
from common.params import flatten, subtract
from common.privacy import engine
from common.privacy.engine import PrivateModel, clip_rows
from common.study import parse_study

CLIP = 0.05  # below the length of most gradients, so that the clip is at work
NUMBERS = [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)]


def model_of(name):
    inputs = {"image": {"size": 16}} if name == "conv4" else {"features": NUMBERS}
    values = {
        "name": "test",
        "cohort": {"label": {"classes": ["a", "b", "c"]}, **inputs},
        "model": {"name": name, "hidden": [6], "width": 4},
        "learner": {"learning_rate": 0.1},
        "rounds": {"count": 1},
    }
    return build(parse_study(values, origin="test"), seed=3)


def part_of(model, records, *, seed=0, dtype=torch.float32):
    """One normal record a patient."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(records, *model.input_shape, generator=rng).to(dtype)
    y = torch.randint(3, (records,), generator=rng)
    return Part(x, y, torch.arange(records), records)


def with_patient(part, x):
    """Append one patient with these records."""
    patient = torch.full((len(x),), part.patients)
    return Part(
        torch.cat([part.x, x]),
        torch.cat([part.y, torch.zeros(len(x), dtype=torch.int64)]),
        torch.cat([part.patient, patient]),
        part.patients + 1,
    )


def poison(kind, shape):
    generator = torch.Generator().manual_seed(9)
    first = torch.arange(math.prod(shape)).reshape(1, *shape) == 0
    row, many = (torch.randn(n, *shape, generator=generator) for n in (1, 100))
    return {
        "normal": row,
        "repeated 100 times": row.repeat(100, *[1] * len(shape)),
        "a hundred different": many,
        "nan": row * math.nan,
        "inf": torch.full_like(row, math.inf),
        "one nan value": torch.where(first, math.nan, row),
        "nan among normal": torch.cat([row, row * math.nan, -row]),
        "1e6 times larger": 1e6 * row,
        "near overflow": 1e38 * row,
        "constant": torch.ones_like(row),
    }[kind]


KINDS = [
    "normal", "repeated 100 times", "a hundred different", "nan", "inf", "one nan value",
    "nan among normal", "1e6 times larger", "near overflow", "constant",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["logistic", "mlp", "conv4"])
def test_one_patient_changes_the_clipped_sum_by_at_most_the_clip(name, kind):
    """Faults it is for: no clip, a clip per record and not per patient, NaN let through."""
    module = model_of(name)
    model, params, without = PrivateModel(module), params_of(module), part_of(module, 6)
    more = with_patient(without, poison(kind, module.input_shape))
    sums = [model.clipped_sum(params, part, clip=CLIP) for part in (more, without)]
    change = flatten(subtract(*sums)).double().norm().item()
    assert change <= CLIP * (1 + 1e-5)
    if kind in ("nan", "inf", "one nan value"):
        assert change <= 1e-7
    if kind in ("normal", "repeated 100 times"):
        assert change >= CLIP * (1 - 1e-3)  # the clip was at work


finite_or_not = st.floats(width=32, allow_nan=True, allow_infinity=True)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(data=st.data(), clip=st.floats(1e-3, 10))
def test_no_table_whatever_moves_the_sum_by_more_than_the_clip(data, clip):
    """Any values, any number of records a patient, any patient left out."""
    patients = data.draw(st.integers(1, 5))
    counts = data.draw(st.lists(st.integers(1, 4), min_size=patients, max_size=patients))
    owners = torch.repeat_interleave(torch.arange(patients), torch.tensor(counts))
    x = data.draw(arrays.arrays(np.float32, (len(owners), 4), elements=finite_or_not))
    y = torch.arange(len(owners)) % 3
    everybody = Part(torch.from_numpy(x), y, owners, patients)
    rest = everybody.select(torch.nonzero(owners != data.draw(st.integers(0, patients - 1)))[:, 0])
    module = model_of("logistic")
    model, params = PrivateModel(module), params_of(module)
    sums = [model.clipped_sum(params, p, clip=clip) for p in (everybody, rest)]
    assert flatten(subtract(*sums)).double().norm().item() <= clip * (1 + 1e-5)


@pytest.mark.parametrize("clip", [1e-6, 1e-2, 1.0, 1e4])
@pytest.mark.parametrize("value", [1e-30, 1.0, 1e20, 1e37, 3.4e38])
def test_clipped_rows_keep_the_bound_after_rounding(clip, value):
    # A hundred thousand values of 3.4e38 have a norm of 1e41: the factor is no normal float32.
    rows = torch.full((2, 100_000), value)
    rows[1, ::2] *= -1
    norms = clip_rows(rows, clip=clip).double().norm(dim=1)
    assert (norms <= clip).all()
    if 1e-30 < value < 1e30 and clip > 1e-6:
        assert (norms >= min(clip, value * math.sqrt(100_000)) * (1 - 1e-5)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_record_with_a_gradient_that_is_not_finite_counts_as_zero(bad, clip):
    """It stays one of the patient's records, and takes nothing from anybody else."""
    module = model_of("mlp")
    model, params, good = PrivateModel(module), params_of(module), part_of(module, 3)
    x = torch.cat([good.x, torch.full((1, 4), bad)])
    part = Part(x, torch.cat([good.y, good.y[:1]]), torch.tensor([0, 1, 2, 2]), 3)
    found = flatten(model.clipped_sum(params, part, clip=clip))
    each = [good.select(torch.tensor([i])) for i in range(3)]
    one, two, three = (flatten(model.clipped_sum(params, p, clip=math.inf)) for p in each)
    rows = torch.stack([one, two, three / 2])
    assert torch.allclose(found, clip_rows(rows, clip=clip).sum(dim=0), atol=1e-6)


def test_clip_edges():
    rows = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, math.nan], [0.0, 0.0]])
    assert torch.equal(clip_rows(rows, clip=1.0), torch.zeros(4, 2))
    short = torch.tensor([[0.6, 0.8], [0.1, 0.0]])
    assert torch.equal(clip_rows(short, clip=1.001), short)  # what is short enough stays as it was
    assert torch.equal(clip_rows(9 * short, clip=math.inf), 9 * short)


def reference_sum(module, part, clip):
    """Per-record gradients by torch.func, mean and clip per patient: a slow twin, in float64."""
    params = {k: v.double() for k, v in params_of(module).items()}

    def loss(p, x, y):
        return F.cross_entropy(functional_call(module, p, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(params, part.x.double(), part.y)
    rows = torch.cat([g.flatten(1) for g in each.values()], dim=1)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for patient in range(part.patients):
        mean = rows[part.patient == patient].mean(dim=0)
        total += mean * min(1.0, clip / mean.norm().item())
    return total


@pytest.mark.parametrize("clip", [CLIP, 1.0, math.inf])
@pytest.mark.parametrize("name", ["logistic", "mlp", "conv4"])
def test_sum_equals_per_sample_gradients_of_torch_func(name, clip):
    module = model_of(name)
    part = part_of(module, 12)
    part = Part(part.x, part.y, torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 0, 4, 5, 5]), 6)
    model = PrivateModel(module)
    found = flatten(model.clipped_sum(params_of(module), part, clip=clip))
    expected = reference_sum(model_of(name).double(), part, clip)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-6)
    if name != "conv4":  # float64 throughout: the margin of the clip is all that is left
        module.double()
        part = Part(part.x.double(), part.y, part.patient, part.patients)
        found = flatten(model.clipped_sum(params_of(module), part, clip=clip))
        margin = 1e-12 if math.isinf(clip) else 1.01e-6 * clip * part.patients
        assert torch.allclose(found, expected, rtol=0, atol=margin)


@pytest.mark.parametrize("name", ["logistic", "mlp", "conv4"])
def test_step_equals_opacus_own_optimizer(name):
    """One record a patient, no noise: theta - alpha / D * sum is what DPOptimizer makes of it."""
    module, theirs = model_of(name), model_of(name)
    part, alpha, divisor = part_of(module, 10), 0.5, 10.0
    total = PrivateModel(module).clipped_sum(params_of(module), part, clip=CLIP)
    hooked = GradSampleModule(theirs, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), lr=alpha / divisor),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    F.cross_entropy(hooked(part.x), part.y, reduction="sum").backward()
    before = params_of(theirs)
    optimizer.step()
    for key, value in params_of(theirs).items():
        ours = before[key] - alpha / divisor * total[key]
        assert torch.allclose(ours, value, rtol=0, atol=1e-6 * CLIP)


@pytest.mark.parametrize("records", [1, 3, 5, 100])
def test_chunks_do_not_change_the_sum_and_part_no_patient(records, monkeypatch):
    module = model_of("mlp")
    model, params, part = PrivateModel(module), params_of(module), part_of(module, 12)
    part = Part(part.x, part.y, torch.tensor([0, 3, 1, 1, 1, 1, 2, 0, 3, 3, 4, 5]), 6)
    whole = flatten(model.clipped_sum(params, part, clip=CLIP))
    monkeypatch.setattr(engine, "_CHUNK_VALUES", records * flatten(params).numel())
    pieces = list(engine._chunks(part, records))
    assert sum(p.patients for p in pieces) == 6
    assert sum(len(p.x) for p in pieces) == 12
    assert (len(pieces) == 1) == (records >= 12)
    assert torch.allclose(flatten(model.clipped_sum(params, part, clip=CLIP)), whole, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mlp", "conv4"])
def test_a_large_models_records_one_by_one_give_the_hooks_sum(name, kind, monkeypatch):
    """Faults it is for: a clip a record in place of a patient; a bad record that is not dropped."""
    module = model_of(name)
    model, params = PrivateModel(module, closed_form=False), params_of(module)
    part = with_patient(part_of(module, 5), poison(kind, module.input_shape))
    shuffled = part.select(torch.randperm(len(part.x), generator=torch.Generator().manual_seed(1)))
    for clip in (CLIP, 1e3):
        hooks = flatten(model.clipped_sum(params, shuffled, clip=clip))
        with monkeypatch.context() as large:
            large.setattr(engine, "_LARGE", 0)
            single = flatten(model.clipped_sum(params, shuffled, clip=clip))
        assert torch.allclose(single, hooks, rtol=1e-5, atol=1e-5 * min(clip, 1.0))


@pytest.mark.parametrize("large", [engine._LARGE, 0])
def test_empty_batch_sums_to_zero(large, monkeypatch):
    monkeypatch.setattr(engine, "_LARGE", large)
    module = model_of("conv4")
    part = part_of(module, 3).select(torch.zeros(0, dtype=torch.int64))
    total = PrivateModel(module).clipped_sum(params_of(module), part, clip=1.0)
    assert part.patients == 0
    assert not flatten(total).any()
    assert all(total[k].shape == v.shape for k, v in params_of(module).items())


def test_sum_has_no_memory_of_earlier_batches():
    module = model_of("mlp")
    model, params = PrivateModel(module), params_of(module)
    first, other = part_of(module, 5), part_of(module, 7, seed=1)
    before = model.clipped_sum(params, first, clip=1.0)
    model.clipped_sum({k: v + 1 for k, v in params.items()}, other, clip=1.0)
    again = model.clipped_sum(params, first, clip=1.0)
    assert all(torch.equal(before[k], again[k]) for k in before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sum_on_a_gpu_comes_back_to_the_processor():
    module = model_of("mlp")
    part, params = part_of(module, 6), params_of(module)
    here = PrivateModel(module).clipped_sum(params, part, clip=CLIP)
    there = PrivateModel(model_of("mlp").to("cuda")).clipped_sum(params, part, clip=CLIP)
    assert all(v.device.type == "cpu" for v in there.values())
    assert torch.allclose(flatten(here), flatten(there), atol=1e-5)
