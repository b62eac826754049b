"""Meta Networks: exact without privacy, priced as FOMAML, and a map that learns its step."""

import dp_accounting
import pytest
import torch
import torch.nn.functional as F
from dp_accounting import pld

from common.cohort.parts import Part
from common.errors import StudyError
from common.fast_weights import MAP, OUT, RATES, fast, parted, slopes
from common.learners import learner_for
from common.learners.tasks import support_and_query
from common.learners.types import Contribution, Patients
from common.models import build, initial_params
from common.params import add, flatten, only, unflatten
from common.plan import compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.review import review
from common.study import parse_study

ALPHA = 0.5


def plan_for(name="metanet", *, steps=2, own=None, privacy=None, rounds=1, model="mlp", **learner):
    values = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
            "train_fraction": 0.5,
        },
        "model": {"name": model, "hidden": [5]},
        "learner": {
            "name": name,
            "learning_rate": ALPHA,
            "local_steps": steps,
            **({"metanet": own or {}} if name == "metanet" else {}),
            **learner,
        },
        "rounds": {"count": rounds},
    }
    return compile_study(
        parse_study(values | ({"privacy": privacy} if privacy else {}), origin="t")
    )


def people(n, *, seed=0, flipped=False):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=rng, dtype=torch.float64)
    draws = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    return Part(x, ((x[:, 0] > 0) ^ flipped).long(), torch.arange(n), n, draws)


def double(plan, *, moved=True):
    """The plan's model and weights in float64; its map is not the one that a run starts with."""
    module = build(plan.study, seed=1).double()
    weights = {k: v.double() for k, v in initial_params(plan.study, seed=1).items()}
    if moved:
        rng = torch.Generator().manual_seed(3)
        for name in (RATES, OUT):
            shape = weights[name].shape
            weights[name] = 0.5 * torch.randn(shape, generator=rng, dtype=torch.float64)
    return PrivateModel(module, closed_form=False), module, weights


def adapted(plan, part, *, declared, **more):
    model, _, theta = double(plan, **more)
    return learner_for(plan).adapt(model, theta, Patients(part, declared), SeededSource(0))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("privacy", [None, {"sigma": 2.0, "delta": 1e-4, "clip": 0.3}])
def test_with_the_map_that_a_run_starts_with_it_is_fomaml(steps, privacy):
    plans = [plan_for(n, steps=steps, privacy=privacy) for n in ("metanet", "fomaml")]
    model, _, theta = double(plans[0], moved=False)
    slow, psi = parted(theta)
    sites, found = Patients(people(30), 60), {}
    for plan, start in zip(plans, (theta, slow), strict=True):
        source = Quiet() if privacy else SeededSource(0)
        found[plan] = learner_for(plan).adapt(model, start, sites, source)
    first, second = found.values()
    assert first.keys() == theta.keys()
    if privacy is None:  # with it the map's slopes lengthen what is clipped
        assert torch.allclose(flatten(only(first, slow)), flatten(second), rtol=0, atol=1e-12)
    assert flatten(only(first, psi)).norm() > 0


class Quiet(SeededSource):
    """Randomness whose noise is 0."""

    def __init__(self):
        super().__init__(0)

    def normal(self, n):
        return 0 * super().normal(n)


def by_hand(module, x, y, weights):
    return F.cross_entropy(torch.func.functional_call(module, weights, (x,)), y)


@pytest.mark.parametrize(("hidden", "rate"), [(3, 2.0), (0, 0.5)])
def test_the_delta_is_the_query_gradient_of_weights_and_map_by_finite_differences(hidden, rate):
    """-alpha (d/dW, rate d/dpsi) L_Q(W + sum_k m(g_k; psi)), the g_k held, D the true number.

    Faults it is for: the query at the slow weights, slopes of one step alone, the support's
    patients in the query, another gradient in the map.
    """
    plan = plan_for(steps=2, own={"hidden": hidden, "rate": rate}, meta={"pool": "shared"})
    part = people(12)
    _, module, theta = double(plan)
    slow, psi = parted(theta)
    phi, gradients = slow, []
    for _ in range(2):
        leaves = {k: v.clone().requires_grad_() for k, v in phi.items()}
        loss = by_hand(module, part.x, part.y, leaves)
        found = torch.autograd.grad(loss, list(leaves.values()))
        gradients.append(dict(zip(leaves, found, strict=True)))
        phi = add(phi, fast(gradients[-1], psi, rate=ALPHA))

    def loss_at(vector):
        own, network = parted(unflatten(vector, theta))
        for g in gradients:
            own = add(own, fast(g, network, rate=ALPHA))
        return by_hand(module, part.x, part.y, own)

    at, step = flatten(theta), 1e-5
    units = step * torch.eye(len(at), dtype=at.dtype)
    slope = torch.stack([(loss_at(at + u) - loss_at(at - u)) / (2 * step) for u in units])
    factors = flatten({k: torch.full_like(v, rate if k in MAP else 1.0) for k, v in theta.items()})
    delta = adapted(plan, part, declared=24)
    expected = unflatten(-ALPHA * factors * slope, theta)
    for name, value in expected.items():
        assert torch.allclose(delta[name], value, rtol=1e-6, atol=1e-9), name
        assert value.numel() == 0 or value.norm() > 1e-6, name


def test_the_slopes_are_the_jacobian_of_the_sum_of_steps():
    plan = plan_for(own={"hidden": 3})
    slow, psi = parted(double(plan)[2])
    gradients = [{k: 0.1 * torch.randn_like(v) for k, v in slow.items()} for _ in range(3)]
    gradients[0]["body.1.weight"][0, 0] = 1e-9  # below e^-10, the other branch of what goes in

    def total(vector):
        point = unflatten(vector, psi)
        return sum(flatten(fast(g, point, rate=ALPHA)) for g in gradients)

    expected = torch.autograd.functional.jacobian(total, flatten(psi))
    assert torch.allclose(slopes(gradients, psi, rate=ALPHA), expected, rtol=1e-12, atol=1e-15)


