"""Sources of a zoo, pretrained side by side by the workers of joblib.

A task is one source. Its worker checkpoints every epoch and adds the finished source to the zoo
itself, under the zoo's lock: what is finished stays, whatever happens to other workers or to the
process that called. A worker that is killed takes its tasks down; they are handed out again, here
and not by joblib, and go on from their checkpoints. The same holds for a second call after the
first was killed.

Every task runs with the same number of torch threads wherever it runs, since that number decides
the order of additions and so the last digits of the result.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from typing import Any, Literal
from warnings import warn

import torch
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from tqdm import tqdm

from ..families.base import Pretrained
from ..training.history import figures
from ..zoo.entries import ZooError
from ..zoo.source import Source
from ..zoo.zoo import Zoo
from .data import PretrainingData
from .settings import Pretraining
from .sources import OnEpoch, pretrain_multi, pretrain_single

__all__ = ["Conditions", "Task", "pretrain", "run_tasks"]

logger = logging.getLogger(__name__)

_TRIES = 3
"""How often in a row tasks are handed out again without one of them being finished."""


@dataclass(frozen=True)
class Task:
    """A source to be pretrained.

    Attributes
    ----------
    name : str
    kind : {"single", "multi"}
    datasets : sequence of PretrainingData
        One, which can be pretrained on without its signature but not added to the zoo; or those of
        a source of kind "multi".
    provenance : mapping
    warm_start : Source or None
    """

    name: str
    kind: Literal["single", "multi"]
    datasets: Sequence[PretrainingData]
    provenance: Mapping[str, Any]
    warm_start: Source | None


@dataclass(frozen=True)
class Conditions:
    """What all tasks of a zoo have in common.

    Attributes
    ----------
    zoo, checkpoints : pathlib.Path
        Absolute; the same folder for every worker.
    pretraining : Pretraining
    dtype : {"float32", "float16"}
    device : str
    n_threads : int
        Threads that torch uses for a task.
    on_epoch : callable or None
    bars : bool
        Whether to draw a progress bar for each task.
    """

    zoo: Path
    checkpoints: Path
    pretraining: Pretraining
    dtype: Literal["float32", "float16"]
    device: str
    n_threads: int
    on_epoch: OnEpoch | None
    bars: bool

    def checkpoint(self, task: Task) -> Path:
        """Path of the checkpoint of a task, a file or a folder."""
        return self.checkpoints / f"{task.name}.ckpt"


def run_tasks(
    tasks: Sequence[Task], conditions: Conditions, n_jobs: int | None, verbose: int
) -> None:
    """Pretrain the sources that the zoo lacks.

    Parameters
    ----------
    tasks : sequence of Task
    conditions : Conditions
    n_jobs : int or None
        As joblib takes it, in the context of `joblib.parallel_config`.
    verbose : int
        1 lets joblib report what is finished, where tasks draw no bars.

    Raises
    ------
    Exception
        The first that a task raised, once all others are finished; or, after several attempts in
        which no source was finished, the one with which workers were lost.
    """
    tasks, losses = list(tasks), 0
    if effective_n_jobs(n_jobs) > 1:
        _check_threads(n_jobs, conditions.n_threads)
        tasks = tasks[::-1]  # "multi" comes last, takes longest, and so is begun first
    while True:
        parallel = Parallel(n_jobs, batch_size=1, verbose=0 if conditions.bars else 10 * verbose)
        try:
            errors = parallel(delayed(_attempt)(task, conditions) for task in tasks)
            break
        except PicklingError:
            raise
        except Exception as error:
            # What a task itself raises is returned: this is a worker that was lost.
            finished = Zoo.open(conditions.zoo).names
            left = [task for task in tasks if task.name not in finished]
            losses = 0 if len(left) < len(tasks) else losses + 1
            if left and losses == _TRIES:
                raise
            logger.warning(
                "a worker was lost (%s: %s); %d sources go on from their checkpoints",
                *(type(error).__name__, str(error).partition("\n")[0], len(left)),
            )
            tasks = left
    failed = [(task, raised) for task, raised in zip(tasks, errors, strict=True) if raised]
    for task, raised in failed:
        logger.warning("source %s was not finished: %s", task.name, raised)
    if failed:
        raise failed[0][1]


def _check_threads(n_jobs: int | None, n_threads: int) -> None:
    """Warn if workers on this machine would wait for each other's threads."""
    local = get_active_backend()[0].supports_inner_max_num_threads
    jobs, cpus = effective_n_jobs(n_jobs), os.cpu_count() or 1
    if local and n_threads > 1 and jobs * n_threads > cpus:
        warn(
            f"{jobs} supernets with {n_threads} threads each share {cpus} CPUs and slow each other "
            f"down. Pass n_threads={max(1, cpus // jobs)} (--threads); the number decides the "
            "rounding, so it is not changed unasked.",
            UserWarning,
            stacklevel=4,
        )


