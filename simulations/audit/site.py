"""Sites: the agent itself, over several rounds, at two hospitals with folders of their own.

Every patient is the same, so what a hospital's delta must be is known but for the noise: the first
layer's weights of inputs that are 0 everywhere are noise alone, and one loud input counts the steps
that were taken. The ledger and the receipts have to say the same.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.policy import Policy
from client.site import CohortConfig, Site, write_site
from common.auditing import noise, sampler
from common.auditing.outcome import Outcome, judge
from common.codec import decode, encode
from common.cohort.read import read_cohort
from common.errors import RunError
from common.models import build, params_of
from common.plan import Plan, compile_study
from common.privacy.events import PoissonGaussian
from common.seeds import derive
from common.study import parse_study
from common.wire import Envelope
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.subject import Subject

SITES = ("north", "south")
ROUNDS = 3
_PATIENTS, _QUIET, _STEPS = 60, 64, 2
_LOUD = 50.0
_STEP = 1e-3  # how far a sum of length 1 moves the weights: gradients stay as they were


@dataclass(frozen=True)
class SiteRounds:
    """What came out of one site, and what its books say.

    Attributes:
        site: Its name.
        noise: Of each round, in units of what sigma C makes of it, (rounds, values).
        taken: Steps that the deltas show.
        booked: Steps that the ledger holds.
        receipts: Epsilon that each round's receipt said.
        due: Epsilon that the plan says for each round.
    """

    site: str
    noise: NDArray[np.float64]
    taken: int
    booked: int
    receipts: tuple[float, ...]
    due: tuple[float, ...]


def site_rounds(
    subject: Subject, folder: Path, *, generator: str, seed: int
) -> tuple[SiteRounds, ...]:
    """Let both sites answer every round, and return what was seen.

    Args:
        subject: Whose agent answers.
        folder: Where the sites' folders are made.
        generator: 'secure', or 'seeded' as in a simulation.
        seed: Of the weights and of seeded streams.

    Raises:
        RunError: an agent refused or failed.
    """
    plan = _plan()
    return tuple(_rounds(subject, plan, folder / name, generator, seed) for name in SITES)


def _plan() -> Plan:
    names = [f"quiet{i}" for i in range(_QUIET)] + ["loud"]
    features = [
        {"name": n, "range": [-2 * _LOUD, 2 * _LOUD], "center": 0, "scale": 1} for n in names
    ]
    rate = _STEP * _PATIENTS * 0.5
    study = {
        "name": "audit-of-sites",
        "cohort": {
            "patient": "patient",
            "train_fraction": 0.5,
            "min_declared": 10,
            "label": {"classes": ["well", "ill"]},
            "features": features,
        },
        "learner": {"local_steps": _STEPS, "learning_rate": rate},
        "rounds": {"count": ROUNDS},
        "privacy": {"sigma": 2.0, "delta": 1e-3, "clip": 1.0},
    }
    return compile_study(parse_study(study, origin="the audit of sites"))


def _rounds(subject: Subject, plan: Plan, folder: Path, generator: str, seed: int) -> SiteRounds:
    site = _write(folder, plan, generator, seed, subject.device)
    count = read_cohort(site.source, plan.study.cohort).train.patients
    theta = params_of(build(plan.study, seed=seed))
    deltas, receipts = [], []
    with closing(subject.agent(folder)) as agent:
        for number in range(1, ROUNDS + 1):
            names = {"digest": plan.digest, "run": "audit", "round": number}
            answer = agent.handle(Envelope({"kind": "train", **names}, encode(theta)))
            if answer.header["status"] != "ok":
                raise RunError(
                    f"the agent of {folder.name!r} refused round {number}: "
                    f"{answer.header.get('reason')}",
                    remedy=f"read {folder / 'site.log'}",
                )
            deltas.append(decode(answer.payload)["body.1.weight"].double().numpy() / -_STEP)
            receipts.append(float(answer.header["epsilon"]))
        events = [e for account in agent.ledger.accounts() for e in account.events]
    scale = plan.sigma * plan.clip * _STEPS**0.5
    moved = sum(float(d[0, -1] - d[1, -1]) for d in deltas) / 2**0.5
    return SiteRounds(
        folder.name,
        np.stack([d[:, :-1].reshape(-1) / scale for d in deltas]),
        round(abs(moved) / (count * plan.clip)),
        sum(e.count for e in events if isinstance(e, PoissonGaussian)),
        tuple(receipts),
        tuple(plan.epsilon_after(number) for number in range(1, ROUNDS + 1)),
    )


def _write(folder: Path, plan: Plan, generator: str, seed: int, device: str) -> Site:
    """Write a site's folder with its patients, all alike."""
    folder.mkdir(parents=True)
    names = [feature.name for feature in plan.study.cohort.features]
    row = ",".join(["0"] * _QUIET + [str(_LOUD), "ill"])
    lines = [f"patient,{','.join(names)},label", *(f"p{i},{row}" for i in range(_PATIENTS))]
    (folder / "patients.csv").write_text("\n".join(lines) + "\n")
    cohort = CohortConfig(
        name=folder.name,
        path=Path("patients.csv"),
        declared=_PATIENTS,
        split_key=f"{derive(seed, folder.name, 'split key'):032x}",
        device=device,
    )
    policy = Policy(
        epsilon=2 * plan.epsilon,
        delta=plan.delta,
        noise_seed=derive(seed, "noise") if generator == "seeded" else None,
    )
    return write_site(folder, cohort=cohort, policy=policy, plans=[plan])


def sites(subject: Subject, *, generator: str, seed: int) -> Experiment:
    """B and S at sites: the agent's own noise, and its books."""
    names = tuple(f"B sites, {generator}: {what}" for what in ("scale", "between sites"))
    exact = tuple(f"S sites, {generator}: {what}" for what in ("steps in the ledger", "receipts"))

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        with tempfile.TemporaryDirectory() as folder:
            found = site_rounds(subject, Path(folder), generator=generator, seed=seed)
        streams = {
            f"{f.site}, round {i + 1}": values for f in found for i, values in enumerate(f.noise)
        }
        taken, booked = sum(f.taken for f in found), sum(f.booked for f in found)
        said = np.array([f.receipts for f in found]) - np.array([f.due for f in found])
        words = f"a receipt was off by {said.flat[np.abs(said).argmax()]:+.3g} epsilon"
        return [
            noise.deviation(streams, p=level, name=names[0]),
            noise.correlation(streams, p=level, name=names[1]),
            sampler.steps(taken=taken, accounted=booked, name=exact[0]),
            judge(exact[1], statistic=np.abs(said).max(), threshold=1e-9, detail=words),
        ]

    return Experiment(f"sites, {generator}", names, exact, carry_out)
