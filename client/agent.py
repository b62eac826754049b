"""The site agent: the only program that reads patients. It answers one request at a time."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path

import torch
from flwr.app import Context

from client.gate import Release, decode_fitting, release
from client.ledger import Key, Ledger
from client.policy import Reason, Refused
from client.site import Site, load_site, site_logger
from client.transport import Transport
from common.cohort.parts import Cohort
from common.cohort.read import read_cohort
from common.errors import SiteError
from common.evaluation import score_histogram
from common.learners import learner_for
from common.learners.types import Patients
from common.models import build, load_params, params_of, pick_device, predict
from common.params import Params
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import SecureSource, SeededSource, Source
from common.seeds import derive
from common.wire import Envelope

PHASES = ("join", "train", "evaluate")


@dataclass
class Study:
    """An approved plan with what the agent keeps warm for it: model and patients."""

    site: Site
    plan: Plan
    log: logging.Logger = field(repr=False)

    @property
    def model(self) -> torch.nn.Module:
        """The study's model on the site's device; weights are loaded for each use."""
        return _models(self.plan, pick_device(self.site.cohort.device))[0]

    @property
    def private_model(self) -> PrivateModel:
        """Another of the same, checked, for the gradients of single patients."""
        return _models(self.plan, pick_device(self.site.cohort.device))[1]

    @cached_property
    def like(self) -> Params:
        """Names, shapes and types of the study's weights."""
        return params_of(self.model)

    @cached_property
    def cohort(self) -> Cohort:
        """The site's patients; read when first needed, which is after the first reserve."""
        cohort = read_cohort(self.site.source, self.plan.study.cohort)
        for note in cohort.notes:
            self.log.warning("%s", note)
        return cohort


@lru_cache(maxsize=4)
def _models(plan: Plan, device: torch.device) -> tuple[torch.nn.Module, PrivateModel]:
    """Return the plan's models, kept warm; the sites of a simulation take turns with them."""
    return build(plan.study).to(device), PrivateModel(build(plan.study).to(device))


