"""How much studies differ beyond chance: the between-study variance, its interval, Q, I2 and H2."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2
from statsmodels.stats.meta_analysis import combine_effects

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]

METHODS = ("FE", "DL", "PM", "ML", "REML", "HE")
_OF_STATSMODELS = {"DL": "chi2", "PM": "iterated"}


def between_variance(y: Array, v: Array, *, method: str) -> float:
    """Estimate tau2, the variance of the studies' true values.

    `FE` supposes none. `DL`, DerSimonian and Laird (Control Clin Trials 1986), and `PM`, Paule and
    Mandel (J Res NBS 1982), are statsmodels'; `ML` and `REML`, whose bias Viechtbauer (J Educ Behav
    Stat 2005) compares, and `HE`, Hedges (1983), are PyMARE's. Method names are metafor's.

    Args:
        y: (k,) estimates, k at least 2.
        v: (k,) their sampling variances.
        method: one of `METHODS`.

    Returns:
        tau2, at least 0, in squared units of y.

    Raises:
        ValueError: if the method is none of these.

    >>> between_variance(np.array([1.0, 2.0, 3.0]), np.full(3, 0.5), method="DL")
    0.5
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: use one of {', '.join(METHODS)}")
    if method == "FE" or np.ptp(y) == 0:  # equal estimates: every estimator says 0
        return 0.0
    if method in _OF_STATSMODELS:
        # The solver's tolerance stays as it is: a tighter one lets rounding push the estimating
        # equation below zero, which it takes for 'no variance between studies'.
        # statsmodels' DerSimonian-Laird goes below 0, and then has no standard error to warn about.
        with np.errstate(invalid="ignore"):
            found = combine_effects(y, v, method_re=_OF_STATSMODELS[method])
        return max(float(found.tau2), 0.0)
    return mixed_model(y, v, np.ones((len(y), 1)), method=method)[0]


def mixed_model(y: Array, v: Array, design: Array, *, method: str) -> tuple[float, Array, Array]:
    """Fit y ~ design with a between-study variance, which PyMARE estimates.

    Args:
        y: (k,) estimates.
        v: (k,) sampling variances.
        design: (k, p) regressors with the intercept among them, of full rank, p < k.
        method: one of `METHODS`; `PM`, which PyMARE lacks, is read as `REML`.

    Returns:
        tau2; the coefficients (p,); their covariance (p, p), as if tau2 were known.
    """
    tau2 = 0.0
    if method != "FE":
        found = _estimator(method).fit(y[:, None], v[:, None], design).params_["tau2"]
        tau2 = float(np.ravel(found)[0])
    w = 1 / (v + tau2)
    covariance = np.asarray(np.linalg.inv(design.T @ (w[:, None] * design)), dtype=np.float64)
    return tau2, covariance @ (design.T @ (w * y)), covariance


def _estimator(method: str) -> Any:
    library = pymare().estimators
    if method in {"DL", "HE"}:
        return {"HE": library.Hedges, "DL": library.DerSimonianLaird}[method]()
    # Finer than PyMARE's own tolerance, so that the fourth digit holds on any scale.
    fine = {"xtol": 1e-10, "ftol": 1e-16, "maxiter": 200}
    return library.VarianceBasedLikelihoodEstimator("ML" if method == "ML" else "REML", **fine)


def tau2_interval(
    y: Array, v: Array, *, level: float = 0.95, design: Array | None = None
) -> tuple[float, float] | None:
    """Return the Q-profile interval of tau2 (Viechtbauer, Stat Med 2007), by PyMARE.

    It holds whichever way tau2 is estimated, and may leave an estimate of 0 outside when the
    estimates agree better than chance would have them.

    Args:
        y: (k,) estimates.
        v: (k,) their sampling variances.
        level: of the interval.
        design: (k, p) regressors; of the intercept alone where left out.

    Returns:
        Lower and upper end; None where no degree of freedom is left.
    """
    design = np.ones((len(y), 1)) if design is None else design
    if len(y) <= design.shape[1]:
        return None
    ends = pymare().stats.q_profile(y[:, None], v[:, None], design, alpha=1 - level)
    return float(ends["ci_l"]), float(ends["ci_u"])


def cochran_q(y: Array, v: Array) -> tuple[float, float]:
    """Return Cochran's Q and its p-value, chi-squared with k - 1 degrees of freedom.

    >>> cochran_q(np.array([1.0, 2.0, 3.0]), np.full(3, 0.5))[0]
    4.0
    """
    w = 1 / v
    q = float(w @ (y - (w @ y) / w.sum()) ** 2)
    return q, float(chi2.sf(q, len(y) - 1)) if len(y) > 1 else 1.0


def shares(y: Array, v: Array, *, tau2: float, method: str) -> tuple[float, float]:
    """Return I2, the share of the spread that is not sampling error, and H2, spread over error.

    Higgins and Thompson (Stat Med 2002), as metafor has them: for a random-effects method from
    tau2, I2 = tau2 / (tau2 + s2) and H2 = tau2 / s2 + 1, where s2 is the typical sampling variance
    (k - 1) sum(w) / (sum(w)^2 - sum(w^2)), w = 1 / v; for `FE` from Q, I2 = 1 - (k - 1) / Q and
    H2 = Q / (k - 1). For `DL` the two are the same.
    """
    k, w = len(y), 1 / v
    if k == 1:
        return 0.0, 1.0
    if method == "FE":
        q = cochran_q(y, v)[0]
        return (max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0), q / (k - 1)
    typical = (k - 1) * w.sum() / (w.sum() ** 2 - (w**2).sum())
    return float(tau2 / (tau2 + typical)), float(tau2 / typical + 1)


@cache
def pymare() -> Any:
    """Import PyMARE when it is first needed: it takes about a second, and most commands do not."""
    with warnings.catch_warnings():
        # It leaves a file of its own open while it is imported.
        warnings.simplefilter("ignore", ResourceWarning)
        import pymare as library
        import pymare.estimators
        import pymare.stats
    return library
