"""Sources: what each gives away, what it pays, whom the ranking picks, and what is told of it."""

import io
import json
from dataclasses import replace
from pathlib import Path

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from rich.console import Console

from common.embedded import find_study
from common.errors import StudyError
from common.few_shot_spec import FewShot, SourcesSpec
from common.report.fewshot_page import few_shot_html
from common.study import load_study, parse_study
from common.transfer.choice import Choice
from common.transfer.spaces import features
from simulations.fewshot.display import print_new_hospitals
from simulations.fewshot.episodes import Judged
from simulations.fewshot.released import placed, released
from simulations.fewshot.results import few_shot_metrics
from simulations.fewshot.rules import plans_of, rules_of
from simulations.fewshot.run import few_shot
from simulations.fewshot.source_table import _choice
from simulations.fewshot.sources import Sources, Tried, sources_of
from simulations.runner import prepare
from simulations.world import scenario_of, world_of
from tests.few_shot_world import few_shot_study, write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


def private(study, **changes):
    values = study.model_dump(mode="json") | {"privacy": {"sigma": 4.0, "delta": 1e-3}}
    return parse_study(values | changes, origin="test")


def run_of(study, folder):
    prepare(study, folder)
    run = few_shot(study, folder, engine="inprocess", say=lambda line: None)
    return few_shot_metrics(run, folder, engine="inprocess", seconds=1.0)


@pytest.fixture(scope="module")
def metrics(data, tmp_path_factory):
    study = few_shot_study(data, held_out=["west"], methods=["fedrep+prototype"], sources=True)
    return run_of(study, tmp_path_factory.mktemp("sources") / "run")


def test_every_other_hospital_is_a_source_and_its_classes_are_not_lent(metrics):
    """Fault it is for: released means of other diseases that judge the new hospital's."""
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    rows = metrics["sources"]["west"]
    assert set(rows) == {"north", "south"}
    for row in rows.values():
        assert list(row["accuracy"]) == ["3"]  # the most labelled cases alone
        assert set(row["accuracy"]["3"]) == {"logistic", "prototype", "mapped"}
        assert row["accuracy"]["3"]["logistic"] > 0.5  # of 4; these pictures are easy
        assert row["epsilon"] is None
        assert row["distance"] >= 0
    assert sum(row["picked"] for row in rows.values()) == 4
    assert metrics["source_choice"]["west"]["episodes"] == 4


def test_it_is_told(metrics):
    page, stream = few_shot_html(metrics), io.StringIO()
    print_new_hospitals(Console(file=stream, width=120), metrics)
    for text in (page, stream.getvalue()):
        assert "each other hospital's own body" in text.replace("&#39;", "'")
        assert "By evidence the best source was picked in" in text
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    row, choice = metrics["sources"]["west"]["north"], metrics["source_choice"]["west"]
    keys = {"sources", "source_choice", *row, *choice, *row["accuracy"]["3"], *choice["evidence"]}
    assert not {key for key in (*keys, "moments", "labels") if f"`{key}`" not in readme}


def test_where_classes_agree_released_means_judge(tmp_path):
    """Breast cancer, two sources: their means know benign from malignant at a third hospital."""
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values |= {"model": {"name": "mlp", "hidden": [8]}, "privacy": None}
    values["simulation"]["fewshot"] = {"shots": [1, 5], "episodes": 9, "sources": {"episodes": 5}}
    study = parse_study(values, origin="test")
    rules = rules_of(study)
    world, plans = world_of(study, scenario_of(study), tmp_path, 0), plans_of(study, rules)
    new, *sources = sorted(world.cohorts)
    others = world.without(new, *sources[2:])
    found = sources_of(new, world, others, rules, plans, lambda line: None)
    assert found.shots == "5"
    assert set(found.tried) == set(sources[:2])
    for one in found.tried.values():
        assert set(one.judged) == {"logistic", "prototype", "moments", "labels"}
        for way in ("moments", "labels"):
            assert len(one.judged[way]) == 5
            # 150 queries: by chance this happens once in thousands of times.
            assert sum(judged.accuracy for judged in one.judged[way]) / 5 > 0.65


@pytest.fixture(scope="module")
def paid(data, tmp_path_factory):
    study = private(few_shot_study(data, methods=["fedrep+svm"], sources=True))
    folder = tmp_path_factory.mktemp("paid")
    rules = rules_of(study)
    world, plan = world_of(study, scenario_of(study), folder, 0), plans_of(study, rules)["fedrep"]
    return world, plan, rules.sources


