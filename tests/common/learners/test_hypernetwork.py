"""The hypernetwork: its update against finite differences, its limits, and what it is for."""

import pytest
import torch
from torch.func import functional_call

from common.cohort.parts import Part
from common.errors import StudyError
from common.learners import learner_for
from common.learners.types import Contribution, Patients, State
from common.models import build, initial_params
from common.params import flatten, only, zeros_like
from common.plan import compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.review import review
from common.study import parse_study

PRIVACY = {"sigma": 2.0, "delta": 1e-4, "clip": 1.0}


def plan_for(name="hypernetwork", *, own=None, server=None, steps=1, **tables):
    table = {"hypernetwork": {"embedding": 2, "hidden": [3, 4], **(own or {})}}
    values = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(3)],
            "train_fraction": 0.5,
        },
        "learner": {
            "name": name,
            "learning_rate": 1.0,
            "local_steps": steps,
            **(table if name == "hypernetwork" else {}),
        },
        "server": server or {},
        "rounds": {"count": 2},
        **tables,
    }
    return compile_study(parse_study(values, origin="t"))


def double(params):
    return {name: value.double() for name, value in params.items()}


def some_deltas(like, *, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [
        Contribution(size, {k: torch.randn(v.shape, generator=rng).to(v) for k, v in like.items()},
                     site)
        for site, size in [("north", 30), ("south", 10)]
    ]  # fmt: skip


def after_rounds(plan, count=2):
    """A state whose weights W and embeddings are no longer what they were at the start."""
    learner = learner_for(plan)
    state = learner.init(double(initial_params(plan.study, seed=0)))
    for number in range(count):
        state = learner.apply(state, some_deltas(state.params, seed=number))
    return learner, state


@pytest.mark.parametrize(("weights", "shares"), [("declared", [0.75, 0.25]), ("equal", [0.5, 0.5])])
def test_the_update_is_the_vector_jacobian_product_of_h_with_the_deltas(weights, shares):
    """own + beta * d/d own sum_i s_i <h(v_i; phi), delta_i>, by central differences in float64.

    Faults it is for: a sign, a forgotten share, another hospital's embedding, a wrong factor.
    """
    plan = plan_for(own={"rate": 2.0}, server={"learning_rate": 0.3, "weights": weights})
    learner, state = after_rounds(plan)
    deltas = some_deltas(state.params, seed=9)

    def along(own):
        made = [learner.personal(State(state.params, own=own), c.site) for c in deltas]
        terms = zip(shares, made, deltas, strict=True)
        return sum(s * flatten(m).dot(flatten(c.delta)) for s, m, c in terms)

    after, step = learner.apply(state, deltas), 1e-6
    for name, value in state.own.items():
        slope = torch.zeros_like(value).flatten()
        for i in range(value.numel()):
            unit = torch.zeros_like(value).flatten()
            unit[i] = step
            high, low = (
                along({**state.own, name: value + s * unit.view_as(value)}) for s in (1, -1)
            )
            slope[i] = (high - low) / (2 * step)
        moved = (after.own[name] - value).flatten()
        assert torch.allclose(moved, 0.3 * slope, rtol=1e-6, atol=1e-8), name
        assert moved.norm() > 1e-4, name


def test_the_first_round_starts_everywhere_from_the_studys_weights_and_is_reptiles():
    plans = [plan_for(n, server={"learning_rate": 0.5}) for n in ("hypernetwork", "reptile")]
    start = initial_params(plans[0].study, seed=3)
    own, plain = (learner_for(p) for p in plans)
    state = own.init(start)
    for site in ("north", "anybody"):
        sent = own.start(state, site)
        assert all(torch.equal(sent[k], v) for k, v in start.items())
    deltas = some_deltas(start)
    found = own.apply(state, deltas).own["out.bias"]
    expected = plain.apply(plain.init(start), deltas).params
    assert torch.allclose(found, flatten(expected), rtol=0, atol=1e-6)


def test_what_is_its_own_moves_by_rate_as_far_as_embeddings_are_alike():
    """W = 0: theta_i moves by beta sum_j s_j (1 + rate f_i . f_j / H) delta_j, H = 4, exactly."""
    plan = plan_for(own={"rate": 3.0}, server={"learning_rate": 0.5})
    learner = learner_for(plan)
    before = learner.init(double(initial_params(plan.study, seed=3)))
    deltas = some_deltas(before.params)
    state, f = learner.apply(before, deltas), {}
    for site in ("north", "south"):
        # In the first round W is 0, and embeddings and layers before it do not move.
        f[site] = state.own[f"embedding.{site}"]
        for layer in ("layer.0", "layer.1"):
            weight, bias = state.own[f"{layer}.weight"], state.own[f"{layer}.bias"]
            f[site] = torch.tanh(weight @ f[site] + bias)
    for site in f:
        moved = flatten(learner.start(state, site)) - flatten(before.params)
        expected = 0.5 * sum(
            s * (1 + 3.0 * f[site].dot(f[c.site]) / 4) * flatten(c.delta)
            for s, c in zip([0.75, 0.25], deltas, strict=True)
        )
        assert torch.allclose(moved, expected, rtol=1e-12, atol=1e-12)


def test_towards_a_rate_of_zero_it_is_reptile():
    plans = [plan_for(own={"rate": 1e-12}), plan_for("reptile")]
    (own, found), (_, expected) = (after_rounds(p, count=4) for p in plans)
    for site in ("north", "south"):
        sent = own.start(found, site)
        assert torch.allclose(flatten(sent), flatten(expected.params), rtol=0, atol=1e-9)


def test_who_comes_late_or_never_gets_the_weights_of_the_mean_embedding():
    learner, state = after_rounds(plan_for())
    embeddings = [v for k, v in state.own.items() if k.startswith("embedding.")]
    mean = {**state.own, "embedding.x": torch.stack(embeddings).mean(0)}
    expected = learner.personal(State(state.params, own=mean), "x")
    assert torch.allclose(flatten(learner.start(state, "late")), flatten(expected), atol=1e-15)
    assert torch.allclose(flatten(state.model), flatten(expected), atol=1e-15)
    assert not torch.allclose(flatten(learner.start(state, "north")), flatten(expected), atol=1e-3)
    late = Contribution(10, zeros_like(state.params), "late")
    joined = learner.apply(state, [*some_deltas(state.params), late])
    assert joined.own.keys() - state.own.keys() == {"embedding.late"}


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_servers_optimizer_takes_in_a_site_that_comes_late(optimizer):
    plan = plan_for(server={"optimizer": optimizer, "learning_rate": 0.1})
    learner, state = after_rounds(plan, count=3)
    late = Contribution(10, {k: v + 1 for k, v in zeros_like(state.params).items()}, "late")
    after = learner.apply(state, [*some_deltas(state.params), late])
    assert after.moments["first"].keys() == after.own.keys()
    assert after.own["embedding.late"].isfinite().all()


def test_a_frozen_body_is_nobodys_own():
    model = {"name": "mlp", "hidden": [4], "frozen": "body"}
    plan = plan_for(model=model)
    learner, start = learner_for(plan), initial_params(plan.study, seed=0)
    head = {"body.3.weight", "body.3.bias"}
    state = learner.apply(learner.init(start), some_deltas(only(start, sorted(head))))
    state = learner.apply(state, some_deltas(only(start, sorted(head)), seed=1))
    sent = [learner.start(state, site) for site in ("north", "south")]
    assert all(torch.equal(s[k], start[k]) for s in sent for k in start.keys() - head)
    assert not torch.equal(sent[0]["body.3.weight"], sent[1]["body.3.weight"])


def people(n, *, flipped, seed):
    """The label is the sign of the first input; in one group of hospitals it is the other one."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=rng)
    return Part(x, ((x[:, 0] > 0) ^ flipped).long(), torch.arange(n), n)


def accuracies(plan, *, rounds):
    """Train on four hospitals, two of each group; judge each one's weights on other patients."""
    groups = {"a": False, "b": False, "c": True, "d": True}
    sites = {
        name: Patients(people(100, flipped=f, seed=i), 200)
        for i, (name, f) in enumerate(groups.items())
    }
    learner, module = learner_for(plan), build(plan.study)
    model, source = PrivateModel(build(plan.study)), SeededSource(0)
    state = learner.init(initial_params(plan.study, seed=0))
    for _ in range(rounds):
        state = learner.apply(state, [
            Contribution(p.declared, learner.adapt(model, learner.start(state, n), p, source), n)
            for n, p in sites.items()
        ])  # fmt: skip
    found = []
    for name, flipped in groups.items():
        judges = people(200, flipped=flipped, seed=90)
        logits = functional_call(module, learner.result(state, name), (judges.x,))
        found.append(float((logits.argmax(1) == judges.y).float().mean()))
    return found


def test_hospitals_whose_labels_conflict_are_served_where_no_shared_model_can():
    """Fault it is for: weights that are not the site's own, on either way."""
    shared = accuracies(plan_for("fedavg", steps=5), rounds=30)
    assert sum(shared) / 4 == pytest.approx(0.5, abs=0.02)  # what is right for two is wrong for two
    assert min(accuracies(plan_for(steps=5), rounds=30)) > 0.9


def test_they_are_served_from_private_deltas():
    privacy = {"epsilon": 3.0, "delta": 1e-4, "clip": 1.0}
    plan = plan_for(steps=5, privacy=privacy, rounds={"count": 30})
    assert min(accuracies(plan, rounds=30)) > 0.9


def test_a_hospital_reads_that_its_weights_are_made_for_it():
    found = review(plan_for(privacy=PRIVACY))
    assert any("weights of its own" in line for line in found.computes)
    assert any("teaches its hypernetwork" in line for line in found.leaves)
    assert not any("shared model" in line for line in found.computes)


def test_it_costs_what_reptile_does():
    own, plain = (plan_for(n, steps=5, privacy=PRIVACY) for n in ("hypernetwork", "reptile"))
    assert own.training_prices(rounds=7) == plain.training_prices(rounds=7)
    assert own.epsilon == plain.epsilon


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"server": {"aggregation": "median"}}, ["server.aggregation is 'median'", "norm_bound"]),
        ({"server": {"average": "tail"}}, ["server.average is 'tail'", "leave server.average"]),
        (
            {"model": {"name": "mlp", "hidden": [5000]}, "own": {"hidden": [3, 4096]}},
            ["hidden ends in 4096", "30,002 weights", "frozen = 'body'"],
        ),
    ],
)
def test_what_weights_of_ones_own_cannot_have_is_refused(tables, words):
    with pytest.raises(StudyError) as caught:
        plan_for(**tables)
    assert all(word in f"{caught.value.message} {caught.value.remedy}" for word in words)
