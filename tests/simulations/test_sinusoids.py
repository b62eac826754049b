"""Sinusoid regression by the learners of studies; `make sinusoids` trains at full length."""

import pytest
import torch

from common.learners.maml import meta_gradient
from simulations.sinusoids import GATES, Net, errors, maml, missed, reptile, squared_error, tasks


@pytest.mark.slow
def test_a_twentieth_of_the_training_is_already_on_its_way():
    start = errors(*maml(iterations=0, seed=0), learning_rate=0.01, seed=0)
    second = errors(*maml(iterations=900, seed=0), learning_rate=0.01, seed=0)
    first = errors(*maml(iterations=900, seed=0, first_order=True), learning_rate=0.01, seed=0)
    own = errors(*reptile(iterations=2500, seed=0), learning_rate=0.02, seed=0)
    assert start[0] > 4.0
    # One step from a meta-learnt start does what hundreds from elsewhere do not.
    assert second[1] < 0.6 * start[1]
    assert first[1] < 0.75 * start[1]
    assert own[5] < 0.7 * own[0]


def test_a_meta_gradient_of_the_support_itself_is_not_that_of_the_query():
    net = Net(8, torch.nn.ReLU, seed=0).double()
    theta = {k: p.detach() for k, p in net.named_parameters()}
    x, y = (v[0].double() for v in tasks(1, 20, torch.Generator().manual_seed(0)))
    few, others = (x[:10], y[:10]), (x[10:], y[10:])

    def loss(phi, cases):
        return squared_error(net, phi, cases)

    def found(query, **more):
        g = meta_gradient(loss, theta, few, query, steps=2, learning_rate=0.01, **more)
        return torch.cat([v.flatten() for v in g.values()])

    # Central differences of what is minimised, along one direction.
    step = 1e-5
    direction = {k: torch.sign(torch.sin(1.0 + torch.arange(v.numel()))).reshape(v.shape).double()
                 for k, v in theta.items()}  # fmt: skip

    def value(scale):
        phi = {k: v + scale * step * direction[k] for k, v in theta.items()}
        for _ in range(2):
            slope = torch.func.grad(loss)(phi, few)
            phi = {k: v - 0.01 * slope[k] for k, v in phi.items()}
        return loss(phi, others)

    slope = (value(1) - value(-1)) / (2 * step)
    along = torch.cat([v.flatten() for v in direction.values()])
    assert float(found(others) @ along) == pytest.approx(float(slope), rel=1e-6)
    assert float(found(few) @ along) != pytest.approx(float(slope), rel=1e-2)
    assert float(found(others, first_order=True) @ along) != pytest.approx(float(slope), rel=1e-3)


def test_a_table_that_is_off_is_said_to_be():
    right = {
        "random": {0: 4.3, 1: 4.1, 5: 4.1, 10: 4.1},
        "maml": {0: 3.2, 1: 0.38, 5: 0.13, 10: 0.11},
        "reptile": {0: 4.3, 1: 0.7, 5: 0.12, 10: 0.11},
    }
    assert missed(right) == []
    assert missed({**right, "maml": {**right["maml"], 1: 0.46}}) == [GATES[0]]
    assert missed({**right, "reptile": {**right["reptile"], 5: float("nan")}}) == [GATES[2]]
