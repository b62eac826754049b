"""Times to an event: codes, losses, concordance, and why Cox has no private form."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from common.cohort.parts import Part
from common.errors import StudyError
from common.models import Classifier, build, params_of
from common.params import flatten
from common.privacy.engine import PrivateModel
from common.study import parse_study
from common.survival import COX, by_horizon, c_index, decode, discrete_time, encode
from tests.survival_world import rows, survival_study


def codes(times, events):
    return encode(np.array(times), np.array(events))


def tensor(times, events):
    return torch.from_numpy(codes(times, events))


def test_a_code_holds_the_time_and_the_event():
    times, events = decode(codes([0, 7, 7], [0, 1, 0]))
    assert times.tolist() == [0, 7, 7]
    assert events.tolist() == [False, True, False]


def test_an_outcome_at_the_horizon_itself_is_known():
    found = by_horizon(codes([10, 10, 9, 11, 11], [1, 0, 0, 1, 0]), 10)
    assert found.tolist() == [1, 0, -1, 0, 0]


# Hazards of the two intervals (0, 10] and (10, 20]: .25 and .5 (logits -log 3 and 0).
LOGITS = torch.tensor([[-math.log(3), 0.0]], dtype=torch.float64)
WORKED = [
    (5, 1, -math.log(0.25)),  # event in the first interval
    (10, 1, -math.log(0.25)),  # its end belongs to it
    (11, 1, -math.log(0.75) - math.log(0.5)),  # through the first, event in the second
    (25, 1, -math.log(0.75) - math.log(0.5)),  # after the last: through both without
    (5, 0, 0.0),  # censored within the first: it says nothing
    (10, 0, -math.log(0.75)),  # seen to its end: through the first
    (19, 0, -math.log(0.75)),
    (20, 0, -math.log(0.75) - math.log(0.5)),
]


@pytest.mark.parametrize(("time", "event", "loss"), WORKED)
def test_the_discrete_time_loss_of_a_record_is_the_hand_worked_one(time, event, loss):
    found = discrete_time([10, 20], 20).losses(LOGITS, tensor([time], [event]))
    assert found.tolist() == pytest.approx([loss])


def test_probabilities_are_of_the_event_by_the_horizon():
    whole = discrete_time([10, 20], 20).probabilities(LOGITS)
    first = discrete_time([10, 20], 10).probabilities(LOGITS)
    assert whole[0].tolist() == pytest.approx([0.375, 0.625])  # .75 x .5
    assert first[0].tolist() == pytest.approx([0.75, 0.25])


def test_the_discrete_time_likelihood_of_all_outcomes_sums_to_one():
    outputs = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = discrete_time([1, 2, 3], 3).losses
    ends = [(1, 1), (2, 1), (3, 1), (4, 0)]
    total = sum(math.exp(-loss(outputs, tensor([t], [e])).item()) for t, e in ends)
    assert total == pytest.approx(1.0)


def test_the_partial_likelihood_is_the_hand_worked_one():
    # Times 1 (event), 2 (censored), 3 (event), 3 (event); hazards 1, 2, 3, 4.
    score = torch.log(torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64))
    found = COX.losses(score, tensor([1, 2, 3, 3], [1, 0, 1, 1]))
    # At risk at 1: 1 + 2 + 3 + 4 = 10; at 3 both of the tied: 3 + 4 = 7 (Breslow).
    worked = [math.log(10), 0, math.log(7 / 3), math.log(7 / 4)]
    assert found.tolist() == pytest.approx(worked)


def test_censored_at_the_time_of_an_event_is_at_risk_then():
    score = torch.zeros(2, 1, dtype=torch.float64)
    for order in ([0, 1], [1, 0]):
        events = torch.tensor([1, 0])[order]
        found = COX.losses(score, tensor([5, 5], events.tolist()))
        assert found.sum().item() == pytest.approx(math.log(2))


@pytest.mark.slow
def test_the_partial_likelihood_agrees_with_statsmodels():
    from statsmodels.duration.hazard_regression import PHReg

    rng = np.random.default_rng(3)
    x, times = rng.normal(size=(40, 3)), rng.integers(1, 12, 40)  # many ties
    events, beta = rng.integers(0, 2, 40), np.array([0.3, -1.0, 0.5])
    oracle = PHReg(times, x, status=events, ties="breslow").loglike(beta)
    found = COX.losses(torch.from_numpy(x @ beta)[:, None], tensor(times, events)).sum()
    assert -found.item() == pytest.approx(oracle)


def lifelines_by_pairs(times, events, risks):
    """The pairs as lifelines' documentation has them, one by one."""
    pairs, right = 0, 0.0
    for i, j in combinations(range(len(times)), 2):
        for a, b in ((i, j), (j, i)):
            ended_first = times[a] < times[b] or (times[a] == times[b] and not events[b])
            if events[a] and ended_first:
                pairs += 1
                right += 1.0 if risks[a] > risks[b] else 0.5 if risks[a] == risks[b] else 0.0
    return right / pairs