def test_no_map_makes_a_step_more_than_a_hundred_times_as_long():
    slow, psi = parted(double(plan_for())[2])
    gradient = {k: torch.randn_like(v) for k, v in slow.items()}
    wild = {k: 1e6 * v for k, v in psi.items()}
    share = flatten(fast(gradient, wild, rate=1.0)) / -flatten(gradient)
    assert share.max() <= 100 * (1 + 1e-12)
    assert share.min() >= 0.01 * (1 - 1e-12)


@pytest.mark.parametrize("pool", ["parted", "shared"])
def test_it_costs_what_its_sums_do_by_a_formula_of_its_own(pool):
    """3 rounds of 2 support sums and 1 query sum, q = .5: one after another, or in parallel."""
    privacy = {"sigma": 3.0, "delta": 1e-5}
    plan = plan_for(steps=2, rounds=3, privacy=privacy, sampling_rate=0.5, meta={"pool": pool})

    def composed(count):
        step = dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(3.0))
        accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, count))
        return accountant.get_epsilon(1e-5)

    expected = composed(9) if pool == "shared" else max(composed(6), composed(3))
    assert plan.epsilon_after(3) == pytest.approx(expected, rel=1e-3)
    assert plan.steps == 9


def test_a_hospital_reads_that_the_map_is_learned_and_leaves():
    found = review(plan_for(privacy={"sigma": 3.0, "delta": 1e-5}))
    assert any("map is part of the weights" in line for line in found.computes)
    assert any("on the query" in line for line in found.leaves)


def loss_after_one_step(plan, *, rounds):
    """Train on hospitals whose labels conflict, then judge one step at each on its query."""
    sites = [Patients(people(80, seed=i, flipped=i % 2 == 1), 160) for i in range(4)]
    _, module, theta = double(plan, moved=False)
    model = PrivateModel(build(plan.study).double())  # in closed form
    learner, source = learner_for(plan), SeededSource(0)
    state = learner.init(theta)
    for _ in range(rounds):
        deltas = [learner.adapt(model, state.params, p, source) for p in sites]
        state = learner.apply(state, [Contribution(160, d) for d in deltas])
    losses = []
    for patients in sites:
        support, query = support_and_query(patients.train, plan.study.learner.meta)
        slow = {k: v for k, v in state.params.items() if k not in MAP}
        leaves = {k: v.clone().requires_grad_() for k, v in slow.items()}
        loss = by_hand(module, support.x, support.y, leaves)
        found = torch.autograd.grad(loss, list(leaves.values()))
        gradient = dict(zip(leaves, found, strict=True))
        if plan.study.learner.metanet:
            step = fast(gradient, parted(state.params)[1], rate=plan.study.learner.learning_rate)
        else:
            step = {k: -plan.study.learner.learning_rate * g for k, g in gradient.items()}
        losses.append(float(by_hand(module, query.x, query.y, add(slow, step))))
    return sum(losses) / len(losses)


def test_the_map_learns_a_step_that_a_bad_rate_does_not_take():
    """One step of .05 changes nothing; the right one is about a hundred times as long.

    ln 2 = .693 is the loss of who cannot tell. Fault it is for: a map that is averaged, and not
    moved, or moved the wrong way.
    """
    bad = {"steps": 1, "model": "logistic", "learning_rate": 0.05}
    assert loss_after_one_step(plan_for("fomaml", **bad), rounds=30) > 0.66
    own = {"rate": 200.0}
    assert loss_after_one_step(plan_for(own=own, **bad), rounds=30) < 0.45


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'"),
        ({"hypernetwork": {}}, "hypernetwork is given with learner 'metanet'"),
        ({"meta": {"unit": "episode"}}, "use maml"),
        ({"own": {"hidden": -1}}, "hidden"),
    ],
)
def test_what_does_not_go_with_a_map_is_refused(change, word):
    with pytest.raises(StudyError, match=word):
        plan_for(**change)


def test_a_model_too_large_for_the_maps_slopes_is_refused():
    values = plan_for().study.model_dump(mode="json")
    values["model"]["hidden"] = [3000, 3000]
    with pytest.raises(StudyError, match=r"metanet.*trains 9,0.*map of 38") as caught:
        compile_study(parse_study(values, origin="t"))
    assert "learner.metanet.hidden" in caught.value.remedy


def test_a_query_patients_part_in_weights_and_map_together_is_one_clip():
    """Fault it is for: the two clipped apart, or the map's slopes taken after the clip."""
    plan = plan_for(steps=1, privacy={"sigma": 1.0, "delta": 1e-4, "clip": 0.01})
    model, _, theta = double(plan)
    draws = torch.tensor([[0.9, 0.5], [0.1, 0.5]], dtype=torch.float64)  # support, query
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5], [-30.0, 40.0, 20.0, -10.0]], dtype=torch.float64)
    lengths = []
    for label in (0, 1):
        part = Part(x, torch.tensor([1, label]), torch.arange(2), 2, draws)
        delta = learner_for(plan).adapt(model, theta, Patients(part, 40), Quiet())
        lengths.append(float(flatten(delta).norm()))
        assert float(flatten(only(delta, MAP)).norm()) > 0
    bound = 0.01 * ALPHA / plan.denominator(40, share=0.5)
    assert max(lengths) <= bound * (1 + 1e-9)
    assert max(lengths) == pytest.approx(bound, rel=1e-5)
