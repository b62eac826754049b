"""Inversion: an exact copy of the patient without privacy, nothing with it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from common.cohort.parts import Part
from common.models import build, initial_params, params_of
from common.params import Params
from common.plan import compile_study
from common.privacy.noise import SeededSource, with_noise
from common.privacy.perceptron import linear_layers
from common.study import Study
from simulations.audit.attacks.inversion import (
    Attacker,
    Mixing,
    correlation,
    pick,
    read_alone,
    recovered,
)
from simulations.audit.attacks.matching import matched
from simulations.audit.attacks.study import attack_study
from simulations.settings import start_settings
from tests.small_world import small_study

needs_heart = pytest.mark.skipif(
    not (Path(os.environ.get("GRANDROUNDS_DATA", "")) / "uci_heart").is_dir(),
    reason="GRANDROUNDS_DATA has no uci_heart",
)


def of_digits(**tables) -> Study:
    """Return a study of pictures of 8 pixels by a network of one hidden layer."""
    values = {
        "cohort": {"features": [], "image": {"size": 8}, "patient": None, "max_records": 1},
        "model": {"name": "mlp", "hidden": [16]},
        "learner": {"local_steps": 5, "learning_rate": 0.02},
        "privacy": {"epsilon": 8.0, "sigma": None, "delta": 1e-4, "clip": 1.0},
    }
    return small_study(**{**values, **tables})


def digits(number: int) -> Part:
    """Return hand-written zeros and ones, one picture a patient."""
    x, y = load_digits(n_class=2, return_X_y=True)
    pictures = torch.from_numpy(x[:number] / 8 - 1).float().reshape(-1, 1, 8, 8)
    return Part(pictures, torch.from_numpy(y[:number]), torch.arange(number), number)


def read(study: Study, part: Part, number: int = 3) -> list[float]:
    """Return the correlation with each of some victims."""
    attacker = Attacker(compile_study(study), initial_params(study, seed=1), iterations=1)
    return [
        correlation(attacker.read(victim), victim.target.x)
        for victim in pick(part, declared=200, number=number, seed=3)
    ]


def attacked(name: str, **options):
    settings = start_settings(name, command="run", out=Path(), options=options)
    values = attack_study(settings.study, kind="inversion", seed=0)
    return {arm["private"]: arm for arm in values["arms"]}, values


@pytest.mark.slow
def test_a_picture_comes_back_from_a_plain_delta_and_not_from_a_private_one():
    study, part = of_digits(), digits(120)
    assert np.mean(read(study.with_epsilon(None), part)) > 0.99
    assert abs(np.mean(read(study, part))) < 0.3


@pytest.mark.slow
def test_a_picture_comes_back_where_a_step_samples_some_of_the_patients():
    study = of_digits(
        learner={"local_steps": 5, "learning_rate": 0.02, "sampling_rate": 0.2}
    ).with_epsilon(None)
    assert np.mean(read(study, digits(120))) > 0.99


@pytest.mark.slow
def test_a_head_that_stays_is_nothing_that_an_attacker_sees():
    learner = {"name": "fedrep", "local_steps": 2, "head_steps": 1, "learning_rate": 0.02}
    study = of_digits(learner=learner).with_epsilon(None)
    attacker = Attacker(compile_study(study), initial_params(study, seed=1), iterations=1)
    [victim] = pick(digits(120), declared=200, number=1, seed=3)
    seen = attacker._delta(victim, [victim.others, victim.target], 0)
    assert sorted(seen) == ["body.1.bias", "body.1.weight"]
    assert correlation(attacker.read(victim), victim.target.x) > 0.99


@pytest.mark.slow
@needs_heart
def test_heart_patients_come_back_from_a_plain_delta_and_not_from_a_private_one():
    arms, values = attacked("heart", data=Path(os.environ["GRANDROUNDS_DATA"]))
    assert arms[False]["informed"]["correlation"]["mean"] > 0.99
    assert abs(arms[True]["informed"]["correlation"]["mean"]) < 0.3
    assert values["guess"]["mean"] > 0.3  # so what is below it was no guess at the usual patient
    assert values["contains_patient_data"] is True


@pytest.mark.slow
def test_the_coordinator_alone_reads_who_moves_a_unit_alone():
    # Unit 0 sees one patient only, unit 1 sees two: their mean is nobody.
    part = digits(2)
    a, b = part.x.flatten(1)
    layers = linear_layers(build(of_digits()))
    assert layers is not None
    weight, bias = layers[0]
    delta = {
        weight: torch.stack([2 * a, 0.5 * a + 0.5 * b, 0 * a]),
        bias: torch.tensor([2.0, 1.0, 0.0]),
    }
    inputs = read_alone(delta, layers)
    assert torch.allclose(inputs, torch.stack([a, (a + b) / 2]))
    assert recovered(inputs, part) == 1
    assert recovered(inputs[1:], part) == 0


@pytest.mark.slow
def test_mixing_solves_a_linear_system_that_plain_steps_swing_away_from():
    # Plain steps multiply the error by 1 - 2.5 = -1.5 in the first place.
    matrix = torch.diag(torch.tensor([2.5, 1.0, 0.4], dtype=torch.float64))
    answer = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    mixing, at = Mixing(5), torch.zeros(3, dtype=torch.float64)
    for _ in range(8):
        at = mixing.next(at, matrix @ (answer - at))
    assert torch.allclose(at, answer)


@pytest.mark.slow
def test_gradient_matching_finds_a_picture_in_a_gradient_of_a_smooth_convolutional_network():
    # Zhu et al.'s network (2019), on which such attacks were first shown. ReLU and pooling leave
    # conv4 with minima that hold the search, so it would be no control.
    part = digits(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(1, 12, 5, padding=2, stride=2),
            torch.nn.Sigmoid(),
            torch.nn.Conv2d(12, 12, 5, padding=2),
            torch.nn.Sigmoid(),
            torch.nn.Flatten(),
            torch.nn.Linear(192, 2),
        )
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    theta = params_of(module)
    goal = gradient(module, theta, part.x, part.y)
    found = matched(module, theta, goal, part.x.shape, iterations=300, seed=0)
    assert correlation(found, part.x) > 0.99
    noise = with_noise({k: 0 * v for k, v in goal.items()}, SeededSource(1), scale=1.0)
    other = matched(module, theta, noise, part.x.shape, iterations=100, seed=0)
    assert abs(correlation(other, part.x)) < 0.3


def gradient(module: torch.nn.Module, theta: Params, x: torch.Tensor, y: torch.Tensor) -> Params:
    """Return minus a gradient, as a delta has it."""
    weights = {k: v.clone().requires_grad_() for k, v in theta.items()}
    loss = F.cross_entropy(torch.func.functional_call(module, weights, (x,)), y)
    found = torch.autograd.grad(loss, list(weights.values()))
    return {k: -g for k, g in zip(weights, found, strict=True)}


@pytest.mark.slow
def test_a_victim_is_one_record_and_nobody_else_is_missing():
    part = digits(10)
    part = replace(part, patient=torch.arange(10) // 2, patients=5)
    for victim in pick(part, declared=10, number=5, seed=0):
        assert (victim.target.patients, len(victim.target.y)) == (1, 1)
        assert (victim.others.patients, len(victim.others.y)) == (4, 8)
