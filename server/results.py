"""What a federated run says of itself: the promise, and what its hospitals released."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from common.evaluation import ScoreHistogram, bin_edges, derive
from common.files import write_atomic
from common.meta.aucs import pool_auc
from common.params import Params
from common.plan import Plan
from common.privacy import accounting
from common.privacy.engine import prv_epsilon
from common.privacy.events import Event, PoissonGaussian
from common.report.words import DEPLOYED
from server.store import Store
from server.tables import SEEDED, TOOK_PART

SCHEMA = 1
PACKAGES = ("grandrounds", "flwr", "torch", "opacus", "dp-accounting")

_NOISE = "each hospital's own; cryptographic, unless a hospital's policy says otherwise"
_SPLIT = "keyed hash of the patient id, each hospital under its own secret key"


def run_metrics(plan: Plan, run_dir: Path, job: str, *, seconds: float) -> dict[str, Any]:
    """Return everything that a run over real hospitals says, as plain JSON values.

    Nothing of it is exact: what is not released through a hospital's gate is not known here.
    """
    store, name = Store(run_dir), plan.study.learner.name
    released, row, members = released_of(plan, store, job), store.job(job), store.members(job)
    result = {
        **what_ran(plan, run_dir, main_arm=name, split=_SPLIT, seconds=seconds),
        "engine": DEPLOYED,
        "seeds": 1,
        "privacy": deployed_privacy(plan, store, job),
        "arms": {},
        "sites": [
            {
                "name": member["site"],
                "declared": member["declared"],
                "status": member["status"],
                "train_patients": None,
                "holdout_patients": None,
                "arms": {},
                "private": released.get(member["site"]),
            }
            for member in members
        ],
        "missed": store.missed(job),
        "curves": {},
        "pooled_private": pooled_of(released),
        "remarks": [row["remark"]] if row and row["remark"] else [],
        "published": None,
    }
    store.close()
    return result


def deployed_privacy(plan: Plan, store: Store, job: str) -> dict[str, Any]:
    """Return the promise of a run over real hospitals, taken back where one seeded its noise."""
    privacy = privacy_of(plan, noise=_NOISE, spent=spent_of(store, job))
    rows = store.members(job)
    seeded = [m["site"] for m in rows if m["noise"] == SEEDED and m["status"] == TOOK_PART]
    return privacy | (_unprotected(seeded) if seeded else {})


def _unprotected(sites: list[str]) -> dict[str, Any]:
    """Return what takes the promise back, for a run in which hospitals used seeded noise."""
    where = ", ".join(sites)
    return {
        "private": False,
        "noise": f"SEEDED at {where}",
        "statement": f"NOT PRIVATE: {where} used seeded noise (noise_seed in policy.toml), which "
        "whoever knows the seed can take off; it is for development with invented patients",
    }


def what_ran(
    plan: Plan, run_dir: Path, *, main_arm: str, split: str, seconds: float
) -> dict[str, Any]:
    """Return what every run's metrics begin with."""
    study = plan.study
    return {
        "schema": SCHEMA,
        "run_dir": str(run_dir),
        "study": study.name,
        "title": study.title or study.name,
        "description": study.description,
        "study_digest": plan.digest,
        "seconds": round(seconds, 2),
        "rounds": study.rounds.count,
        "main_arm": main_arm,
        "split": split,
        "versions": {name: version(name) for name in PACKAGES},
    }


def write_model(run_dir: Path, params: Params, *, digest: str) -> None:
    """Write the run's model, named by its study's digest."""
    header = {"digest": digest}  # one key: two have no fixed order
    tensors = {k: v.contiguous() for k, v in params.items()}
    write_atomic(run_dir / "model.safetensors", save(tensors, metadata=header))


