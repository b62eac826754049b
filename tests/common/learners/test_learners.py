"""Reptile, FedAvg and FedProx: what their papers and a pencil say they must be."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

from common.cohort.parts import Part
from common.learners import LEARNERS, learner_for
from common.learners.types import Contribution, Patients
from common.models import build, params_of
from common.params import add, flatten, subtract, unflatten
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.study import parse_study


def plan_of(name, *, features=3, server=None, **learner):
    study = parse_study(
        {
            "name": "test",
            "cohort": {
                "label": {"classes": ["a", "b"]},
                "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(features)],
                "train_fraction": 0.5,
            },
            "model": {"name": "mlp", "hidden": [5]} if features > 1 else {"name": "logistic"},
            "learner": {"name": name, "learning_rate": 1.0, "local_steps": 1, **learner},
            "rounds": {"count": 1},
            "server": server or {},
        },
        origin="test",
    )
    return Plan(study, 0.0, 0.0)


def smooth(plan):
    """The plan's model with tanh for ReLU: the expansion of K = 2 needs derivatives."""
    module = build(plan.study, seed=2)
    if len(module.body) > 2:
        module.body[2] = torch.nn.Tanh()
    return module


def double_model(plan):
    """The model in float64, the same with Opacus's hooks, and the weights."""
    hooked = smooth(plan)
    model = PrivateModel(hooked)
    hooked.double()
    module = smooth(plan).double()
    return module, model, params_of(module)