def _attempt(task: Task, conditions: Conditions) -> Exception | None:
    """Finish a source and add it to the zoo; returns the error that prevented it."""
    try:
        _finish(task, conditions)
    except Exception as error:
        error.add_note(f"While source {task.name!r} was pretrained.")
        return error
    return None


def _finish(task: Task, conditions: Conditions) -> None:
    if task.name in Zoo.open(conditions.zoo):
        return
    search = pretrain(task, conditions)
    try:
        Zoo.open(conditions.zoo).add(
            task.name,
            kind=task.kind,
            signature=task.datasets[0].signature if task.kind == "single" else None,
            dataset=task.datasets[0].name if task.kind == "single" else None,
            dtype=conditions.dtype,
            **_contents(search, task, conditions.pretraining),
        )
    except ZooError:
        # The worker of a call that was killed may have lived on, and been faster.
        if task.name not in Zoo.open(conditions.zoo):
            raise


def pretrain(task: Task, conditions: Conditions) -> Pretrained:
    """Pretrain a source as far as its checkpoint; adds nothing to the zoo."""
    start, device = task.warm_start, conditions.device
    arguments = conditions.pretraining, conditions.checkpoint(task)
    with _torch_threads(conditions.n_threads), _bar(task.name, conditions) as advance:
        if task.kind == "multi":
            return pretrain_multi(
                task.datasets, *arguments, warm_start=start, device=device, on_epoch=advance
            )
        return pretrain_single(
            task.datasets[0], *arguments, warm_start=start, device=device, on_epoch=advance
        )


@contextlib.contextmanager
def _torch_threads(n_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _bar(name: str, conditions: Conditions) -> Iterator[OnEpoch]:
    """Draw a bar over the epochs of one source; yields the callback that moves it."""
    with tqdm(desc=f"pretrain {name}", unit="epoch", disable=not conditions.bars) as bar:

        def advance(search: Pretrained) -> bool | None:
            row = search.history[-1]
            bar.total, bar.n = search.epochs, search.epoch
            bar.set_postfix(figures(row))
            return conditions.on_epoch(search) if conditions.on_epoch else None

        yield advance


def _contents(search: Pretrained, task: Task, pretraining: Pretraining) -> dict[str, Any]:
    """What `Zoo.add` takes of a finished pretraining."""
    counts = [data.counts for data in task.datasets]
    n_images = sum(int(count.sum()) for count in counts)
    last = search.history[-1]
    start, provenance = task.warm_start, dict(task.provenance)
    before = start.history() if start is not None and start.name == task.name else []
    if start is not None and not before:
        provenance["warm_start"] = start.name
    if start is not None and not {*start.trained_on} <= {data.name for data in task.datasets}:
        provenance["warm_start_datasets"] = start.trained_on
    rows = [row.copy() for row in search.history]
    for row in rows:
        row["epoch"] += len(before)
    history = before + rows
    config, state = pretraining.family.stored(search.searched_supernet())
    if pretraining.family.learns_labels:
        metrics = {
            "validation_accuracy": last["validation_accuracy"],
            "train_accuracy": last["train_accuracy"],
            "chance_accuracy": sum(int(count.max()) for count in counts) / n_images,
        }
    else:
        metrics = {"train_loss": last["train_loss"]}
    return {
        "config": config,
        "state_dict": state,
        "provenance": {
            **provenance,
            "n_images": n_images,
            "n_classes": sum(len(count) for count in counts),
        },
        "metrics": {
            **metrics,
            "epochs": len(history),
            "seconds": round(sum(row["seconds"] for row in history), 1),
        },
        "history": history,
    }