def privacy_of(plan: Plan, *, noise: str, spent: float | None = None) -> dict[str, Any]:
    """Return the promise of a plan in plain values.

    Args:
        plan: The compiled study.
        noise: Where the noise came from, in words.
        spent: The largest epsilon that a site's receipt named, where it is more than the plan's: a
            round repeated after a crash is paid twice.
    """
    study, rounds = plan.study, plan.study.rounds.count
    common = {
        "private": plan.private,
        "unit": accounting.UNIT,
        "sampling_rate": study.learner.sampling_rate,
        "steps": plan.steps,
    }
    if not plan.private:
        return common | {
            "noise": None,
            **dict.fromkeys(("epsilon", "delta", "adjacency", "accountant", "clip", "epsilon_prv")),
            "sigma": 0.0,
            "evaluation_sigma": 0.0,
            "epsilon_by_round": [],
            "releases": [],
            "statement": "not private: the study has no privacy table",
        }
    training, evaluation = plan.training_prices(rounds=rounds), plan.evaluation_price()
    epsilon, is_effect = max(plan.epsilon, spent or 0.0), study.effect is not None
    parts = "each is in the one release" if is_effect else "a patient either trains or evaluates"
    return common | {
        "noise": noise,
        "epsilon": epsilon,
        "delta": plan.delta,
        "adjacency": accounting.ADJACENCIES[plan.adjacency],
        "accountant": f"{accounting.ACCOUNTANT} {version('dp-accounting')}",
        "sigma": plan.evaluation_sigma if is_effect else plan.sigma,
        "clip": None if is_effect else plan.clip,
        "evaluation_sigma": plan.evaluation_sigma,
        "epsilon_prv": _prv(training or (evaluation,), plan),
        "epsilon_by_round": [plan.epsilon_after(r) for r in range(1, rounds + 1)],
        "releases": [
            *(_release("weight delta", plan, event, count=rounds) for event in training),
            _release(
                "table of an effect" if is_effect else "evaluation histogram",
                plan,
                evaluation,
                count=1,
            ),
        ],
        "statement": f"({epsilon:.3g}, {plan.delta:g})-differential privacy for each patient of "
        f"each hospital, {accounting.ADJACENCIES[plan.adjacency]}; "
        f"{parts}",
    }


def _prv(training: tuple[Event, ...], plan: Plan) -> float:
    """Return the cross-check of what training costs: the dearer side, where patients are parted."""
    parts = {event.part for event in training}
    return max(
        prv_epsilon([e for e in training if e.part == part], delta=plan.delta) for part in parts
    )


def _release(what: str, plan: Plan, event: Event, *, count: int) -> dict[str, Any]:
    """Return one kind of release; sigma is of the mechanism that the accountant prices."""
    cost = accounting.epsilon([event], delta=plan.delta)
    sigma = event.sigma if isinstance(event, PoissonGaussian) else 0.0
    return {"what": what, "part": event.part, "count": count, "sigma": sigma, "epsilon": cost}


def spent_of(store: Store, job: str) -> float | None:
    """Return the largest epsilon that a hospital's receipt named."""
    return max((r["epsilon"] for r in store.replies(job) if r["epsilon"] is not None), default=None)


def released_of(plan: Plan, store: Store, job: str) -> dict[str, Any]:
    """Return what each hospital's noisy histogram says, by hospital."""
    edges = bin_edges(plan.study.evaluation.bins)
    found = {}
    for site, (sigma, counts) in store.histograms(job).items():
        table = np.array(counts)
        derived = derive(ScoreHistogram(edges=edges, counts=table, sigma=sigma))
        if len(table) == 1:
            derived["histogram"] = {
                "edges": edges.tolist(),
                "negative": table[0, 0].tolist(),
                "positive": table[0, 1].tolist(),
                "sigma": sigma,
            }
        found[site] = derived
    return found


def pooled_of(released: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the released AUCs pooled by random effects, or None where there are none."""
    rows = [released[name] for name in sorted(released)]
    columns = ([r[key] for r in rows] for key in ("auc", "auc_low", "auc_high"))
    return pool_auc(*columns) if rows else None
