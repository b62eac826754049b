"""What a source gives away for others to choose by: a body, and where its patients lie under it.

Guarantees
    The body costs what the plan's training does, in one hospital's own steps. Its features of a
    record are then a fixed map of that record: they are brought to length 1, turned onto a few
    directions that are drawn without data, and drawn in to the public radius 1. So the moments are
    one Gaussian mechanism more on the same training patients (`common.transfer.release`), released
    once for all who choose, and `epsilon` is of both together at the plan's delta. It is a source's
    whole price if it takes no part in the federated arms, which are other worlds here; one that
    does pays for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.codec import decode, encode
from common.few_shot_spec import SourcesSpec
from common.files import write_atomic
from common.learners.types import Patients
from common.models import Classifier, build, initial_params, load_params
from common.plan import Plan
from common.privacy import accounting
from common.privacy.events import Event, gaussian
from common.privacy.moments import Moments
from common.privacy.noise import SeededSource
from common.references import within
from common.seeds import derive
from common.transfer import spaces
from common.transfer.release import released_moments
from simulations.arms import train_alone
from simulations.world import Say, World

_RADIUS = 1.0  # features are brought to length 1, so no radius is chosen by looking at any


@dataclass(frozen=True)
class Released:
    """What a source gives away.

    Attributes:
        model: Its body, trained alone.
        directions: Of the released space, (features, dims); public.
        moments: In that space.
        epsilon: Of body and moments together; None where the arm is not private.
    """

    model: Classifier
    directions: Tensor
    moments: Moments
    epsilon: float | None


def released(
    name: str, others: World, arm: str, plan: Plan, spec: SourcesSpec, say: Say
) -> Released:
    """Train a hospital alone, unless the run folder has its body, and release its moments."""
    cohort, label = others.cohorts[name], plan.study.cohort.label
    classes = cohort.classes if label.own else len(label.classes)
    file = others.run_dir / "sources" / f"{arm}-{name}.safetensors"
    if file.is_file():
        params = decode(file.read_bytes())
    else:
        initial = initial_params(plan.study, seed=others.seed, folder=others.run_dir)
        patients = Patients(cohort.train, cohort.declared, cohort.classes)
        seed = derive(others.seed, "source", arm, name)
        params = train_alone(plan, initial, patients, seed=seed)
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, encode(params))
        say(f"{name}: {arm} trained alone")
    model = build(plan.study)
    load_params(model, {k: v.clone() for k, v in params.items()})
    found = spaces.features(model, cohort.train.x)
    directions = _directions(found.shape[1], spec.dims, seed=others.seed)
    moments, event = released_moments(
        placed(found, directions),
        cohort.train,
        SeededSource(derive(others.seed, "moments", arm, name)),  # one release, whoever is new
        radius=_RADIUS,
        sigma=_sigma(plan, spec),
        classes=classes,
    )
    return Released(model, directions, moments, _epsilon(plan, event))


def _sigma(plan: Plan, spec: SourcesSpec) -> float:
    """Return the noise multiplier of the moments alone; 0 where nothing is private."""
    if not plan.private:
        return 0.0

    def price(sigma: float) -> list[Event]:
        return [gaussian(sigma=sigma, count=1, part="train")]

    return accounting.calibrate_sigma(target_epsilon=spec.epsilon, delta=plan.delta, price=price)


def _epsilon(plan: Plan, event: Event) -> float | None:
    """Return what a source's patient pays for body and moments."""
    if not plan.private:
        return None
    training = plan.training_prices(rounds=plan.study.rounds.count)
    return accounting.epsilon([*training, event], delta=plan.delta)


def _directions(width: int, dims: int, *, seed: int) -> Tensor:
    """Return random orthogonal directions, (width, dims), that keep lengths on average."""
    generator = torch.Generator().manual_seed(derive(seed, "directions"))
    drawn = torch.randn(width, min(dims, width), dtype=torch.float64, generator=generator)
    found: Tensor = torch.linalg.qr(drawn).Q * (width / drawn.shape[1]) ** 0.5
    return found


def placed(features: Tensor, directions: Tensor) -> Tensor:
    """Return where features lie in the released space, (records, dims), each by itself."""
    return within(F.normalize(features.double(), dim=1) @ directions, _RADIUS)