def test_a_source_pays_for_the_body_and_the_moments(paid):
    """Held to dp-accounting itself. Fault it is for: moments that nobody paid for."""
    world, plan, spec = paid
    found = released("north", world, "fedrep", plan, spec, lambda line: None)
    step = dp_accounting.PoissonSampledDpEvent(
        plan.study.learner.sampling_rate, dp_accounting.GaussianDpEvent(4.0)
    )
    accountant = PLDAccountant()
    accountant.compose(step, 2 * (2 + 2))  # rounds of two steps of the head, two of the body
    alone = accountant.get_epsilon(1e-3)
    sigma = _smallest_sigma(spec.epsilon, 1e-3)
    accountant.compose(dp_accounting.GaussianDpEvent(sigma))
    assert found.epsilon == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-3)
    assert alone + 0.05 < found.epsilon < alone + spec.epsilon


def _smallest_sigma(epsilon, delta):
    """Bisect the exact curve of one Gaussian (Balle and Wang 2018, theorem 8)."""
    normal = torch.distributions.Normal(0.0, 1.0)

    def cost(sigma):
        a, b = 0.5 / sigma, epsilon * sigma
        down, up = (normal.cdf(torch.tensor(v, dtype=torch.float64)) for v in (a - b, -a - b))
        return float(down - torch.exp(torch.tensor(epsilon, dtype=torch.float64)) * up)

    low, high = 0.1, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > delta else (low, middle)
    return high


def test_moments_are_released_once_whoever_is_new(paid):
    """Fault it is for: fresh noise for each who asks, which averages away and is priced once."""
    world, plan, spec = paid
    one, other = (
        released("north", others, "fedrep", plan, spec, lambda line: None).moments
        for others in (world.without("west"), world.without("south"))
    )
    assert torch.equal(one.covariance, other.covariance)
    assert torch.equal(one.mean, other.mean)
    found = released("north", world, "fedrep", plan, spec, lambda line: None)
    train = world.cohorts["north"].train
    exact = placed(features(found.model, train.x), found.directions).mean(0)
    assert (one.mean - exact).norm() > 0.01  # and there is noise


def test_a_body_is_of_its_own_patients_alone(paid, tmp_path):
    """Fault it is for: a source that is trained on, or moved by, somebody else's patients."""
    world, plan, spec = paid
    alone = replace(world.without("north", "west"), run_dir=tmp_path)
    bodies = [
        dict(released("south", w, "fedrep", plan, spec, lambda line: None).model.named_parameters())
        for w in (world, alone)
    ]
    assert all(torch.equal(value, bodies[1][name]) for name, value in bodies[0].items())
    assert (tmp_path / "sources" / "fedrep-south.safetensors").is_file()


def test_no_record_lies_outside_the_radius():
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 1e6
    turned = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64)).Q * 10
    assert placed(rows, turned).norm(dim=1).max() <= 1 + 1e-9
    assert torch.equal(placed(torch.zeros(1, 8), turned), torch.zeros(1, 3, dtype=torch.float64))


def tried(accuracies, evidence, distance):
    rows = [Choice("x", e, d) for e, d in zip(evidence, distance, strict=True)]
    return Tried(None, rows, {"logistic": [Judged(a, a) for a in accuracies]})


def test_the_choice_is_judged_episode_by_episode():
    """Three episodes by hand; in the last both sources are best, so that nobody can be wrong."""
    sources = {
        "a": tried([0.9, 0.2, 0.5], [1.0, 1.0, 0.0], [2.0, 0.1, 2.0]),
        "b": tried([0.1, 0.6, 0.5], [0.0, 0.0, 1.0], [3.0, 0.2, 1.0]),
    }
    found = _choice(Sources("5", sources, ["a", "a", "b"]))
    assert found["evidence"] == {"best": 2, "accuracy": pytest.approx((0.9 + 0.2 + 0.5) / 3)}
    assert found["distance"] == {"best": 2, "accuracy": pytest.approx((0.9 + 0.2 + 0.5) / 3)}
    assert found["blind"]["best"] == pytest.approx(0.5 + 0.5 + 1)
    assert found["blind"]["accuracy"] == pytest.approx((0.5 + 0.4 + 0.5) / 3)
    assert found["hindsight"] == pytest.approx((0.9 + 0.6 + 0.5) / 3)


def test_true_is_all_defaults_and_false_is_none():
    assert FewShot(sources=True).sources == SourcesSpec()
    assert FewShot(sources=False).sources is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["untrained+svm"], "sources": True}, "no method has a federated arm"),
        ({"sources": {"arm": "nobody"}}, "arm 'nobody' is not known"),
        ({"sources": {"arm": "local"}}, "arm 'local', which is not federated"),
        ({"sources": {"dims": 1}}, "dims"),
    ],
)
def test_what_cannot_be_is_refused(data, changes, said):
    def checked():
        study = few_shot_study(data, **changes)
        plans_of(study, rules_of(study))

    with pytest.raises(StudyError, match=said):
        checked()


def test_a_model_without_a_body_has_no_sources():
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values |= {"privacy": None}
    values["simulation"]["fewshot"] = {"sources": True}
    study = parse_study(values, origin="test")
    with pytest.raises(StudyError, match="a model without a body"):
        plans_of(study, rules_of(study))
