"""How long an epoch takes, measured on one batch before the first."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.base import clone

from ..families.base import Family, NetworkInput
from ..search.method import SearchMethod
from ..training.batches import LabelledImages
from ..training.devices import placed
from ..training.execution import Execution
from ..training.protocols import OwnLoss
from .progress import Planned, Rehearsal
from .resolved import execution_of
from .run import Run
from .searching import Candidate
from .target import Target

__all__ = ["epoch_seconds", "expect_search", "expected_seconds"]

_IMAGES = 16  # enough for the time of an image, and few against those of an epoch


def epoch_seconds(module: Any, train: LabelledImages, execution: Execution) -> float | None:
    """Estimate the seconds of an epoch of training.

    A forward and a backward pass of a few images are timed, twice, and the second time counts.
    Nothing is changed, and nothing drawn: the module is in evaluation mode meanwhile.

    Parameters
    ----------
    module : torch.nn.Module
        From images to class scores, or a `supernetnas.training.protocols.OwnLoss`.
    train : LabelledImages
        Of which an epoch has all.
    execution : Execution

    Returns
    -------
    float or None
        None where training is compiled or captured, which a few images do not tell the time of.
    """
    if execution.compiled or execution.captured:
        return None
    index = torch.arange(min(_IMAGES, len(train)), device=train.images.index_device)
    images, labels = train.images.clean(index), train.labels_at(index)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        for _ in range(2):
            _wait(images.device)
            start = time.perf_counter()
            with execution.autocast(images.device):
                if isinstance(module, OwnLoss):
                    loss, _scores = module.training_loss(images, labels, F.cross_entropy)
                else:
                    loss = F.cross_entropy(module(images).float(), labels)
            torch.autograd.grad(loss, trained, allow_unused=True)
            _wait(images.device)
            seconds = time.perf_counter() - start
    finally:
        for part, mode in modes:
            part.training = mode
    return seconds * len(train) / len(index)


def expect_search(
    candidates: Sequence[Candidate],
    family: Family,
    seen: NetworkInput,
    target: Target,
    method: SearchMethod,
    n_epochs: int,
    execution: Execution,
    run: Run,
) -> None:
    """Tell how long search and retraining are expected to take, before the first epoch.

    Parameters
    ----------
    candidates : sequence of Candidate
        To be searched; the first is timed, and the networks that it stands for.
    family : Family
    seen : NetworkInput
    target : Target
    method : SearchMethod
    n_epochs : int
        Of the retraining.
    execution : Execution
    run : Run
        A fit that goes on has its search behind it, or a part: nothing is told of that.
    """
    if run.checkpoints.stage("search-0").exists():
        return
    first, images = candidates[0], target.part()
    stages: dict[str, tuple[int, float]] = {}
    planned = family.planned(first.supernet, first.budget, seen, method, n_epochs)
    for name, (n, network) in planned.items():
        seconds = epoch_seconds(placed(network, target.device), images, execution)
        if seconds is None:
            return
        stages[name] = n, seconds
    of_search: float | None = stages["retrain"][1]
    if not method.along_paths:
        of_search = epoch_seconds(first.supernet, images, execution)
    if of_search is None:
        return
    searches = {f"search from {c.name}": (method.n_epochs, of_search) for c in candidates}
    run.progress.expect(len(images), {**searches, **stages})


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def expected_seconds(clf: Any, X, y) -> float | None:
    """Seconds that a fit is expected to take; does what comes before its first epoch.

    None where training is compiled or captured.
    """
    if execution_of(clf).compiled or execution_of(clf).captured:
        return None
    other = clone(clf).set_params(checkpoint_dir=None)
    other._progress = Rehearsal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fit itself will warn
            other.fit(X, y)
    except Planned as planned:
        return planned.seconds
    return None
