"""The site agent: the only program that reads patients. It answers one request at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from numpy.typing import NDArray

from client.desk.approval import runs_approved
from client.desk.cohorts import counted, is_as_approved, site_of
from client.desk.received import RUN_NAME, keep
from client.gate import Release, decode_fitting, release
from client.heads import keep as keep_own
from client.heads import with_kept
from client.ledger import Account, Key, Ledger
from client.patients.manifest import has_changed
from client.policy import SEEDED, Policy, Reason, Refused, Ruling
from client.site import load_policy, load_site, site_logger
from client.transport import Transport
from client.warm import Stamp, WarmStudy, forget_models, needed_gb, stamp_of
from common.effect_table import effect_table
from common.errors import GrandroundsError, SiteError
from common.judging import histogram
from common.learners import learner_for
from common.learners.types import Patients
from common.models import load_params, predict
from common.params import Params
from common.plan import Plan
from common.privacy.noise import SecureSource, SeededSource, Source
from common.seeds import derive
from common.wire import Envelope

PHASES = ("join", "train", "evaluate", "deliver")


class Agent:
    """Answers requests for one site's folder.

    Args:
        folder: The site's folder.
        durable: Whether the ledger must survive a power cut (see `Ledger`).
        clock: Local time, for the policy's hours.

    Raises:
        SiteError: the folder, or a file of it, is missing or malformed; without a policy nothing
            runs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._stamps = self._stamp(folder)
        self._site = load_site(folder)
        self._ledger = Ledger(self._site.ledger_path, durable=durable)
        self._log = site_logger(self._site)
        self._studies: dict[str, WarmStudy] = {}
        self._lock = threading.Lock()
        self._clock = clock
        if self._site.policy.noise_seed is not None and durable:
            self._log.warning("%s", SEEDED)

    @property
    def folder(self) -> Path:
        """The site's folder."""
        return self._site.folder

    @property
    def ledger(self) -> Ledger:
        """The site's ledger."""
        return self._ledger

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
            self._note(request, reason)
        site = self._site.cohort.name
        return Envelope({"status": "refused", "reason": str(reason.told), "site": site})

    def _answer(self, request: Envelope) -> Envelope:
        key, policy = _key(request), self._policy()
        if len(request.payload) > policy.max_message_mb * 1e6:
            raise Refused(Reason.TOO_LARGE)
        if self._ledger.behind is not None:
            raise Refused(Reason.LEDGER_BEHIND)
        if self._ledger.paused():
            raise Refused(Reason.PAUSED)
        study = self._study(key.digest)
        self._check(key, study, policy)
        asked = getattr(self, f"_{key.phase}")(key, study, request)
        allowed, own = policy.for_runs(study.runs), partial(self._counted, key, study)
        ruling = Ruling(allowed, key.phase, self._plan_of, self._clock(), own)
        declared = study.site.cohort.declared
        return release(asked, ledger=self._ledger, policy=ruling, declared=declared)

    def _check(self, key: Key, study: WarmStudy, policy: Policy) -> None:
        """Refuse what needs no look at the ledger's figures."""
        last = study.plan.study.rounds.count
        in_plan = {
            "join": key.round == 0,
            "train": 1 <= key.round <= last,
            "evaluate": key.round == last,
            "deliver": key.round == last and study.plan.study.effect is None,
        }
        if not in_plan[key.phase]:
            raise Refused(Reason.OUT_OF_PLAN)
        if policy.memory_gb is not None and needed_gb(study.like) > policy.memory_gb:
            raise Refused(Reason.MODEL_TOO_LARGE)
        # Before the reserve, or every repeated request would be charged for nothing.
        reads = key.phase in ("train", "evaluate") and not study.is_warm(self._ledger)
        if reads and has_changed(study.site, self._ledger, study.plan.study.cohort):
            raise Refused(Reason.COHORT_CHANGED)

    def _counted(self, key: Key, study: WarmStudy, accounts: Iterable[Account]) -> list[Account]:
        """Return the accounts that add up for the study's patients; asked as the price is charged.

        No patient is charged under other terms than those in the ledger (`client.desk.cohorts`).
        """
        reads = key.phase in ("train", "evaluate")
        if reads and not is_as_approved(study.site, self._ledger, key.digest):
            raise Refused(Reason.COHORT_CHANGED)
        return counted(study.site, self._ledger, accounts)

    def _note(self, request: Envelope, reason: Reason) -> None:
        """Write a refusal into the log and the ledger, as far as the request can be read."""
        self._log.info("refused: %s", reason)
        names = ("kind", "digest", "run", "round")
        asked = {name: str(request.header.get(name))[:128] for name in names}
        try:
            self._ledger.record("refusal", {"reason": reason.name, **asked})
        except Exception:
            self._log.exception("the refusal could not be entered into the ledger")

    def _join(self, key: Key, study: WarmStudy, request: Envelope) -> Release:
        """Say who is here and how large it declares itself: chosen by the site, not counted."""
        public = {**self._public, "declared": study.site.cohort.declared}
        if self._site.policy.noise_seed is not None:
            public["noise"] = "seeded"  # the coordinator's report has to shout about it
        return Release(key, study.plan, (), {}, dict, public, request)

    def _train(self, key: Key, study: WarmStudy, request: Envelope) -> Release:
        theta, source = self._weights(key, study, request), self._source(key)
        learner = learner_for(study.plan)
        like = learner.shared(study.delta_like)

        def compute() -> Params:
            cohort = study.cohort(self._ledger)
            last = key.round == study.plan.study.rounds.count
            patients = Patients(cohort.train, cohort.declared, cohort.classes, last)
            delta = learner.adapt(study.private_model, theta, patients, source)
            own = {name: theta[name] + delta[name] for name in delta.keys() - like.keys()}
            if own:  # where the next round starts from; in no payload
                keep_own(self.folder, own, digest=key.digest, run=key.run, number=key.round)
            return {name: delta[name] for name in like}

        price = study.plan.training_prices()
        return Release(key, study.plan, price, like, compute, self._public, request)

    def _evaluate(self, key: Key, study: WarmStudy, request: Envelope) -> Release:
        count, source, plan = self._counting(key, study, request), self._source(key), study.plan
        like = {"counts": torch.zeros(plan.release_shape, dtype=torch.float64)}

        def compute() -> Params:
            counts = count()
            noise = plan.release_sigma * source.normal(counts.size).reshape(counts.shape)
            # In single precision: the last bits of a float64 would betray the counts.
            return {"counts": torch.from_numpy(counts + noise).float().double()}

        price = (plan.evaluation_price(),)
        return Release(key, plan, price, like, compute, self._public, request)

    def _counting(
        self, key: Key, study: WarmStudy, request: Envelope
    ) -> Callable[[], NDArray[np.float64]]:
        """Return what counts patients: by score and outcome, or for an effect by arm."""
        rules = study.plan.study
        if rules.effect is not None:
            decode_fitting(request.payload, {})
            effect = rules.effect
            return lambda: effect_table(study.cohort(self._ledger).train, effect, rules.cohort)
        theta = self._weights(key, study, request)

        def count() -> NDArray[np.float64]:
            part = study.cohort(self._ledger).holdout
            load_params(study.model, theta)
            scores = predict(study.model, part.x).numpy()
            return histogram(scores, part, rules.cohort.label, bins=rules.evaluation.bins)

        return count

    def _deliver(self, key: Key, study: WarmStudy, request: Envelope) -> Release:
        """Keep the finished model; nothing but the word that it arrived leaves."""
        decode_fitting(request.payload, study.like)
        card = request.header.get("card", "")
        if not isinstance(card, str):
            raise Refused(Reason.MALFORMED)

        def compute() -> Params:
            keep(
                self.folder,
                ledger=self._ledger,
                digest=key.digest,
                run=key.run,
                payload=request.payload,
                card=card,
            )
            return {}

        return Release(key, study.plan, (), {}, compute, self._public, request)

    def _weights(self, key: Key, study: WarmStudy, request: Envelope) -> Params:
        """Return the weights asked about, with those that this hospital keeps to itself."""
        sent = decode_fitting(request.payload, study.like)
        before = key.round if key.phase == "train" else key.round + 1
        return with_kept(self.folder, sent, digest=key.digest, run=key.run, before=before)

    @property
    def _public(self) -> dict[str, object]:
        return {"site": self._site.cohort.name}

    def _policy(self) -> Policy:
        """Return the policy as it stands in its file now; cohort.toml too is read when it changes.

        Raises:
            SiteError: cohort.toml is missing or malformed.
        """
        stamps = self._stamp(self.folder)
        if stamps != self._stamps:
            try:
                load_policy(self.folder)
            except GrandroundsError as error:
                self._log.error("%s", error)
                raise Refused(Reason.NO_POLICY) from None
            self._site = load_site(self.folder)
            self._stamps = stamps
            self._studies.clear()
            forget_models()
        return self._site.policy

    @staticmethod
    def _stamp(folder: Path) -> tuple[Stamp | None, ...]:
        return tuple(stamp_of(folder / name) for name in ("policy.toml", "cohort.toml"))

    def _study(self, digest: str) -> WarmStudy:
        """Return an approved study; what was revoked is dropped, what was approved anew reread."""
        path = self._site.plan_path(digest)
        stamp = None if path is None else stamp_of(path)
        if stamp is None:
            if self._studies.pop(digest, None) is not None:
                forget_models()
            raise Refused(Reason.UNKNOWN_STUDY)
        if digest not in self._studies or self._studies[digest].stamp != stamp:
            plan = self._site.approved(digest)
            if plan is None:
                raise Refused(Reason.UNKNOWN_STUDY)
            runs = runs_approved(self._ledger, digest)
            if runs is None and not self._site.is_simulated:
                raise Refused(Reason.UNKNOWN_STUDY)
            site = site_of(self._site, self._ledger, digest)
            self._studies[digest] = WarmStudy(site, plan, stamp, runs, self._log)
        return self._studies[digest]

    def _plan_of(self, digest: str) -> Plan | None:
        """Return an approved plan, for what it holds of the budget."""
        try:
            return self._study(digest).plan
        except (Refused, GrandroundsError):
            return None  # revoked or edited: it cannot run, so it needs nothing

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
    # The run's name becomes a folder's, is a key of the ledger, and is shown to people.
    if type(number) is not int or phase not in PHASES or not RUN_NAME.fullmatch(run):
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