def hospitals(*sizes):
    """Hospitals that declare twice the patients they learn from, so that D is their number."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for n in sizes:
        x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
        part = Part(x, torch.randint(2, (n,), generator=rng), torch.arange(n), n)
        made.append(Patients(part, 2 * n))
    return made


def one_round(plan, sites):
    module, model, theta = double_model(plan)
    learner = learner_for(plan)
    state = learner.init(theta)
    deltas = [learner.adapt(model, theta, site, SeededSource(0)) for site in sites]
    contributions = [Contribution(s.declared, d) for s, d in zip(sites, deltas, strict=True)]
    return module, theta, contributions, learner.apply(state, contributions)


def mean_loss(module, part):
    def loss(vector, like):
        logits = functional_call(module, unflatten(vector, like), (part.x,))
        return F.cross_entropy(logits, part.y)

    return loss


def test_reptile_with_one_step_is_the_joint_gradient_step():
    """K = 1, no noise: theta - beta * alpha * gradient of the mean loss of everybody together."""
    plan = plan_of("reptile", learning_rate=0.7, server={"learning_rate": 0.5})
    sites = hospitals(30, 11, 4)
    module, theta, _, state = one_round(plan, sites)
    everybody = Part(torch.cat([s.train.x for s in sites]), torch.cat([s.train.y for s in sites]),
                     torch.arange(45), 45)  # fmt: skip
    gradient = grad(mean_loss(module, everybody))(flatten(theta), theta)
    expected = flatten(theta) - 0.5 * 0.7 * gradient
    assert torch.allclose(flatten(state.params), expected, rtol=0, atol=1e-15)


def test_reptile_with_equal_weights_is_the_mean_of_the_hospitals_gradients():
    plan = plan_of("reptile", server={"weights": "equal"})
    sites = hospitals(30, 5)
    module, theta, _, state = one_round(plan, sites)
    both = [grad(mean_loss(module, s.train))(flatten(theta), theta) for s in sites]
    expected = flatten(theta) - (both[0] + both[1]) / 2
    assert torch.allclose(flatten(state.params), expected, rtol=0, atol=1e-15)


def test_two_steps_of_reptile_differ_from_joint_training_by_a_constant_times_eta_squared():
    """(-delta / eta - (2 G - eta H G)) / eta^2 -> L'''[G, G] / 2, over eta = 1e-2 .. 1e-4 to 1 %.

    g(theta - eta G) = G - eta H G + eta^2/2 L'''[G, G] + O(eta^3). Fault it is for: both steps'
    gradients taken at theta, which would leave H G / eta.
    """
    site, constants = hospitals(20)[0], []
    for eta in (1e-2, 1e-3, 1e-4):
        plan = plan_of("reptile", local_steps=2, learning_rate=eta)
        module, theta, contributions, _ = one_round(plan, [site])
        loss, start = mean_loss(module, site.train), flatten(theta)
        first = grad(loss)(start, theta)

        def slope(v, loss=loss, theta=theta, first=first):  # H(v) G
            return grad(lambda u: grad(loss)(u, theta) @ first)(v)

        direction = -flatten(contributions[0].delta) / eta
        constants.append((direction - (2 * first - eta * slope(start))) / eta**2)
        expected = grad(lambda u, slope=slope, first=first: slope(u) @ first)(start) / 2
        assert (constants[-1] - expected).norm() <= 0.01 * expected.norm()
    assert (constants[0] - constants[2]).norm() <= 0.01 * constants[2].norm()


ONE_PATIENT = Patients(Part(torch.ones(1, 1), torch.tensor([1]), torch.tensor([0]), 1), 2)


@pytest.mark.parametrize(("name", "mu"), [("reptile", 0.0), ("fedavg", 0.0), ("fedprox", 0.1)])
def test_two_steps_on_one_patient_by_hand(name, mu):
    """x = 1, class 1, logits w x + b from zero, alpha = 1, D = 2 * 1/2 = 1.

    Step 1: p = (1/2, 1/2), gradient (1/2, -1/2) in w and in b, so phi_1 = (-1/2, 1/2) in both.
    Step 2: logits (-1, 1), p_0 = 1 / (1 + e^2) = .119203: phi_2 = phi_1 -+ .119203, and the pull
    of FedProx takes mu * phi_1 back: .5 + .119203 - mu / 2.
    """
    plan = plan_of(name, features=1, local_steps=2, proximal=mu)
    module = build(plan.study)
    learner = learner_for(plan)
    theta = params_of(module)
    delta = learner.adapt(PrivateModel(module), theta, ONE_PATIENT, SeededSource(0))
    expected = 0.5 + 1 / (1 + math.exp(2)) - mu / 2
    for value in delta.values():
        assert value.flatten().tolist() == pytest.approx([-expected, expected], abs=1e-6)


def test_fedavg_is_the_mean_of_weights_by_declared_size_whatever_the_server_table():
    plan = plan_of("fedavg", local_steps=3, server={"learning_rate": 0.1, "optimizer": "adam",
                                                    "weights": "equal"})  # fmt: skip
    sites = hospitals(30, 10)
    _, theta, contributions, state = one_round(plan, sites)
    weights = [flatten(add(theta, c.delta)) for c in contributions]
    assert torch.allclose(flatten(state.params), 0.75 * weights[0] + 0.25 * weights[1], atol=1e-15)
    assert state.round == 1


def test_fedavg_is_reptile_with_a_server_step_of_one():
    sites = hospitals(12, 7)
    fedavg, reptile = (
        one_round(plan_of(n, local_steps=4), sites)[3].params for n in ("fedavg", "reptile")
    )
    assert torch.equal(flatten(fedavg), flatten(reptile))


def test_fedprox_pulls_back_and_its_first_step_is_fedavgs():
    site = hospitals(12)
    lengths = {}
    for steps in (1, 20):
        plans = [plan_of("fedavg", local_steps=steps)] + [
            plan_of("fedprox", local_steps=steps, proximal=mu) for mu in (1e-9, 0.1, 0.5)
        ]
        deltas = [flatten(one_round(p, site)[2][0].delta) for p in plans]
        lengths[steps] = [d.norm().item() for d in deltas]
        assert torch.allclose(deltas[0], deltas[1], atol=1e-6)
    assert lengths[1] == pytest.approx([lengths[1][0]] * 4, rel=1e-12)
    assert lengths[20] == sorted(lengths[20], reverse=True)
    assert lengths[20][3] < 0.9 * lengths[20][0]


def test_fedprox_stops_where_loss_and_pull_balance():
    # Fixed point of the loop: gradient + mu (phi - theta) = 0, the paper's minimum.
    plan = plan_of("fedprox", local_steps=600, proximal=0.5, learning_rate=0.5)
    site = hospitals(12)[0]
    module, theta, contributions, _ = one_round(plan, [site])
    phi = add(theta, contributions[0].delta)
    gradient = grad(mean_loss(module, site.train))(flatten(phi), theta)
    balance = gradient + 0.5 * flatten(subtract(phi, theta))
    assert balance.norm().item() < 1e-10


def test_every_learner_goes_by_its_name():
    for name, make in LEARNERS.items():
        plan = plan_of(name, proximal=0.1 if name == "fedprox" else 0.0)
        assert make(plan).name == learner_for(plan).name == name