class Agent:
    """Answers requests for one site's folder.

    Args:
        folder: The site's folder.
        durable: Whether the ledger must survive a power cut (see `Ledger`).
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._site = load_site(folder)
        self._ledger = Ledger(self._site.ledger_path, durable=durable)
        self._log = site_logger(self._site)
        self._studies: dict[str, Study] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the ledger and the log."""
        self._ledger.close()
        for handler in list(self._log.handlers):
            handler.close()
            self._log.removeHandler(handler)

    def handle(self, request: Envelope) -> Envelope:
        """Answer a request, or say why not with a reason that depends on no patient."""
        with self._lock:
            try:
                return self._answer(request)
            except Refused as refusal:
                reason = refusal.reason
            except Exception:
                # What went wrong may depend on patients: it stays in the site's own log.
                self._log.exception("request %s failed", request.header.get("kind"))
                reason = Reason.FAILED
        self._log.info("refused: %s", reason)
        return Envelope(
            {"status": "refused", "reason": str(reason), "site": self._site.cohort.name}
        )

    def _answer(self, request: Envelope) -> Envelope:
        key = _key(request)
        study = self._study(key.digest)
        last = study.plan.study.rounds.count
        in_plan = {
            "join": key.round == 0,
            "train": 1 <= key.round <= last,
            "evaluate": key.round == last,
        }
        if not in_plan[key.phase]:
            raise Refused(Reason.OUT_OF_PLAN)
        asked = getattr(self, f"_{key.phase}")(key, study, request.payload)
        declared = self._site.cohort.declared
        return release(asked, ledger=self._ledger, policy=self._site.policy, declared=declared)

    def _join(self, key: Key, study: Study, payload: bytes) -> Release:
        """Say who is here and how large it declares itself: chosen by the site, not counted."""
        public = {"site": self._site.cohort.name, "declared": self._site.cohort.declared}
        return Release(key, study.plan, (), {}, dict, public)

    def _train(self, key: Key, study: Study, payload: bytes) -> Release:
        theta, source = decode_fitting(payload, study.like), self._source(key)
        adapt = learner_for(study.plan).adapt

        def compute() -> Params:
            patients = Patients(study.cohort.train, study.cohort.declared)
            return adapt(study.private_model, theta, patients, source)

        price = (study.plan.training_price(),)
        return Release(key, study.plan, price, study.like, compute, self._public)

    def _evaluate(self, key: Key, study: Study, payload: bytes) -> Release:
        theta, source = decode_fitting(payload, study.like), self._source(key)
        bins, plan = study.plan.study.evaluation.bins, study.plan
        like = {"counts": torch.zeros(plan.histograms, 2, bins, dtype=torch.float64)}

        def compute() -> Params:
            load_params(study.model, theta)
            part = study.cohort.holdout
            counts = score_histogram(
                predict(study.model, part.x).numpy(),
                part.y.numpy(),
                part.patient.numpy(),
                bins=bins,
            )
            noise = plan.evaluation_sigma * source.normal(counts.size).reshape(counts.shape)
            return {"counts": torch.from_numpy(counts + noise)}

        return Release(key, plan, (plan.evaluation_price(),), like, compute, self._public)

    @property
    def _public(self) -> dict[str, object]:
        return {"site": self._site.cohort.name}

    def _study(self, digest: str) -> Study:
        if digest not in self._studies:
            plan = self._site.approved(digest)
            if plan is None:
                raise Refused(Reason.UNKNOWN_STUDY)
            self._studies[digest] = Study(self._site, plan, self._log)
        return self._studies[digest]

    def _source(self, key: Key) -> Source:
        """Return one release's randomness: secret, or in a simulation a function of its name."""
        seed = self._site.policy.noise_seed
        if seed is None:
            return SecureSource()
        return SeededSource(derive(seed, self._site.cohort.name, key.phase, key.round))


def _key(request: Envelope) -> Key:
    header = request.header
    digest, run, phase = header.get("digest"), header.get("run"), header.get("kind")
    number = header.get("round")
    if not (isinstance(digest, str) and isinstance(run, str) and isinstance(phase, str)):
        raise Refused(Reason.MALFORMED)
    if type(number) is not int or phase not in PHASES or not 0 < len(run) <= 128:
        raise Refused(Reason.MALFORMED)
    return Key(digest, run, phase, number)


_open_agents: list[Agent] = []


def folder_transport(context: Context) -> Transport:
    """Connect to an agent in this process, for the site whose folder the simulation wrote.

    The folder is the node's `site-dir`, or the one of the node's `partition-id` among the folders
    of the run's `sites-dir`, in the order of their names.

    Raises:
        SiteError: neither is configured, or there is no such folder.
    """
    own = context.node_config.get("site-dir")
    if own is not None:
        return agent_of(Path(str(own))).handle
    parent, partition = context.run_config.get("sites-dir"), context.node_config.get("partition-id")
    if not parent or not isinstance(partition, int):
        raise SiteError(
            "the node's configuration names no site-dir, and the run none for its partition",
            remedy="start the node with --node-config 'site-dir=\"DIR\"'",
        )
    return _agent_of_partition(str(parent), partition).handle


@cache
def _agent_of_partition(parent: str, partition: int) -> Agent:
    return agent_of(sorted(p for p in Path(parent).iterdir() if p.is_dir())[partition])


@cache
def agent_of(folder: Path) -> Agent:
    """Return the agent of a simulated site, kept warm until `close_agents`."""
    agent = Agent(folder, durable=False)
    _open_agents.append(agent)
    return agent


def close_agents() -> None:
    """Close every agent of this process; the next request opens its folder anew."""
    for agent in _open_agents:
        agent.close()
    _open_agents.clear()
    _agent_of_partition.cache_clear()
    agent_of.cache_clear()
