"""The server's step: torch.optim on the negative mean delta, and constants by hand."""

import pytest
import torch

from common.learners.outer import mean_delta, server_step
from common.learners.types import Contribution, State
from common.study import ServerSpec


def delta(*values):
    return {"w": torch.tensor(values, dtype=torch.float64)}


def rounds_of(count, *, sites=3):
    rng = torch.Generator().manual_seed(0)
    return [
        [Contribution(n, {"w": torch.randn(4, generator=rng, dtype=torch.float64)})
         for n in (100, 50, 10)[:sites]]
        for _ in range(count)
    ]  # fmt: skip


def test_weights_are_the_declared_sizes_or_equal():
    both = [Contribution(300, delta(1.0)), Contribution(100, delta(-3.0))]
    assert mean_delta(both, weights="declared")["w"].item() == (300 - 3 * 100) / 400
    assert mean_delta(both, weights="equal")["w"].item() == (1 - 3) / 2
    with pytest.raises(ValueError, match="at least one"):
        mean_delta([], weights="equal")


@pytest.mark.parametrize("weights", ["declared", "equal"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_server_optimizer_equals_torch_optim_on_the_pseudo_gradient(optimizer, weights):
    """Fault it is for: a flipped sign, moments without bias correction, a round counted twice."""
    spec = ServerSpec(optimizer=optimizer, learning_rate=0.3, momentum=0.8, beta2=0.95,
                      weights=weights)  # fmt: skip
    start = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    theirs = {
        "sgd": lambda: torch.optim.SGD([parameter], lr=0.3),
        "momentum": lambda: torch.optim.SGD([parameter], lr=0.3, momentum=0.8),
        "adam": lambda: torch.optim.Adam([parameter], lr=0.3, betas=(0.8, 0.95), eps=1e-3),
    }[optimizer]()
    apply, state = server_step(spec), State({"w": start.clone()})
    for number, contributions in enumerate(rounds_of(6), start=1):
        state = apply(state, contributions)
        parameter.grad = -mean_delta(contributions, weights=weights)["w"]
        theirs.step()
        assert torch.allclose(state.params["w"], parameter.detach(), rtol=1e-12, atol=1e-14)
        assert state.round == number


def test_momentum_by_hand():
    # Deltas 1 then 1 with momentum .5 and rate .1: velocities 1 and 1.5, so .1 and then .25.
    apply = server_step(ServerSpec(optimizer="momentum", learning_rate=0.1, momentum=0.5))
    state = State(delta(0.0))
    positions = []
    for _ in range(2):
        state = apply(state, [Contribution(10, delta(1.0))])
        positions.append(state.params["w"].item())
    assert positions == pytest.approx([0.1, 0.25], rel=1e-15)


def test_first_step_of_adam_is_the_rate_whatever_the_size():
    # m = delta, v = delta^2 after bias correction: rate * d / (|d| + .001).
    apply = server_step(ServerSpec(optimizer="adam", learning_rate=0.1))
    state = apply(State(delta(0.0, 0.0)), [Contribution(1, delta(5.0, -0.01))])
    expected = [0.1 * 5 / 5.001, -0.1 * 0.01 / 0.011]
    assert state.params["w"].tolist() == pytest.approx(expected, rel=1e-12)


def test_resumed_state_goes_on_as_if_uninterrupted():
    spec = ServerSpec(optimizer="adam", learning_rate=0.3)
    state, rounds = State(delta(0, 0, 0, 0)), rounds_of(4)
    for contributions in rounds[:2]:
        state = server_step(spec)(state, contributions)
    resumed = State(params=dict(state.params), moments=dict(state.moments), round=state.round)
    for contributions in rounds[2:]:
        state = server_step(spec)(state, contributions)
        resumed = server_step(spec)(resumed, contributions)
    assert torch.equal(state.params["w"], resumed.params["w"])


def test_state_that_went_in_is_left_alone():
    before = State(delta(1.0))
    first = server_step(ServerSpec(optimizer="momentum"))(before, [Contribution(1, delta(2.0))])
    kept = first.moments["first"]["w"].clone()
    server_step(ServerSpec(optimizer="momentum"))(first, [Contribution(1, delta(5.0))])
    assert before.params["w"].item() == 1.0
    assert before.moments == {}
    assert torch.equal(first.moments["first"]["w"], kept)
