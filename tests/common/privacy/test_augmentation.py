"""Altered copies of pictures: what they are, and that a patient still adds one clip."""

import math

import pytest
import torch
from scipy.ndimage import rotate

from common.cohort.parts import Part
from common.errors import StudyError
from common.learner_spec import AugmentationSpec
from common.learners.inner import draw
from common.models import build, params_of
from common.params import flatten
from common.plan import Plan, compile_study
from common.privacy import engine
from common.privacy.augmentation import copies_of, expanded, with_views
from common.privacy.clipping import clip_rows
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.study import parse_study

SPEC = AugmentationSpec(copies=3, flip=True, shift=2)
TURNED = AugmentationSpec(copies=3, flip=True, shift=2, rotation=20)
CLIP = 0.05


def values(*, augmentation=None, image=True, **learner):
    inputs = {"image": {"size": 16}} if image else {"features": [{"name": "x", "range": [0, 1]}]}
    return {
        "name": "t",
        "cohort": {"max_records": 4, "label": {"classes": ["a", "b"]}, **inputs},
        "model": {"name": "conv4" if image else "logistic", "width": 4},
        "learner": {"learning_rate": 0.1, "augmentation": augmentation, **learner},
        "rounds": {"count": 1},
        "privacy": {"sigma": 1.0, "delta": 1e-4},
    }


def model():
    return build(parse_study(values(), origin="t"), seed=2)


