"""Local adaptation: what a hospital makes of the shared weights for itself alone.

Nothing computed here may leave the hospital: the weights have read its patients without noise, and
so has every score they give.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.cohort.parts import Part
from common.learners.references import exact
from common.models import Classifier, load_params, objective_of, params_of
from common.params import Params
from common.study import AdaptationSpec


def adapt_locally(model: nn.Module, center: Params, part: Part, spec: AdaptationSpec) -> Params:
    """Return the weights that fit `part` best under a quadratic prior around `center`.

    What the study freezes stays as it is in `center`. Where the last layer is references of
    classes, they become the part's own and nothing else moves.

    Minimises  sum_patients (mean loss of the patient's records)
               + prior/2 |w - center|^2 + bias_prior/2 |b - bias center|^2
    by L-BFGS with a strong-Wolfe line search in float64: deterministic, and for a logistic model
    convex, so the answer does not depend on the start. Around zero it is ridge-regularised
    logistic regression with lambda = prior.

    Args:
        model: The module; its own weights are left as they were.
        center: The shared weights, and where the search starts.
        part: The hospital's training patients; with none the answer is `center`.
        spec: Priors and the most iterations.
    """
    if part.patients == 0:
        return center
    if isinstance(model, Classifier) and model.has_references:
        return {**center, **exact(model, center, part)}
    before, device = params_of(model), next(model.parameters()).device
    model.double()
    try:
        load_params(model, center)
        _minimise(model, part, spec, device)
        return {k: v.to(center[k].dtype) for k, v in params_of(model).items()}
    finally:
        model.float()
        load_params(model, before)


def _minimise(model: nn.Module, part: Part, spec: AdaptationSpec, device: torch.device) -> None:
    judged = objective_of(model)
    pieces = range(0, len(part.y), len(part.y) if judged.whole_batch else _pictures_at_once(part))
    size = pieces.step
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    anchors = {n: p.detach().clone() for n, p in named}
    optimizer = torch.optim.LBFGS(
        [p for _, p in named],
        max_iter=spec.max_steps,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for start in pieces:
            rows = slice(start, start + size)
            x, y = part.x[rows].to(device).double(), part.y[rows].to(device)
            loss = (part.weights[rows].to(device) * judged.losses(model(x), y)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        for name, p in named:
            strength = spec.bias_prior if name.endswith("bias") else spec.prior
            held = 0.5 * strength * ((p - anchors[name]) ** 2).sum()
            held.backward()  # type: ignore[no-untyped-call]
            total += held.detach()
        return total

    optimizer.step(objective)  # type: ignore[no-untyped-call]


def _pictures_at_once(part: Part) -> int:
    """Return how many records to hold at once: of pictures, a network holds many times their size.

    All of them where they are rows of a table.
    """
    if part.x.dim() == 2:
        return len(part.y)
    return max(1, _VALUES // part.x[0].numel())


_VALUES = 2**20  # pixels
