"""A head that stays: it is in no payload, and each round starts from what the last one left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from client.agent import Agent
from client.heads import keep, with_kept
from client.ledger import Ledger
from client.site import load_site
from common.codec import decode, encode
from common.cohort.read import read_cohort
from common.errors import StudyError
from common.evaluation import score_histogram
from common.learners import learner_for
from common.learners.types import Patients
from common.models import build, initial_params, load_params, predict
from common.params import Params, head_of
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.seeds import derive
from common.wire import Envelope
from tests.small_world import hospital, small_plan

META = {"pool": "parted", "query_fraction": 0.4}
LEARNERS = {
    "fedrep": {"name": "fedrep", "learning_rate": 0.2, "local_steps": 2, "head_steps": 3},
    "anil": {"name": "anil", "learning_rate": 0.2, "local_steps": 2, "meta": META},
}


@pytest.fixture(scope="module", params=list(LEARNERS))
def plan(request: pytest.FixtureRequest) -> Plan:
    return small_plan(learner=LEARNERS[request.param], model={"name": "mlp", "hidden": [4]})


@pytest.fixture
def agent(tmp_path: Path, plan: Plan) -> Iterator[Agent]:
    hospital(tmp_path / "alpha", plan)
    agent = Agent(tmp_path / "alpha", durable=False)
    yield agent
    agent.close()


def asked(plan: Plan, kind: str, number: int, weights: Params) -> Envelope:
    header = {"kind": kind, "digest": plan.digest, "run": "main", "round": number}
    return Envelope(header, encode(weights))


def steps(plan: Plan, folder: Path, weights: Params, number: int) -> Params:
    """What the learner makes of weights in a round, with the site's own patients and noise."""
    cohort = read_cohort(load_site(folder).source, plan.study.cohort)
    source = SeededSource(derive(7, "alpha", "train", number))
    model = PrivateModel(build(plan.study))
    return learner_for(plan).adapt(model, weights, Patients(cohort.train, 40), source)


def test_the_head_is_in_no_payload_and_starts_the_next_round(
    agent: Agent, plan: Plan, tmp_path: Path
) -> None:
    """Faults: a head that leaves, one that starts anew, one from a round still to come."""
    folder, start = tmp_path / "alpha", initial_params(plan.study, seed=0)
    head = head_of(start)
    first = steps(plan, folder, start, 1)
    answer = agent.handle(asked(plan, "train", 1, start))
    assert answer.payload == encode({k: v for k, v in first.items() if k not in head})
    assert agent.handle(asked(plan, "train", 1, start)).payload == answer.payload
    begun = {**start, **{k: start[k] + first[k] for k in head}}
    second = steps(plan, folder, begun, 2)
    assert agent.handle(asked(plan, "train", 2, start)).payload == encode(
        {k: v for k, v in second.items() if k not in head}
    )


def test_what_is_kept_is_for_the_site_alone(agent: Agent, plan: Plan, tmp_path: Path) -> None:
    agent.handle(asked(plan, "train", 1, initial_params(plan.study, seed=0)))
    (path,) = (tmp_path / "alpha" / "kept").rglob("*.safetensors")
    assert path.stat().st_mode & 0o077 == 0
    assert set(decode(path.read_bytes())) == head_of(initial_params(plan.study, seed=0))


def test_the_evaluation_is_of_the_shared_body_under_the_own_head(
    agent: Agent, plan: Plan, tmp_path: Path
) -> None:
    start, last = initial_params(plan.study, seed=0), plan.study.rounds.count
    for number in range(1, last + 1):
        agent.handle(asked(plan, "train", number, start))
    own = with_kept(tmp_path / "alpha", start, digest=plan.digest, run="main", before=last + 1)
    assert not torch.equal(own["body.3.weight"], start["body.3.weight"])
    answer = agent.handle(asked(plan, "evaluate", last, start))
    cohort = read_cohort(load_site(tmp_path / "alpha").source, plan.study.cohort)
    model = build(plan.study)
    load_params(model, own)
    part = cohort.holdout
    counts = score_histogram(
        predict(model, part.x).numpy(),
        part.y.numpy(),
        part.patient.numpy(),
        bins=plan.study.evaluation.bins,
    )
    source = SeededSource(derive(7, "alpha", "evaluate", last))
    noise = plan.evaluation_sigma * source.normal(counts.size).reshape(counts.shape)
    assert torch.allclose(decode(answer.payload)["counts"], torch.from_numpy(counts + noise))


def test_every_step_of_the_head_is_charged(agent: Agent, plan: Plan, tmp_path: Path) -> None:
    agent.handle(asked(plan, "train", 1, initial_params(plan.study, seed=0)))
    ledger = Ledger(tmp_path / "alpha" / "ledger.sqlite", durable=False)
    (reserve,) = ledger.entries("reserve")
    ledger.close()
    counts = [event["count"] for event in reserve.body["events"]]
    assert sum(counts) == {"fedrep": 5, "anil": 3}[plan.study.learner.name]


@pytest.mark.parametrize("content", [b"", b"junk", encode({"body.3.weight": torch.zeros(1)})])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    weights = {"body.3.weight": torch.ones(2, 2)}
    own = {"body.3.weight": torch.full((2, 2), 5.0)}
    for number in (1, 2):
        keep(tmp_path, own, digest="d", run="r", number=number)
    newest = tmp_path / "kept" / "d" / "r" / "00002.safetensors"
    newest.write_bytes(content)
    found: dict[int, Any] = {
        before: with_kept(tmp_path, weights, digest="d", run="r", before=before)
        for before in (1, 2, 3)
    }
    assert torch.equal(found[1]["body.3.weight"], weights["body.3.weight"])
    assert torch.equal(found[2]["body.3.weight"], own["body.3.weight"])
    assert torch.equal(found[3]["body.3.weight"], own["body.3.weight"])


@pytest.mark.parametrize(
    "model", [{"name": "logistic"}, {"name": "mlp", "hidden": [4], "frozen": "body"}]
)
def test_a_head_without_a_body_to_share_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="nothing would be shared"):
        small_plan(learner=LEARNERS["fedrep"], model=model)