def test_the_concordance_index_is_the_hand_worked_one():
    # Event at 1 against all three others: higher than two, tied with one: 2.5 of 3. Event at 2:
    # the other event at 2 is no pair, the one censored at 2 and the one at 3 are: .5 of 2 (tied
    # with the first, below the second). The second event at 2: above both, 2 of 2.
    times, events = [1, 2, 2, 2, 3], [1, 1, 1, 0, 0]
    risks = np.array([0.6, 0.3, 0.6, 0.3, 0.5])
    assert c_index(codes(times, events), risks) == pytest.approx((3.5 + 0.5 + 2) / (4 + 2 + 2))


def test_the_concordance_index_counts_pair_by_pair_ties_included():
    rng = np.random.default_rng(5)
    for _ in range(20):
        times, events = rng.integers(0, 6, 12), rng.integers(0, 2, 12)
        events[0], times[0] = 1, 0  # at least one pair
        risks = rng.integers(0, 4, 12) / 4
        found = c_index(codes(times, events), risks)
        assert found == pytest.approx(lifelines_by_pairs(times, events, risks))


def test_a_mass_of_two_is_two_patients_to_the_concordance_index():
    times, events, risks = [1, 2, 3], [1, 1, 0], np.array([0.2, 0.9, 0.4])
    twice = c_index(codes([*times, 2], [*events, 1]), np.array([*risks, 0.9]))
    assert c_index(codes(times, events), risks, np.array([1.0, 2.0, 1.0])) == twice


@pytest.mark.parametrize("events", [[0, 0], [0, 1]])
def test_without_a_pair_there_is_no_concordance_index(events):
    assert c_index(codes([1, 2], events), np.array([0.1, 0.2])) is None


def test_one_score_moves_all_hazards_and_its_gradients_are_those_of_a_loop():
    study = parse_study(survival_study(), origin="a test")
    model = build(study)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {"body.1.weight": (1, 2), "body.1.bias": (3,)}
    part = rows(12, seed=1)
    engine = PrivateModel(model)
    params = {k: v + 0.1 for k, v in params_of(model).items()}
    for clip in (0.2, math.inf):
        total = torch.zeros(5)
        for record in range(12):
            one = engine.clipped_sum(params, part.select(torch.tensor([record])), clip=math.inf)
            row = flatten(one)
            total += row * min(1.0, clip / float(row.norm().clamp(min=1e-12)))
        found = flatten(engine.clipped_sum(params, part, clip=clip))
        assert torch.allclose(found, total, atol=1e-5)
        assert float(found.norm()) <= 12 * clip


def test_cox_is_not_to_be_clipped():
    model = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 1)), input_shape=(2,), objective=COX
    )
    engine, part = PrivateModel(model), rows(6, seed=2)
    with pytest.raises(StudyError, match="compares the records of a batch"):
        engine.clipped_sum(params_of(model), part, clip=1.0)
    with pytest.raises(StudyError, match="compares the records of a batch"):
        engine.clipped_products(params_of(model), part, direction=params_of(model), clip=math.inf)
    broken = {k: torch.full_like(v, torch.nan) for k, v in params_of(model).items()}
    with pytest.raises(StudyError, match="not finite"):
        engine.clipped_sum(broken, part, clip=math.inf)


def test_the_gradient_of_cox_is_that_of_the_whole_batch():
    model = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 1)), input_shape=(2,), objective=COX
    )
    part = rows(10, seed=4)
    found = PrivateModel(model).clipped_sum(params_of(model), part, clip=math.inf)
    loss = COX.losses(model(part.x), part.y).sum()
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    for value, gradient in zip(found.values(), wanted, strict=True):
        assert torch.allclose(value, gradient, atol=1e-6)
    # A record alone is compared with nobody: its sum would be 0, and the whole batch's is not.
    alone = [
        PrivateModel(model).clipped_sum(
            params_of(model), part.select(torch.tensor([r])), clip=math.inf
        )
        for r in range(10)
    ]
    assert all(float(v.abs().max()) < 1e-6 for one in alone for v in one.values())
    assert float(flatten(found).norm()) > 0.1


def test_an_empty_sample_of_cox_is_a_sum_of_nothing():
    model = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 1)), input_shape=(2,), objective=COX
    )
    nobody = Part(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64),
                  torch.zeros(0, dtype=torch.int64), 0)  # fmt: skip
    found = PrivateModel(model).clipped_sum(params_of(model), nobody, clip=math.inf)
    assert not any(bool(v.any()) for v in found.values())
