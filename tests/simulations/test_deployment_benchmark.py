"""The benchmark of deployments: its arithmetic, its stock app, and once the whole of it, in small.

No time is held to anything here: machines are noisy.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch

from common.errors import EngineError
from common.models import build
from common.privacy.accounting import delta_limit
from simulations.benchmark import speed_study
from simulations.deployment_benchmark import figures, measure, rows
from simulations.ledger_timed import ledger_seconds
from simulations.rounds_timed import Round, logged_at, logged_rounds
from simulations.stock_flower.loopback import rounds_of
from simulations.stock_flower.stock.task import Net, load_data, train
from simulations.world import scenario_of


def line(seconds, message, *, run="r", number=1):
    at = f"2030-01-01T00:00:{seconds:06.3f}Z"
    return json.dumps({"at": at, "message": message, "run": run, "round": number})


def test_a_round_lasts_until_the_first_hospital_is_asked_for_the_next():
    one = [
        line(0.5, "asked: join, 0 bytes", number=0),
        line(1.0, "asked: train, 8 bytes"),
        line(2.0, "computed: train, 0.250 s"),
        line(4.5, "asked: train, 8 bytes", number=2),
        line(5.0, "computed: train, 0.500 s", number=2),
        line(9.0, "asked: evaluate, 8 bytes", number=2),
    ]
    two = [
        "UserWarning: no line of the log",
        line(1.5, "asked: train, 8 bytes"),
        line(1.6, "computed: train, 0.100 s"),
        line(4.0, "asked: train, 8 bytes", number=2),
        line(4.6, "computed: train, 0.600 s", number=2),
        line(8.0, "asked: evaluate, 8 bytes", number=2),
        line(0.1, "asked: train, 8 bytes", run="another"),
        line(0.2, "computed: train, 30.000 s", run="another"),
    ]
    assert logged_rounds([one, two], "r") == [Round(3.0, 0.25), Round(4.0, 0.6)]
    assert [r.overhead for r in logged_rounds([one, two], "r")] == [2.75, pytest.approx(3.4)]


def test_the_moment_of_a_message_is_that_of_the_first_line_with_it():
    lines = [line(1.0, "superexec started"), line(2.0, "agent started"), line(3.0, "agent started")]
    assert logged_at(lines, "agent started") - logged_at(lines, "superexec") == 1.0
    assert logged_at(lines, "agent stopped") is None


def test_a_supernode_that_missed_a_round_of_stock_flower_is_told():
    told = {"ends": [0.0, 1.0, 2.0], "compute": [0.1, 0.1], "sites": [4, 3]}
    with pytest.raises(EngineError, match="not all of 4 SuperNodes"):
        rounds_of(told, sites=4)


def test_the_table_has_medians_their_ratio_and_what_is_aimed_at():
    found = figures(
        {
            "grandrounds": [Round(3.5, 0.5), Round(4.5, 0.5), Round(2.5, 0.5)],
            "stock_flower": [Round(13.0, 1.0), Round(11.0, 1.0), Round(14.0, 2.0)],
        },
        {"site": [5.0, 7.0], "agent": [3.0, 4.0]},
        {"verify": 0.5, "cold": 0.25, "cached": 0.001},
        loads=[1.0, 2.0, 3.0],
    )
    assert found["rounds"]["ratio"] == pytest.approx(3.0 / 12.0)
    table = {what: (value, aim) for what, value, aim in rows(found)}
    assert table["round beyond compute: grandrounds"] == ("3.00 s (2.00 to 4.00, n = 3)", "≤ 5 s")
    assert table["round beyond compute: stock Flower"] == ("12.00 s (10.00 to 12.00, n = 3)", "")
    assert table["agent: start to healthy"] == ("3.50 s (3.00 to 4.00, n = 2)", "< 15 s")
    assert table["ledger: verify 10,000 entries"] == ("0.50 s", "< 5 s")
    assert json.loads(json.dumps(found)) == found


def test_a_ledger_is_timed_in_all_three_ways(tmp_path):
    seconds = ledger_seconds(tmp_path, entries=20, rounds=3)
    assert seconds.keys() == {"verify", "cold", "cached"}
    assert seconds["cached"] < seconds["cold"]


def test_both_sides_have_the_same_model():
    study = speed_study(hospitals=4)
    shapes = [p.shape for p in build(study).parameters()]
    assert [p.shape for p in Net().parameters()] == shapes


@pytest.mark.parametrize("hospitals", [2, 4, 64])
def test_the_speed_study_deals_out_every_patient_and_every_hospital_may_answer(hospitals):
    study = speed_study(hospitals=hospitals, rounds=3)
    assert study.rounds.count == 3
    assert study.privacy.delta <= delta_limit(round(569 / hospitals))
    sites = scenario_of(study).partition.hospitals
    assert (sum(s.patients for s in sites), sum(s.positives for s in sites)) == (569, 212)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_stock_app_takes_as_many_steps_as_it_is_told(tmp_path, monkeypatch, steps):
    text = "patient,a,b,diagnosis\n" + "".join(
        f"p{i},{i},{i % 7},{'malignant' if i % 2 else 'benign'}\n" for i in range(40)
    )
    (tmp_path / "one.csv").write_text(text)
    taken = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *args: (taken.append(1), step(self, *args))[1]
    )
    net = torch.nn.Linear(2, 2)
    loss = train(net, load_data(tmp_path / "one.csv"), steps=steps, learning_rate=0.1)
    assert len(taken) == steps
    assert loss > 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a deployment needs POSIX")
def test_two_hospitals_and_two_supernodes_run_one_round():
    # A Unix socket's path must be short, and pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="gr-") as folder:
        found = measure(Path(folder), hospitals=2, rounds=1, say=lambda line: None)
    for side in ("grandrounds", "stock_flower"):
        assert found["rounds"][side]["overhead"]["count"] == 1
        assert 0 < found["rounds"][side]["compute"]["median"] < found["rounds"][side]["each"][0]
    assert found["start"]["agent"]["count"] == 2
    assert found["start"]["agent"]["most"] < found["start"]["site"]["most"]
