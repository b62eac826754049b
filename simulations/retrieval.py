"""How well the bodies that the arms share find similar cases at each hospital: exact figures.

Each hospital looks for its holdout patients' images among its own training patients', as `site
retrieve` does for a new case. The inputs themselves, without a body, stand beside the arms.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common.cohort.parts import Part
from common.metric_spec import Distance
from common.metrics import Array
from common.models import build, load_params
from common.params import Params, head_of
from common.plan import Plan
from common.retrieval import (
    COSINE,
    KS,
    MOST,
    Retrieval,
    distance_of,
    drawn,
    places,
    retrieval_figures,
)
from common.seeds import derive
from simulations.world import World, own_params

Bodies = Mapping[str, tuple[Plan, Params, str | None]]


def retrieval_of(world: World, bodies: Bodies) -> dict[str, Any] | None:
    """Return what a study of images says of similar cases, as plain JSON values.

    Args:
        world: The hospitals of the first seed.
        bodies: Arm -> its plan, its shared weights, and its job where it is federated.

    Returns:
        `ks`, `most` (records looked at, at most), `inputs` and `arms` (name -> figures); None for
        tables, and where no arm shares a body.
    """
    with_body = {n: b for n, b in bodies.items() if b[1].keys() - head_of(b[1])}
    if not with_body or any(b[0].study.cohort.image is None for b in with_body.values()):
        return None
    pairs = {n: drawn(c, seed=derive(world.seed, n)) for n, c in world.cohorts.items()}
    plain = [
        _figures([part.x.flatten(1).numpy() for part in pair], pair, COSINE)
        for pair in pairs.values()
    ]
    return {
        "ks": list(KS),
        "most": dict(MOST),
        "inputs": _mean(plain, COSINE),
        "arms": {name: _arm(world, pairs, *body) for name, body in with_body.items()},
    }


def _arm(
    world: World,
    pairs: Mapping[str, tuple[Part, Part]],
    plan: Plan,
    params: Params,
    job: str | None,
) -> dict[str, Any]:
    model, metric = build(plan.study), plan.study.learner.metric
    rows = []
    for name, pair in pairs.items():
        own = params if job is None else own_params(world, job, plan, name, params)
        load_params(model, own)
        z = [places(model, part.x, metric) for part in pair]
        rows.append(_figures(z, pair, distance_of(metric)))
    return _mean(rows, distance_of(metric))


def _figures(z: Sequence[Array], pair: tuple[Part, Part], distance: Distance) -> Retrieval:
    gallery, queries = pair
    return retrieval_figures(
        z[0],
        gallery.y.numpy(),
        z[1],
        queries.y.numpy(),
        distance=distance,
        weights=queries.weights.numpy(),
    )


def _mean(rows: Sequence[Retrieval], distance: Distance) -> dict[str, Any]:
    """Average over the hospitals where a query counts, each of which counts the same."""
    known = [row for row in rows if row.queries > 0]

    def mean(values: Sequence[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return statistics.fmean(numbers) if numbers else None

    return {
        "distance": distance,
        "hospitals": len(known),
        "precision": {str(k): mean([row.precision[k] for row in known]) for k in KS},
        "recall": {str(k): mean([row.recall[k] for row in known]) for k in KS},
        "map": mean([row.mean_average_precision for row in known]),
        "chance": mean([row.chance for row in known]),
    }
