"""Meta-regression by two small networks, held to the linear one and to the plain mean.

What the networks add, and what they cannot. A meta-regression is already a model over tasks: each
study is a task, its features say which, and the fitted line is what tasks teach of a new one. The
neural form (a MetaNet in the sense of joining meta-learning to meta-analysis) lets the line bend
and the between-study variance depend on the features, so that it may say both 'the effect is about
this large there' and 'studies of that kind differ much'. It earns that only where there are many
studies: two networks of four hidden units have more weights than the classic tables have rows. What
keeps them from learning the rows by heart is the penalty, a prior that holds them near the plain
mean with a constant variance. So nothing here is reported by its fit: every model predicts each
study from the others, and the table says which did better and whether that can be told at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor
from torch.optim.adam import adam

from common.meta.heterogeneity import Array, Places, mixed_model

HIDDEN = 4
PENALTY = 1.0  # a standard normal prior on every weight; not tuned: there are no rows to spare
RESTARTS = 5
MOST_FOLDS = 100
_STEPS, _RATE = 300, 0.05
_TINY = 1e-9
_LOG_SPREAD = float(
    np.log(0.5)
)  # where the log variance starts: half of the spread between studies


@dataclass(frozen=True)
class Prediction:
    """How a model predicted each study from the others.

    Attributes:
        mean: (k,) predicted effects.
        variance: (k,) of the prediction, the study's own sampling variance included.
        rmse: root mean squared error.
        log_density: mean log density of the effects under the predictions; larger is better.
    """

    mean: Array
    variance: Array
    rmse: float
    log_density: float


def compare(y: Array, v: Array, design: Array, *, seed: int = 0) -> dict[str, Prediction]:
    """Predict each study from the others by the plain mean, the linear regression, the networks.

    Beyond a hundred studies a hundredth of them is left out at a time.

    Args:
        y: (k,) effects, k at least p + 2.
        v: (k,) their sampling variances.
        design: (k, p) features with the intercept first, of full rank.
        seed: of the networks' first weights.

    Returns:
        `mean` and `linear` (REML, with the uncertainty of their coefficients) and `neural`.
    """
    fold = np.arange(len(y)) % min(len(y), MOST_FOLDS)
    return {
        "mean": _scored(y, v, *_linear(y, v, design[:, :1], fold)),
        "linear": _scored(y, v, *_linear(y, v, design, fold)),
        "neural": _scored(y, v, *_neural(y, v, design[:, 1:], fold, seed=seed)),
    }


def verdict(y: Array, predictions: dict[str, Prediction]) -> str:
    """Say which model predicts best, and whether the studies are enough to tell.

    The difference of two models' log densities has a standard error over the studies; below twice
    that, they are not told apart.
    """
    density = {name: _log_density(y, one.mean, one.variance) for name, one in predictions.items()}
    said = []
    for name, words, rival, against in (
        ("linear", "the linear regression predicts", "mean", "the plain mean"),
        ("neural", "the networks predict", "mean", "the plain mean"),
        ("neural", "the networks predict", "linear", "the linear regression"),
    ):
        gain = density[name] - density[rival]
        mean, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(y)))
        how = "better than" if mean > 0 else "worse than"
        how = how if abs(mean) > 2 * error else "neither clearly better nor worse than"
        said.append(f"{words} {how} {against} ({mean:+.2f}, standard error {error:.2f})")
    return (
        f"Each of {len(y)} studies predicted from the others, by mean log density: "
        f"{'; '.join(said)}."
    )


def _linear(y: Array, v: Array, design: Array, fold: Places) -> tuple[Array, Array]:
    """Return each study's predicted effect and the variance of its true one."""
    mean, variance = np.empty(len(y)), np.empty(len(y))
    for left_out in np.unique(fold):
        out = fold == left_out
        # A level whose only study is out has no coefficient: predict as for the first level.
        used: list[int] = []
        for column in range(design.shape[1]):
            if np.linalg.matrix_rank(design[~out][:, [*used, column]]) > len(used):
                used.append(column)
        tau2, beta, cov = mixed_model(y[~out], v[~out], design[~out][:, used], method="REML")
        x = design[out][:, used]
        mean[out], variance[out] = x @ beta, tau2 + np.einsum("ij,jk,ik->i", x, cov, x)
    return mean, variance