def pictures(patient, *, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(len(patient), 1, 16, 16, generator=rng)
    who = torch.tensor(patient)
    return Part(x, torch.arange(len(patient)) % 2, who, int(who.max()) + 1)


def by_loops(picture, mirrored, down, right):
    """One altered copy, pixel by pixel: the edge fills what is bared."""
    height, width = picture.shape[-2:]
    out = torch.empty_like(picture)
    for i in range(height):
        for j in range(width):
            row, column = min(max(i - down, 0), height - 1), min(max(j - right, 0), width - 1)
            out[:, i, j] = picture[:, row, width - 1 - column if mirrored else column]
    return out


def test_copies_are_mirrored_and_moved_pictures_of_their_own_record():
    batch = with_views(pictures([0, 0, 1]), SPEC, SeededSource(1))
    rows = expanded(batch)
    assert copies_of(batch) == 3
    assert rows.patient.tolist() == [0] * 6 + [1] * 3
    assert rows.weights.tolist() == pytest.approx([1 / 6] * 6 + [1 / 3] * 3)
    for record in range(3):
        for copy in range(3):
            expected = by_loops(batch.x[record], *batch.views[record, copy, :3].tolist())
            assert torch.equal(rows.x[3 * record + copy], expected)
            assert rows.y[3 * record + copy] == batch.y[record]


@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
def test_turned_copies_are_those_of_another_library(shape):
    """Faults it is for: radians for degrees, the other way round, sides of unequal length."""
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    degrees = torch.tensor([37, -90])
    views = torch.zeros(2, 4, dtype=torch.int64)
    views[:, 3] = degrees
    part = Part(x, torch.zeros(2).long(), torch.arange(2), 2, views=views[:, None])
    found = expanded(part).x
    for picture, turned, angle in zip(x, found, degrees.tolist(), strict=True):
        how = {"axes": (2, 1), "reshape": False, "order": 1, "mode": "nearest"}
        expected = rotate(picture.numpy(), angle, **how)
        torch.testing.assert_close(turned, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_a_quarter_turn_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    views = torch.tensor([[[0, 0, 0, 90]]])  # anticlockwise: the right column comes to the top
    part = Part(x, torch.zeros(1).long(), torch.zeros(1).long(), 1, views=views)
    torch.testing.assert_close(expanded(part).x[0, 0], torch.tensor([[2.0, 4.0], [1.0, 3.0]]))


def test_ways_of_altering_are_drawn_evenly():
    # 6000 draws of five shifts and of two sides; each bound fails with a probability below 1e-6.
    spec = AugmentationSpec(copies=60, flip=True, shift=2, rotation=2)
    views = with_views(pictures(list(range(100))), spec, SeededSource(3)).views.flatten(0, 1)
    assert abs(views[:, 0].double().mean() - 0.5) < 5 * 0.5 / math.sqrt(6000)
    for column in (1, 2, 3):
        counts = torch.bincount(views[:, column] + 2, minlength=5)
        assert len(counts) == 5
        assert (counts - 1200).abs().max() < 5 * math.sqrt(6000 * 0.2 * 0.8)
    still = with_views(pictures([0]), AugmentationSpec(copies=9, flip=True), SeededSource(0))
    assert still.views[..., 1:].abs().max() == 0


def test_without_augmentation_the_source_is_left_alone():
    plan = Plan(parse_study(values(), origin="t"), 1.0, 1.0)
    source, untouched = SeededSource(0), SeededSource(0)
    assert draw(plan, pictures([0, 1]), source).views is None
    assert source.uniform(1) == untouched.uniform(1)


def test_a_draw_brings_its_copies_once():
    plan = Plan(parse_study(values(augmentation=SPEC.model_dump()), origin="t"), 1.0, 1.0)
    batch = draw(plan, pictures([0, 0, 1]), SeededSource(0))
    assert batch.views.shape == (3, 3, 4)
    # MAML asks a sample twice: both queries must be about the same copies.
    assert torch.equal(expanded(batch).x, expanded(batch).x)


@pytest.mark.parametrize("way", ["hooks", "one by one", "chunks"])
def test_a_patients_gradient_is_the_mean_over_all_copies_clipped_once(way, monkeypatch):
    """Faults it is for: a clip a copy, a sum over copies, copies of other patients."""
    module = model()
    params, batch = params_of(module), with_views(pictures([0, 1, 0, 2]), SPEC, SeededSource(1))
    rows = expanded(batch)
    alone = [PrivateModel(model()).clipped_sum(
        params, rows.select(torch.tensor([r])), clip=math.inf) for r in range(12)]  # fmt: skip
    means = torch.zeros(3, flatten(params).numel())
    for row, gradient in enumerate(alone):
        means[rows.patient[row]] += rows.weights[row] * flatten(gradient)
    if way == "one by one":
        monkeypatch.setattr(engine, "_LARGE", 0)
    if way == "chunks":  # six rows of gradients: the patient of two records is six, the others 3
        monkeypatch.setattr(engine, "_CHUNK_VALUES", 6 * flatten(params).numel())
    found = flatten(PrivateModel(module).clipped_sum(params, batch, clip=CLIP))
    assert torch.allclose(found, clip_rows(means, clip=CLIP).sum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [1.0, 1e3, 1e6, math.nan, math.inf])
@pytest.mark.parametrize("spec", [SPEC, TURNED], ids=["moved", "turned"])
def test_one_patient_with_copies_moves_the_sum_by_at_most_the_clip(spec, value):
    """Normal, far too large and broken pictures; the last is in the middle of another's records."""
    module = model()
    batch = with_views(pictures([0, 1, 2, 1]), spec, SeededSource(1))
    batch.x[2] *= value
    params, private = params_of(module), PrivateModel(module)
    rest = batch.select(torch.tensor([0, 1, 3]))
    more, less = (flatten(private.clipped_sum(params, p, clip=CLIP)) for p in (batch, rest))
    moved = (more - less).double().norm().item()
    assert moved <= CLIP * (1 + 1e-4)
    assert moved <= 1e-6 if not math.isfinite(value) else moved >= CLIP * 0.99


def test_products_of_second_order_take_the_same_copies():
    module = model()
    params, batch = params_of(module), with_views(pictures([0, 1]), SPEC, SeededSource(1))
    private, direction = PrivateModel(module), {k: torch.ones_like(v) for k, v in params.items()}
    found, expected = (
        flatten(private.clipped_products(params, p, direction=direction, clip=math.inf))
        for p in (batch, expanded(batch))
    )
    assert torch.equal(found, expected)


def test_a_patient_of_many_copies_is_never_held_whole(monkeypatch):
    """Fault it is for: memory that grows with the copies of the largest patient."""
    most = []
    module = model()
    private, params = PrivateModel(module), params_of(module)
    spec = AugmentationSpec(copies=16, shift=1)
    batch = with_views(pictures([0, 0, 1]), spec, SeededSource(1))
    monkeypatch.setattr(engine, "_CHUNK_VALUES", 20 * flatten(params).numel())
    module.register_forward_hook(lambda m, inputs, output: most.append(len(output)))
    private.clipped_sum(params, batch, clip=CLIP)
    assert max(most) <= 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augmentation": {"copies": 2}}, "all copies would be the same"),
        ({"augmentation": {"copies": 1, "flip": True}}, "copies is 1"),
        ({"augmentation": {"copies": 2, "shift": -1}}, "shift is -1"),
        (
            {"augmentation": {"flip": True}, "name": "maml", "meta": {"unit": "episode"}},
            "meta.unit is 'episode'",
        ),
    ],
)
def test_an_augmentation_that_is_none_is_refused(changes, words):
    with pytest.raises(StudyError, match=words):
        parse_study(values(**changes), origin="t")


def test_what_is_no_picture_is_not_augmented():
    for study in (values(augmentation={"flip": True}, image=False), mapped()):
        with pytest.raises(StudyError, match=r"learner\.augmentation is given") as caught:
            compile_study(parse_study(study, origin="t"))
        assert "leave learner.augmentation out" in caught.value.remedy


def mapped():
    study = values(augmentation={"flip": True})
    study["cohort"]["image"]["maps"] = [{"kind": "pixels", "size": 4}]
    return {**study, "model": {"name": "logistic"}}
