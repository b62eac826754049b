"""The run's model as a mean over rounds, against the means written out."""

import pytest
import torch

from common.learners import learner_for
from common.learners.averaging import averaged
from common.learners.types import Contribution, State
from common.plan import Plan
from common.study import ServerSpec, parse_study


def walk(spec, *, rounds, optimizer="sgd"):
    """States of a run whose deltas are 1, 2, 3, ...; and the same without averaging."""
    study = {
        "name": "t",
        "cohort": {"label": {"classes": ["a", "b"]}, "features": [{"name": "x", "range": [0, 1]}]},
        "learner": {"learning_rate": 0.1},
        "rounds": {"count": rounds},
        "server": {**spec, "optimizer": optimizer},
    }
    learner = learner_for(Plan(parse_study(study, origin="t"), 0.0, 0.0))
    states = [State({"w": torch.zeros(1, dtype=torch.float64)})]
    for number in range(1, rounds + 1):
        delta = {"w": torch.tensor([float(number)], dtype=torch.float64)}
        states.append(learner.apply(states[-1], [Contribution(1, delta)]))
    return states


def at(states):
    return [s.params["w"].item() for s in states]


@pytest.mark.parametrize("rounds", [1, 2, 5, 6])
def test_a_tail_is_the_mean_after_the_second_half_of_the_rounds(rounds):
    states = walk({"average": "tail"}, rounds=rounds)
    tail = at(states)[rounds // 2 + 1 :]
    assert states[-1].model["w"].item() == pytest.approx(sum(tail) / len(tail), rel=1e-12)
    assert states[rounds // 2].model == states[rounds // 2].params  # before it: the weights


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_an_exponential_mean_forgets_by_its_decay_and_counts_sum_to_one(decay):
    """Fault it is for: the initial weights kept in the mean, which early rounds then are."""
    states = walk({"average": "ema", "average_decay": decay}, rounds=7)
    for number in range(1, 8):
        counts = [decay ** (number - s) for s in range(1, number + 1)]
        mean = sum(c * w for c, w in zip(counts, at(states)[1:], strict=False)) / sum(counts)
        assert states[number].model["w"].item() == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("average", ["tail", "ema"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_rounds_go_on_as_without_a_mean(average, optimizer):
    """Fault it is for: the mean sent out as the next round's start, or mixed into the moments."""
    with_mean = walk({"average": average}, rounds=6, optimizer=optimizer)
    without = walk({}, rounds=6, optimizer=optimizer)
    assert at(with_mean) == at(without)
    assert with_mean[-1].model["w"] != with_mean[-1].params["w"]
    assert without[-1].model is without[-1].params


def test_no_mean_is_the_learners_own_step():
    def apply(state, contributions):
        return state

    assert averaged(apply, ServerSpec(), rounds=3) is apply
