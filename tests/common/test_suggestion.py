"""Suggestions from public figures: the rule, held to what the accountant says of each row."""

import math

import dp_accounting
import pytest
from dp_accounting import pld

from common.errors import StudyError
from common.plan import compile_study
from common.study import parse_study
from common.suggestion import suggest
from tests.command_line import run_command

DELTA = 1e-4


@pytest.fixture(autouse=True)
def no_sampled_rows(monkeypatch):
    """Sampled rows take the accountant a second each."""
    monkeypatch.setattr("common.suggestion._RATES", ())


def study(**tables):
    values = {
        "name": "t",
        "cohort": {
            "train_fraction": 0.5,
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [0, 1]} for i in range(9)],
        },
        "learner": {"learning_rate": 0.1, "local_steps": 2},
        "rounds": {"count": 4},
        "privacy": {"epsilon": 2.0, "delta": DELTA},
    }
    return parse_study({**values, **tables}, origin="t")


def gaussian_epsilon(sigma):
    """What one Gaussian costs, by dp-accounting's own accountant."""
    accountant = pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(sigma))
    return accountant.get_epsilon(DELTA)


def test_the_suggested_steps_are_the_most_whose_noise_is_no_longer_than_the_clip():
    found = suggest(study(), declared=[200, 400, 900])
    best, half, twice = found.best, *found.others[:2]
    assert found.parameters == 20  # 9 inputs and a bias, for two classes
    assert (best.sampling_rate, best.local_steps) == (1.0, 2)
    for row in (found.own, best, *found.others):
        divisor = row.sampling_rate * 400 * 0.5  # of the median hospital
        assert row.noise == pytest.approx(row.sigma / divisor)
        assert row.noise_length == pytest.approx(math.sqrt(20) * row.sigma / divisor)
        assert row.gradients == pytest.approx(row.rounds * 2 * row.sampling_rate)
    assert best.noise_length <= 1
    assert best.noise_length * math.sqrt(1 + 1 / best.rounds) > 0.999  # one round more is too many
    assert (half.rounds, twice.rounds) == (math.ceil(best.rounds / 2), 2 * best.rounds)


def test_each_rows_sigma_meets_the_studys_epsilon():
    found = suggest(study(), declared=[400])
    for row in (found.best, *found.others[:2]):  # T Gaussians of sigma are one of sigma / sqrt(T)
        alone = row.sigma / math.sqrt(row.rounds * row.local_steps)
        assert 1.98 < gaussian_epsilon(alone) <= 2.0 + 1e-3
    own = compile_study(study())
    assert (found.own.sigma, found.own.rounds) == (own.sigma, 4)


@pytest.mark.slow
def test_all_patients_in_every_step_have_the_best_signal_to_noise(monkeypatch):
    monkeypatch.setattr("common.suggestion._RATES", (0.5,))
    privacy = {"epsilon": 8.0, "delta": DELTA}  # little noise, at which sampling costs most
    found = suggest(study(privacy=privacy), declared=[20])
    full = [row for row in (found.best, *found.others) if row.sampling_rate == 1]
    sampled = [row for row in found.others if row.sampling_rate < 1]
    assert all(row.signal_to_noise == pytest.approx(1, abs=0.01) for row in full)
    shares = [row.signal_to_noise for row in sampled]
    assert [row.sampling_rate for row in sampled] == [0.5]
    assert 0.98 > shares[0] > 0.5
    assert all(row.gradients == pytest.approx(found.best.gradients, rel=0.05) for row in sampled)


@pytest.mark.slow
def test_measured_figures_come_out():
    # Epsilon 3, 2000 patients, T q = 25: noise of .0466 (q = .01), .0164 (.05), .0067 (.25) and
    # .0032 (1) on the mean gradient were measured apart from this code.
    everybody = {"cohort": {**study().rules()["cohort"], "train_fraction": 1.0 - 1e-9}}
    privacy = {"epsilon": 3.0, "delta": 5e-5}
    for rate, noise in ((1.0, 0.0032), (0.25, 0.0067)):
        learner = {"learning_rate": 0.1, "local_steps": 1, "sampling_rate": rate}
        rounds = {"count": round(25 / rate)}
        values = {**everybody, "privacy": privacy, "learner": learner, "rounds": rounds}
        found = suggest(study(**values), declared=[2000])
        assert found.own.noise == pytest.approx(noise, abs=1e-4)


def test_a_large_model_at_few_patients_gets_fewer_local_steps():
    found = suggest(study(model={"name": "mlp", "hidden": [500]}), declared=[60])
    assert (found.best.rounds, found.best.local_steps) == (1, 1)
    assert found.best.noise_length > 1  # not even one step is worth it, and the table says so


@pytest.mark.slow
def test_a_query_is_what_is_looked_at_where_only_it_leaves():
    learner = {"name": "fomaml", "learning_rate": 0.1, "meta": {"query_fraction": 0.25}}
    found, plan = (
        f(study(learner=learner), **k) for f, k in ((suggest, {"declared": [400]}),
                                                     (compile_study, {}))
    )  # fmt: skip
    assert found.own.sigma == plan.query_sigma
    assert found.own.noise == pytest.approx(plan.query_sigma / (400 * 0.5 * 0.25))


@pytest.mark.parametrize(
    ("tables", "declared", "words"),
    [
        ({"privacy": None}, [100], "has no privacy table"),
        ({}, [], r"declared sizes are \[\]"),
        ({}, [100, 0], r"declared sizes are \[100, 0\]"),
        (
            {"learner": {"name": "maml", "learning_rate": 0.1, "meta": {"unit": "episode"}}},
            [100],
            "meta.unit is 'episode'",
        ),
    ],
)
def test_what_the_rule_does_not_speak_about_is_refused(tables, declared, words):
    with pytest.raises(StudyError, match=words):
        suggest(study(**tables), declared=declared)


def test_the_command_prints_a_table_and_the_studys_tables(monkeypatch, capsys):
    ended = run_command(monkeypatch, capsys, "study", "suggest", "heart")
    assert ended.code == 0
    for words in ("4 hospitals of 120 to 300", "suggested", "as it is", 'clipping = "automatic"'):
        assert words in ended.out
    assert "epsilon 1, delta 0.0003" in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chestxray"], "give --declared"),
        (["heart", "--declared", "300,x"], "--declared has 'x' in it"),
        (["heart", "--declared", ""], "--declared has '' in it"),
        (["heart", "--declared", "0"], "declared sizes are [0]"),
        (["nothing"], "neither a file nor one that comes with"),
    ],
)
def test_the_commands_mistakes_say_what_to_do(arguments, words, monkeypatch, capsys):
    ended = run_command(monkeypatch, capsys, "study", "suggest", *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