def _neural(y: Array, v: Array, features: Array, fold: Places, *, seed: int) -> tuple[Array, Array]:
    """Return each study's predicted effect and the variance of its true one, by the networks.

    All pairs of networks, (restarts x folds), are fitted at once, each without its fold. Effects
    and features are standardised by the studies that a pair sees. A prediction is the mixture of
    the restarts'.
    """
    keep = fold != np.arange(fold.max() + 1)[:, None]
    w = keep / (v + y.var())
    centre = (w @ y) / w.sum(axis=1)
    scale = np.sqrt(np.maximum((w @ y**2) / w.sum(axis=1) - centre**2, 0)) + _TINY
    average = (keep @ features) / keep.sum(axis=1)[:, None]
    squares = (keep @ features**2) / keep.sum(axis=1)[:, None]
    spread = np.sqrt(np.maximum(squares - average**2, 0)) + _TINY
    x = np.clip((features - average[:, None]) / spread[:, None], -5, 5)
    effects, log_variance = _fit(
        torch.as_tensor(np.tile(x, (RESTARTS, 1, 1))),
        torch.as_tensor(np.tile((y - centre[:, None]) / scale[:, None], (RESTARTS, 1))),
        torch.as_tensor(np.tile(v / scale[:, None] ** 2, (RESTARTS, 1))),
        torch.as_tensor(np.tile(keep, (RESTARTS, 1))),
        generator=torch.Generator().manual_seed(seed),
    )
    shape, rows = (RESTARTS, len(keep), len(y)), np.arange(len(y))
    mean = effects.numpy().reshape(shape)[:, fold, rows] * scale[fold] + centre[fold]
    within = np.exp(log_variance.numpy().reshape(shape)[:, fold, rows]) * scale[fold] ** 2
    return mean.mean(axis=0), within.mean(axis=0) + mean.var(axis=0)


def _fit(
    x: Tensor, y: Tensor, v: Tensor, keep: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Fit effect and log between-study variance of many models; return both, (models, k).

    The loss of a model is -sum log N(y; m(x), v + exp(s(x))) over its studies + PENALTY / 2 of the
    squared weights, m and s a network of one hidden layer each.
    """
    models, _, p = x.shape
    shapes = [(p, HIDDEN), (1, HIDDEN), (HIDDEN, 1)] * 2
    weights = [
        (0.3 * torch.randn((models, *shape), generator=generator, dtype=torch.float64))
        for shape in shapes
    ]
    level = torch.full((models, 1), _LOG_SPREAD, dtype=torch.float64)
    for tensor in (*weights, level):
        tensor.requires_grad_()

    def outputs() -> tuple[Tensor, Tensor]:
        effect, spread = (
            (torch.tanh(x @ a + b) @ c).squeeze(-1) for a, b, c in (weights[:3], weights[3:])
        )
        return effect, (spread + level).clamp(-12, 6)

    trained, step = [*weights, level], _adam([*weights, level])
    for _ in range(_STEPS):
        effect, spread = outputs()
        total = v + spread.exp()
        loss = 0.5 * ((total.log() + (y - effect) ** 2 / total) * keep).sum()
        decay = sum((tensor**2).sum() for tensor in weights) + ((level - _LOG_SPREAD) ** 2).sum()
        total_loss = loss + 0.5 * PENALTY * decay
        step(torch.autograd.grad(total_loss, trained))
    with torch.no_grad():
        return outputs()


def _adam(trained: list[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """Return torch's Adam as a function of gradients; its class imports a compiler for nothing."""
    means, squares = ([torch.zeros_like(tensor) for tensor in trained] for _ in range(2))
    counts = [torch.zeros(()) for _ in trained]

    @torch.no_grad()
    def step(gradients: Sequence[Tensor]) -> None:
        adam(
            trained,
            list(gradients),
            means,
            squares,
            [],
            counts,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=_RATE,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    return step


def _scored(y: Array, v: Array, mean: Array, variance: Array) -> Prediction:
    total = variance + v
    density = _log_density(y, mean, total)
    rmse = float(np.sqrt(np.mean((y - mean) ** 2)))
    return Prediction(mean, total, rmse, float(density.mean()))


def _log_density(y: Array, mean: Array, variance: Array) -> NDArray[np.float64]:
    return np.asarray(norm.logpdf(y, mean, np.sqrt(variance)))
