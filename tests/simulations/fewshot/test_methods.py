"""What a new hospital makes of its cases: spaces, the learner's own steps, and bad options."""

import pytest
import torch

from common.errors import StudyError
from common.few_shot_spec import Method
from common.models import build, initial_params, load_params, predict
from common.plan import compile_study
from common.transfer.cases import Cases
from simulations.fewshot.adapting import InnerSteps, learners_own
from simulations.fewshot.methods import check_method, ready
from tests.few_shot_world import SIZE, few_shot_study
from tests.small_world import small_plan


def cases_of(ways=3, each=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ways * each, 1, SIZE, SIZE, generator=generator)
    return Cases(x, torch.arange(ways).repeat_interleave(each), ways)


def plan_with(tmp_path, **learner):
    values = few_shot_study(tmp_path).model_dump(mode="json")
    values["learner"] |= {"name": "reptile", "head_steps": None, **learner}
    return compile_study(type(few_shot_study(tmp_path)).model_validate(values))


def test_one_inner_step_is_one_gradient_step_on_the_cases(tmp_path):
    """By hand: theta - alpha grad(mean cross-entropy over the first three outputs)."""
    plan = plan_with(tmp_path, learning_rate=0.2)
    theta, cases = initial_params(plan.study, seed=3), cases_of()
    model = build(plan.study)
    load_params(model, theta)
    torch.nn.functional.cross_entropy(model(cases.x)[:, :3], cases.y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.2 * p.grad
    expected = predict(model, cases.x)[:, :3]
    found = learners_own(plan, theta, InnerSteps(steps=1))(cases, cases.x, 0)
    assert torch.allclose(found, expected / expected.sum(1, keepdim=True), atol=1e-6)


def test_a_head_that_stays_at_its_hospital_is_new_here(tmp_path):
    """Fault it is for: the head of whoever answered last, under the new hospital's diseases."""
    plan = compile_study(few_shot_study(tmp_path))
    theta, cases = initial_params(plan.study, seed=3), cases_of()
    own = list(theta)[-2:]
    other = {**theta, **{k: theta[k] + 1 for k in own}}
    steps = InnerSteps(steps=1)
    one, two = (learners_own(plan, p, steps)(cases, cases.x, 0) for p in (theta, other))
    assert torch.equal(one, two)
    reptile = plan_with(tmp_path)
    one, two = (learners_own(reptile, p, steps)(cases, cases.x, 0) for p in (theta, other))
    assert not torch.equal(one, two)


def test_a_learned_space_asks_where_the_cases_lie(tmp_path):
    """Without a step: softmax of minus the squared distance to each class's mean, by hand."""
    plan = plan_with(tmp_path, name="prototypical")
    theta, cases = initial_params(plan.study, seed=3), cases_of()
    model = build(plan.study)
    load_params(model, theta)
    with torch.no_grad():
        z = model.features(cases.x).double()
    means = torch.stack([z[cases.y == c].mean(0) for c in range(3)])
    expected = (-((z[:, None] - means) ** 2).sum(-1)).softmax(1)
    found = learners_own(plan, theta, InnerSteps())(cases, cases.x, 0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_batches_take_each_case_before_any_comes_again(tmp_path):
    from simulations.fewshot.adapting import _batches

    steps = list(_batches(cases_of(), 2, 6, seed=1))
    assert sorted(torch.cat(steps[:3]).tolist()) == sorted(torch.cat(steps[3:]).tolist())
    assert sorted(torch.cat(steps[:3]).tolist()) == list(range(6))


def test_what_is_described_is_what_the_method_says(tmp_path):
    from common.cohort.parts import Part

    plan, cases = compile_study(few_shot_study(tmp_path)), cases_of()
    part = Part(cases.x, cases.y, torch.arange(6), 6)
    theta = initial_params(plan.study, seed=0)
    widths = {
        name: ready(Method.model_validate(name), part, plan, theta).space[0].numel()
        for name in ("logistic_pixels", "logistic_hog", "fedrep+svm", "fedrep+svm+hog", "scratch")
    }
    hog = widths.pop("logistic_hog")
    assert 0 < hog != 256
    assert widths == {
        "logistic_pixels": 256,
        "fedrep+svm": 8,
        "fedrep+svm+hog": 8 + hog,
        "scratch": 256,
    }


@pytest.mark.parametrize(
    ("use", "options", "said"),
    [
        ("adapt", {"stepz": 3}, "stepz"),
        ("adapt", {"steps": "many"}, "steps"),
        ("fine_tune", {"learning_rate": -1.0}, "learning_rate"),
        ("prototype", {"distance": "far"}, "distance"),
        ("nearest", {"k": 3}, "'k'"),
        ("logistic", {"strenght": 1.0}, "strenght"),
    ],
)
def test_an_option_that_is_none_is_named(tmp_path, use, options, said):
    study = few_shot_study(tmp_path)
    method = Method.model_validate({"arm": "fedrep", "use": use, "options": options})
    with pytest.raises(StudyError, match=f"method 'fedrep.{use}'.*{said}"):
        check_method(method, study, compile_study(study))


@pytest.mark.parametrize(
    ("name", "said"),
    [("nearest_inputs", "is for tables"), ("fedrep+prior", "keeps the shared last layer")],
)
def test_a_method_of_other_inputs_or_classes_is_refused(tmp_path, name, said):
    study = few_shot_study(tmp_path)
    with pytest.raises(StudyError, match=said):
        check_method(Method.model_validate(name), study, compile_study(study))


@pytest.mark.parametrize("name", ["logistic_hog", "nearest_pixels", "reptile+svm+hog"])
def test_a_table_has_no_pixels(name):
    plan = small_plan()
    with pytest.raises(StudyError, match="is for pictures"):
        check_method(Method.model_validate(name), plan.study, plan)
