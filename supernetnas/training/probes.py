"""Linear models of frozen features: how well they do, and a classifier to start from."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

__all__ = ["linear_head", "linear_probe", "subset"]

_PENALTIES = 10.0 ** np.arange(-1, 6)
_STRENGTH = 0.01  # inverse, of the penalty of a head's weights: with more it learns by heart


def linear_probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of a ridge classifier of standardised features, each image left out in turn.

    The penalty is the best of seven, by the same accuracy. All images are left out at the cost of
    one decomposition.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    labels : ndarray of shape (n,)

    Raises
    ------
    ValueError
        If a class has a single image.
    """
    _, codes = np.unique(labels, return_inverse=True)
    if np.bincount(codes).min() < 2:
        raise ValueError("linear_probe needs two images of each class.")
    rows = torch.as_tensor(np.asarray(features), dtype=torch.float64)
    mean, deviation = rows.mean(dim=0), rows.std(dim=0, correction=0)
    varies = deviation > 1e-12 * mean.abs()  # not by rounding alone
    rows = (rows - mean) / torch.where(varies, deviation, 1.0)
    truth = torch.from_numpy(codes)
    classes = torch.nn.functional.one_hot(truth).double()
    targets = classes - classes.mean(dim=0)
    # Of the hat matrix: eigenvectors and, by the penalty, eigenvalues. A column of ones is apart,
    # since rows and targets are centred.
    wide = rows.shape[1] > len(rows)
    values, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    positive = values > values[-1] * 1e-12
    values, vectors = values[positive], vectors[:, positive]
    basis = vectors if wide else rows @ (vectors / values.sqrt())
    projected, squares = basis.T @ targets, basis.square()
    best = 0.0
    for penalty in _PENALTIES:
        shrunk = values / (values + penalty)
        leverage = squares @ shrunk + 1 / len(rows)
        residual = targets - basis @ (shrunk[:, None] * projected)
        left_out = classes - residual / (1 - leverage)[:, None]
        best = max(best, float((left_out.argmax(dim=1) == truth).double().mean()))
    return best


def linear_head(
    features: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    class_weight: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights of a classifier of features, by penalised logistic regression.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Standardised for the regression; the weights returned are for features as they are.
    labels : ndarray of shape (n,)
        Class indices from 0, all of them present.
    n_classes : int
    class_weight : ndarray of shape (n_classes,), optional
        Weight of each class in the loss.

    Returns
    -------
    weight, bias : torch.Tensor of shape (n_classes, d) and (n_classes,), float32
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(features, dtype=np.float32))
    weights = None if class_weight is None else dict(enumerate(class_weight.tolist()))
    model = LogisticRegression(C=_STRENGTH, class_weight=weights, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is trained on
        model.fit(scaler.transform(features), labels)
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    if n_classes == 2:  # one row, of the second class against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def subset(labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Draw about as many images as asked for, of each class its share and at least two.

    Returns
    -------
    torch.Tensor of int64
        Sorted indices; all of them where they are not too many.
    """
    if len(labels) <= most:
        return torch.arange(len(labels))
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0].cpu()
        n = max(round(most * len(members) / len(labels)), 2)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:n]])
    return torch.cat(chosen).sort().values
