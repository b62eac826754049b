"""Fine-tuning: which weights move when, how far, and that the model handed in stays as it is."""

import pytest
import torch

from common.errors import DataError
from common.learner_spec import AugmentationSpec
from common.models import build, made, params_of
from common.params import flatten, subtract
from common.study import ModelSpec, parse_study
from common.transfer import fine_tuning
from common.transfer.cases import Cases
from common.transfer.fine_tuning import FineTuning, blocks, fine_tuned, from_scratch, with_head

torch.set_num_threads(1)

CONV4, MLP = ModelSpec(name="conv4", width=8), ModelSpec(name="mlp", hidden=(6, 5))


def rows(*, ways=2, shots=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat_interleave(shots)
    x = torch.randn(ways * shots, 4, generator=rng)
    x[torch.arange(len(y)), y] += 3.0
    return Cases(x, y, ways)


def moved(how, *, model=None, few=None):
    """How far each block moved, the last layer's first, in squared norm."""
    model = with_head(model or made(MLP, (4,), 3, seed=1), 2, seed=2)
    before = [[p.detach().clone() for p in group] for group in blocks(model)]
    fine_tuning._move(model, few or rows(), how, seed=0)
    return [
        sum(float((p.detach() - a).square().sum()) for p, a in zip(group, at, strict=True))
        for group, at in zip(blocks(model), before, strict=True)
    ]


def test_it_learns_new_classes_and_leaves_the_model_alone():
    model = made(MLP, (4,), 7, seed=1)
    before, few, queries = params_of(model), rows(ways=3), rows(ways=3, shots=50, seed=1)
    learn = fine_tuned(model)
    found = learn(few, queries.x, 5)
    assert found.shape == (150, 3)
    assert (found.argmax(1) == queries.y).double().mean() > 0.8
    assert flatten(subtract(params_of(model), before)).abs().max() == 0
    assert torch.equal(found, learn(few, queries.x, 5))
    assert not torch.equal(found, learn(few, queries.x, 6))  # another new last layer


def test_scratch_starts_anew_for_each_seed_whatever_the_spec_freezes():
    few = rows()
    spec = MLP.model_copy(update={"frozen": "body", "weights": "no such file"})
    learn = from_scratch(spec, (4,), FineTuning(steps=1))
    first, again, other = (learn(few, few.x, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_last_layer_first_then_one_more_block_from_the_top():
    """Three blocks, one more every second step; fault it is for: the body thawed from below."""
    for steps, expected in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 3)]:
        found = moved(FineTuning(steps=steps, unfreeze_every=2))
        assert [v > 0 for v in found] == [True] * expected + [False] * (3 - expected)
    assert all(v > 0 for v in moved(FineTuning(steps=1)))


def test_a_first_plain_step_is_the_gradient_at_each_blocks_own_rate():
    model = with_head(made(MLP, (4,), 3, seed=1), 2, seed=2)
    few, before = rows(), [[p.detach().clone() for p in g] for g in blocks(model)]
    loss = torch.nn.functional.cross_entropy(model(few.x), few.y)
    slopes = [torch.autograd.grad(loss, g, retain_graph=True) for g in blocks(model)]
    how = FineTuning(steps=1, learning_rate=0.3, optimizer="sgd", rate_decay=2.0)
    fine_tuning._move(model, few, how, seed=0)
    for depth, group in enumerate(blocks(model)):
        for p, a, g in zip(group, before[depth], slopes[depth], strict=True):
            torch.testing.assert_close(p, a - 0.3 / 2**depth * g)


def test_a_pull_keeps_the_body_where_it_started_and_decay_shrinks_it():
    free, pulled = (moved(FineTuning(steps=80, pull=pull)) for pull in (0.0, 10.0))
    assert sum(pulled[1:]) < 0.1 * sum(free[1:])
    assert pulled[0] > 0.1 * free[0]  # the last layer is new: there is nothing to pull it to
    few = rows()
    model = with_head(made(MLP, (4,), 3, seed=1), 2, seed=2)
    norm = float(flatten(params_of(model)).norm())
    fine_tuning._move(model, few, FineTuning(steps=50, weight_decay=5.0), seed=0)
    assert float(flatten(params_of(model)).norm()) < norm


def test_blocks_are_layers_with_their_normalisation():
    model = made(CONV4, (1, 16, 16), 3, seed=1)
    names = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    found = [sorted({names[id(p)] for p in group}) for group in blocks(model)]
    layers = [(12, 13), (8, 9), (4, 5), (0, 1)]  # a convolution and its norm, from the top down
    assert found == [["body.17"], *(sorted(f"body.{i}" for i in pair) for pair in layers)]
    residual = made(ModelSpec(name="resnet18"), (1, 32, 32), 3, seed=1)
    assert len(blocks(residual)) == 1 + 8 + 1
    everything = [p for group in blocks(residual) for p in group]
    assert {id(p) for p in everything} == {id(p) for p in residual.parameters()}


def test_a_space_learnt_by_references_gets_a_linear_layer_instead():
    values = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": n, "range": [0, 1]} for n in "abcd"],
        },
        "model": {"name": "mlp", "hidden": [6]},
        "learner": {"name": "prototypical", "learning_rate": 0.1},
        "rounds": {"count": 1},
    }
    model = build(parse_study(values, origin="t"), seed=1)
    x = torch.randn(3, 4)
    width = model.features(x).shape[1]
    new = with_head(model, 5, seed=0)
    assert new(x).shape == (3, 5)
    assert type(new.head) is torch.nn.Linear
    assert new.head.in_features == width


def test_batches_are_of_all_cases_in_turn():
    few = rows(shots=5)
    batches = fine_tuning._batches(few, FineTuning(batch=5), seed=0)
    for _ in range(3):
        seen = torch.cat([next(batches)[0], next(batches)[0]])
        assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, few.x.tolist()))


def test_pictures_are_altered_anew_in_every_step():
    x = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2, 1, 8, 8).contiguous()
    few = Cases(x, torch.tensor([0, 1]), 2)
    how = FineTuning(augmentation=AugmentationSpec(shift=3))
    batches = fine_tuning._batches(few, how, seed=0)
    found = [next(batches)[0] for _ in range(5)]
    assert all(f.shape == (2, 1, 8, 8) for f in found)  # one copy of each a step
    assert len({tuple(f.flatten().tolist()) for f in found}) > 1
    assert set(torch.cat(found).flatten().tolist()) <= set(x.flatten().tolist())


def test_pictures_of_another_size_are_refused():
    model = made(CONV4, (1, 16, 16), 3, seed=1)
    few = Cases(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1]), 2)
    with pytest.raises(DataError, match="1x28x28"):
        fine_tuned(model)(few, few.x, 0)
