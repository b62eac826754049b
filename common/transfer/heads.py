"""Classifiers that a few labelled cases decide, on rows of any space: pixels, gradients, features.

Rows are centred and divided by the labelled cases' own root mean square distance from their mean
(`scaling='whole'`): one number for all columns, because the spread of a single column over five
cases says little, and columns that hardly vary would be blown up.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional as F

from common.metric_spec import Distance
from common.references import DISTANCES
from common.transfer.cases import Cases, Method

Scaling = Literal["none", "whole", "columns"]
Floats = NDArray[np.float64]

_FLAT = 1e-12  # a spread below it is of rounding


def regression(*, strength: float = 10.0, scaling: Scaling = "whole") -> Method:
    """Return multinomial logistic regression with a quadratic prior (scikit-learn's).

    Args:
        strength: The prior's variance (C of scikit-learn): the larger, the weaker the pull to 0.
        scaling: 'whole', see the module; 'columns', each column by its own mean and spread; 'none'.
    """

    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        rows, queries = in_their_span(*scaled(cases.x, x, scaling))
        model = LogisticRegression(C=strength, max_iter=300, random_state=seed % 2**32)
        with warnings.catch_warnings():  # 300 steps of L-BFGS are near enough the end
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(rows, cases.y.numpy())
        return torch.from_numpy(model.predict_proba(queries)).double()

    return learn


def in_their_span(rows: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Return coordinates in the space that the labelled rows span, where these are few.

    The weights that a quadratic prior leaves lie in that space (the representer theorem:
    Schoelkopf, Herbrich and Smola 2001), so the answer is the same, and thousands of columns cost
    no more than there are labelled rows.
    """
    if rows.shape[1] <= rows.shape[0]:
        return rows, queries
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > _FLAT * max(values[-1], _FLAT)
    basis = vectors[:, kept] / np.sqrt(values[kept])  # rows.T @ basis is orthonormal
    return rows @ (rows.T @ basis), queries @ (rows.T @ basis)


def machine(
    *,
    strength: float = 10.0,
    kernel: Literal["rbf", "linear"] = "rbf",
    scaling: Scaling = "whole",
) -> Method:
    """Return a support vector machine, one class against one (scikit-learn's, after libsvm).

    A machine gives no probabilities of its own, and five cases are too few to fit any (Platt 1999
    takes a held-out set): a softmax of the machine's votes ranks the classes as it does.

    Args:
        strength: C, what a case on the wrong side costs.
        kernel: 'rbf' is exp(-|x - x'|^2) of rows as scaled.
        scaling: As `regression`.
    """

    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        rows, queries = scaled(cases.x, x, scaling)
        gamma = 1.0 / rows.shape[1] if scaling == "columns" else 1.0
        model = SVC(C=strength, kernel=kernel, gamma=gamma, random_state=seed % 2**32)
        model.fit(rows, cases.y.numpy())
        votes = torch.from_numpy(np.asarray(model.decision_function(queries), dtype=np.float64))
        if votes.dim() == 1:  # of two classes, the second one's
            votes = torch.stack([-votes, votes], dim=1)
        return votes.softmax(1)

    return learn


def prototypes(distance: Distance = "euclidean") -> Method:
    """Return the softmax of minus a query's distance to each class's mean (Snell et al. 2017)."""

    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        return (-DISTANCES[distance](x.double(), means_of(cases))).softmax(1)

    return learn


def means_of(cases: Cases) -> Tensor:
    """Return the mean row of each class, (ways, numbers), float64."""
    own = F.one_hot(cases.y, cases.ways).double()
    return own.T @ cases.x.double() / cases.counts[:, None]


def nearest(cases: Cases, x: Tensor, seed: int) -> Tensor:
    """Return the class of the nearest labelled case, of probability 1."""
    closest = DISTANCES["squared_euclidean"](x.double(), cases.x.double()).argmin(1)
    return F.one_hot(cases.y[closest], cases.ways).double()


def scaled(x: Tensor, queries: Tensor, scaling: Scaling) -> tuple[Floats, Floats]:
    """Return labelled rows and queries, scaled by the labelled ones alone."""
    rows, others = x.double(), queries.double()
    if scaling != "none":
        mean = rows.mean(0)
        rows, others = rows - mean, others - mean
        squares = rows.square().mean(0)
        spread = (squares if scaling == "columns" else squares.sum()).sqrt()
        spread = torch.where(spread < _FLAT, torch.ones_like(spread), spread)
        rows, others = rows / spread, others / spread
    return rows.numpy(), others.numpy()


logistic, svm, prototype = regression(), machine(), prototypes()

HEADS: dict[str, Method] = {
    "logistic": logistic,
    "svm": svm,
    "prototype": prototype,
    "nearest": nearest,
}
