"""The last stage of a fit: what a family trains of the derived network is trained to the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch

from ..families.base import Family
from ..training.batches import LabelledImages
from ..training.execution import Execution
from ..training.memory import explained_memory_error
from .estimates import epoch_seconds
from .retraining import RetrainSettings, retrain
from .run import Run
from .target import Target

__all__ = ["finetune"]

logger = logging.getLogger(__name__)

_TEACHER_SHARE = 0.5  # of what is left of a time limit, where others are taught afterwards


def finetune(
    learner: torch.nn.Module,
    train: LabelledImages,
    target: Target,
    settings: RetrainSettings,
    family: Family,
    execution: Execution,
    run: Run,
    measure: Callable[[], dict[str, float]],
    *,
    time_limit: float | None = None,
    taught: bool = False,
) -> list:
    """Train what a family trains on images of the target; returns its history.

    Parameters
    ----------
    learner : torch.nn.Module
    train : LabelledImages
    target : Target
    settings : RetrainSettings
    family : Family
    execution : Execution
    run : Run
    measure : callable
        What else a row of the history has after an epoch.
    time_limit : float, optional
        Seconds of the run's clock at which it ends.
    taught : bool
        Whether the learner is what another taught, which was trained before; the stage is then
        called "teach".
    """
    name = "teach" if taught else "retrain"
    teacher = not taught and family.teaches(learner)
    if taught:
        settings = replace(settings, epochs=math.ceil(settings.epochs * family.patience(learner)))
    with ExitStack() as stack:
        stack.enter_context(explained_memory_error(settings.batch_size, execution.checkpointing))
        if not family.keeps_statistics:
            run.recalibrate(learner, train, settings.batch_size)
        data = family.training_data(learner, train, run.generator)
        if run.progress.estimates:
            seconds = epoch_seconds(learner, data, execution)
            if seconds is not None:
                run.progress.expect(len(train), {name: (settings.epochs, seconds)})
        if time_limit is not None:
            time_limit -= run.watch.seconds  # what came before the first epoch included
            if teacher:
                time_limit *= _TEACHER_SHARE
        advance = stack.enter_context(run.progress.stage(name, settings.epochs))
        history = retrain(
            learner,
            data,
            settings,
            run.generator,
            execution=execution,
            class_weight=target.class_weight,
            time_limit=time_limit,
            measure=measure,
            on_epoch=advance,
            checkpoint=run.checkpoints.stage(name),
            stage=name,
        )
        if not family.keeps_statistics:
            run.recalibrate(learner, train, settings.batch_size)
    if len(history) < settings.epochs:
        logger.warning("%s ended after %d of %d epochs", name, len(history), settings.epochs)
    return history
