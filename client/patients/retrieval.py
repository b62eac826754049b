"""Similar cases: which of the hospital's own patients are nearest to a new one, by its own model.

Distances are in the space of a delivered model, where what its last layer sees lies. Nothing of
this passes the gate, and nothing is kept: the hospital's cases are placed anew for each command,
so that no file of patients' features has to be guarded, and none is ever older than the cohort.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.desk.received import load
from client.ledger import Ledger
from client.patients.judging import Bench
from client.patients.neighbours import MARK, Gallery, Neighbour, Retrieved
from client.site import load_site
from common.cohort.inputs import Inputs, read_inputs
from common.cohort.schema import CohortSchema
from common.errors import DataError
from common.judging import outcomes
from common.metrics import Array
from common.models import load_params
from common.params import head_of
from common.report.retrieval_page import MOST_QUERIES, Thumbnails, retrieval_html
from common.report.values import show
from common.retrieval import distance_of, drawn, nearest, places, retrieval_figures


def retrieve_cases(
    folder: Path, ledger: Ledger, cases: Path, *, run: str | None = None, top: int = 10
) -> Retrieved:
    """Find the hospital's own cases that are nearest to new ones.

    Looked at are all cases of the cohort that the study was approved for, train and holdout, but
    those of patients who have withdrawn, and of a new case's own patient where its id is known.

    Args:
        folder: The site's folder.
        ledger: The site's ledger.
        cases: New cases; see `common.cohort.inputs.read_inputs`.
        run: Whose model; see `client.desk.received.load`.
        top: How many for each case.

    Raises:
        SiteError: no such model was delivered.
        DataError: the cases, or the hospital's own data, do not fit the study.
    """
    received = load(folder, run)
    study = received.plan.study
    inputs = read_inputs(cases, study.cohort)
    bench = Bench(load_site(folder), ledger, received)
    gallery = _gallery(bench, study.cohort)
    load_params(bench.model, received.params)
    left_out = inputs.incomplete & study.cohort.complete_cases
    found, own = _search(bench, gallery, inputs, left_out, top=top)
    notes = [*inputs.notes]
    if own:
        notes.append(f"left out: {own} records of the new cases' own patients")
    if left_out.any():
        notes.append(f"{int(left_out.sum())} records miss a feature and have no neighbours")
    return Retrieved(received, gallery, inputs, found, _about(bench, gallery, top), tuple(notes))


def _gallery(bench: Bench, schema: CohortSchema) -> Gallery:
    cohort, named = bench.read(schema)
    names = dict(enumerate(bench.source.classes or schema.label.classes))
    y = [outcomes(part, schema.label).tolist() for part in (cohort.train, cohort.holdout)]
    # Of survival, a patient who left before the horizon is of no class.
    return Gallery(cohort, named, [names.get(c, "not known") for part in y for c in part])


def _search(
    bench: Bench, gallery: Gallery, inputs: Inputs, left_out: NDArray[np.bool_], *, top: int
) -> tuple[tuple[tuple[Neighbour, ...], ...], int]:
    """Return each query's neighbours, and how many records of own patients were passed over."""
    study = bench.received.plan.study
    metric, cohort = study.learner.metric, gallery.cohort
    z = np.concatenate([places(bench.model, p.x, metric) for p in (cohort.train, cohort.holdout)])
    queries = places(bench.model, torch.from_numpy(inputs.x), metric)
    owners: list[str] | list[None] = inputs.patients or [None] * len(queries)
    own = Counter(p for p in gallery.patients if p in set(owners))
    spare = max(own.values(), default=0)
    where, away = nearest(z, queries, k=top + spare, distance=distance_of(metric))
    is_named, found = study.cohort.patient is not None, []
    for query, owner in enumerate(owners):
        pairs = zip(where[query].tolist(), away[query].tolist(), strict=True)
        others = [(p, d) for p, d in pairs if gallery.patients[p] != owner][:top]
        rows = [gallery.neighbour(p, d, is_named=is_named) for p, d in others]
        found.append(() if left_out[query] else tuple(rows))
    return tuple(found), own.total()


def _about(bench: Bench, gallery: Gallery, top: int) -> tuple[str, ...]:
    received, cohort = bench.received, gallery.cohort
    study = received.plan.study
    metric = study.learner.metric
    patients = cohort.train.patients + cohort.holdout.patients
    space = (
        "of the model's last layer"
        if received.params.keys() - head_of(received.params)
        else ("of the inputs themselves, as the model is one layer")
    )
    said = (
        f"The nearest of this hospital's own {len(gallery.classes)} records of {patients} patients "
        f"by the {distance_of(metric).replace('_', ' ')} distance in the space {space} "
        f"(study {study.title or study.name}, run {received.run}): {MARK}."
    )
    pair = drawn(cohort, seed=0)
    z: list[Array] = [places(bench.model, part.x, metric) for part in pair]
    y = [outcomes(part, study.cohort.label) for part in pair]
    weights, distance = pair[1].weights.numpy(), distance_of(metric)
    own = retrieval_figures(z[0], y[0], z[1], y[1], (top,), distance=distance, weights=weights)
    if own.chance is None:
        return said, "How well it does on this hospital's own patients is not known."
    return said, (
        f"Of {show(own.queries, 0)} holdout patients' {top} nearest training records "
        f"{show(100 * (own.precision[top] or 0.0), 0)}% are of the patient's class; by chance "
        f"{show(100 * own.chance, 0)}% would be."
    )


def page_of(found: Retrieved, folder: Path, ledger: Ledger, cases: Path) -> str:
    """Return a page with each new case and its neighbours as pictures.

    Raises:
        DataError: the study is of a table, which has no pictures.
    """
    schema = found.received.plan.study.cohort
    if schema.image is None:
        raise DataError(
            "--pictures is given, and the study reads a table: there is nothing to show",
            remedy="leave --pictures out; --out FILE writes the table",
        )
    pixels, queries = found.gallery.cohort, found.cases
    if schema.image.maps:  # what the model sees is no picture: read them once more without maps
        plain = schema.model_copy(update={"image": schema.image.model_copy(update={"maps": ()})})
        pixels = Bench(load_site(folder), ledger, found.received).read(plain)[0]
        queries = read_inputs(cases, plain)
    x = torch.cat([pixels.train.x, pixels.holdout.x])
    shown = zip(queries.x[:MOST_QUERIES], found.neighbours, strict=False)
    thumbnails: Thumbnails = [
        [_grey_levels(query), *(_grey_levels(x[one.place].numpy()) for one in neighbours)]
        for query, neighbours in shown
    ]
    return retrieval_html(found.to_json(), thumbnails, command=f"{folder} {cases}")


def _grey_levels(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an input, (channels, height, width), as pixels, (height, width, channels)."""
    levels: NDArray[np.uint8] = np.rint((x.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    return levels
