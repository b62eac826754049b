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
    x, y = part.x.to(device).double(), part.y.to(device)
    weights = part.weights.to(device)
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
        losses = objective_of(model).losses(model(x), y)
        loss = (weights * losses).sum()
        for name, p in named:
            strength = spec.bias_prior if name.endswith("bias") else spec.prior
            loss = loss + 0.5 * strength * ((p - anchors[name]) ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
