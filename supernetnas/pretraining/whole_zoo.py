"""Pretraining of a whole zoo.

`pretrain_zoo` pretrains a supernet on each dataset and one on all together, and writes a zoo of
what they give. The supernets themselves are in `supernetnas.pretraining.sources`.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from joblib import effective_n_jobs
from torch import Tensor

from ..embedding.embedder import DEFAULT_EMBEDDER, Embedder, get_embedder
from ..images.datasets import SourceDataset
from ..storage.destinations import user_path
from ..training.devices import resolve_device
from ..training.distributed import is_first, process_group
from ..training.surroundings import own_surroundings
from ..zoo.entries import ZooError
from ..zoo.source import Source
from ..zoo.zoo import Zoo
from .checks import (
    check_datasets,
    check_kept,
    check_multi,
    claim_checkpoints,
    existing_zoo,
    warm_starts,
)
from .data import PretrainingData, decode_all, sign_all
from .jobs import Conditions, Task, pretrain, run_tasks
from .settings import MULTI, Pretraining
from .sources import OnEpoch, pretrain_multi, pretrain_single

__all__ = [
    "Pretraining",
    "SourceDataset",
    "pretrain_multi",
    "pretrain_single",
    "pretrain_zoo",
]

_WORK = ".pretraining"


@own_surroundings()
def pretrain_zoo(
    datasets: Iterable[SourceDataset],
    out: str | os.PathLike,
    *,
    pretraining: Pretraining | None = None,
    embedder: str | Callable[[Tensor], Tensor] | Embedder = DEFAULT_EMBEDDER,
    singles: bool | None = None,
    multi: bool = True,
    warm_start: Zoo | Source | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    compact: bool = False,
    work: str | os.PathLike | None = None,
    device: str = "auto",
    n_jobs: int | None = None,
    n_threads: int | None = None,
    on_epoch: OnEpoch | None = None,
    verbose: int = 0,
) -> Zoo:
    """Pretrain a supernet on each dataset and one on all together, and write them to a zoo.

    A family that learns without labels (`supernetnas.families.base.Family.learns_labels`) has one
    supernet alone, on the images of all datasets together: such a call makes only "multi".

    A source is added to the zoo as soon as it is finished. After an interruption the same call
    goes on where it was: sources in the zoo are kept as they are, others continue from their
    checkpoints. Datasets can be added to a zoo in the same way.

    Started by ``torchrun``, the processes pretrain different single sources at the same time, and
    then "multi" together, see `supernetnas.training.distributed`.

    Parameters
    ----------
    datasets : iterable of SourceDataset
        Each of at least two classes, of at least two images each.
    out : path
        Folder of the zoo; made, or a zoo with the same embedder.
    pretraining : Pretraining, optional
        How to pretrain; by default ``Pretraining()``.
    embedder : str, callable or Embedder, default="efficientnet_lite0"
        What the signatures are made with; see `supernetnas.get_embedder`.
    singles : bool, optional
        Whether to add a source for each dataset; by default if the family learns labels.
    multi : bool, default=True
        Whether to add the source "multi", pretrained on all datasets together.
    warm_start : Zoo or Source, optional
        Start every supernet from this source. Of a zoo, start the supernet of a dataset from the
        source of the same name and "multi" from the supernet on many datasets, where the zoo has
        them: to pretrain a zoo further.
    dtype : {"float32", "float16"}, default="float32"
        Precision that weights are stored in.
    compact : bool, default=False
        Whether signatures are compact, which needs a twentieth of the room. Their basis is that
        of the zoo or, for a new zoo, is fitted to all datasets.
    work : path, optional
        Where checkpoints are kept. By default in the hidden folder ``.pretraining`` of the zoo,
        which is deleted at the end.
    device : str, default="auto"
        "auto" is a GPU where there is one.
    n_jobs : int, optional
        How many sources are pretrained at the same time, each by a worker of joblib: -1 for one
        per CPU; None is 1, or what `joblib.parallel_config` says. Under
        ``joblib.parallel_config(backend="dask")`` or ``"ray"`` the workers are those of the
        cluster, and all of them must reach zoo, ``work`` and image files under the same paths.
        If a worker is killed, its sources go on from their checkpoints on another.
    n_threads : int, optional
        Threads that torch uses for each source. By default as many as in this process, whatever
        ``n_jobs`` is: their number decides the rounding, so on CPUs of one kind ``n_jobs`` does
        not change the result. Where workers share a machine, choose its CPUs / ``n_jobs``.
    on_epoch : callable, optional
        Called with the search after each epoch, in the process that pretrains, which it is
        pickled for; True ends that search, and its source is added as it is.
    verbose : int, default=0
        1 shows progress bars, or with several workers a line now and then.

    Returns
    -------
    Zoo
        Its sources have the metrics ``validation_accuracy`` and ``train_accuracy`` of the last
        epoch, ``chance_accuracy`` (share of the largest class; for "multi" the largest class of
        the image's own dataset), ``epochs`` and ``seconds``; without labels, ``train_loss`` is
        there instead of accuracies. Epochs, seconds and history include
        those of the source of the same name that was started from; one of another name is in the
        provenance as ``warm_start``. All datasets that it had been trained on are there as
        ``warm_start_datasets``, unless they are the source's own.

    Raises
    ------
    ValueError
        If the datasets do not suit, the family is not pretrained as is asked for, or the
        checkpoints are of other datasets or settings.
    ImportError
        If weights to start from are published in a package that is not installed.
    OSError
        If an image cannot be read.
    ZooError
        If the zoo cannot be made, has another embedder or kind of signature, has a source "multi"
        of other datasets, or sources of a name that is needed or of a dataset that has changed. All
        this is found before any training.
    Exception
        Whatever keeps a source from being finished, such as a search that diverges, after the
        other sources are finished; a second call tries again.
    """
    data = [PretrainingData.read(dataset) for dataset in datasets]
    folder = user_path(out, ZooError).absolute()
    pretraining = Pretraining() if pretraining is None else pretraining
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
    singles = pretraining.with_singles(singles, multi)
    _check_numbers(n_jobs, n_threads)
    pretraining.check()
    check_datasets(data, pretraining, singles=singles)
    embedder = get_embedder(embedder)
    zoo = existing_zoo(folder, embedder.identity, compact if singles else None)
    check_multi(zoo, data if multi else [], pretraining)
    if zoo is not None:
        check_kept(zoo, data, pretraining, singles=singles)
    starts = warm_starts(warm_start, data if singles else [], multi, pretraining)
    conditions = Conditions(
        zoo=folder,
        checkpoints=folder / _WORK if work is None else user_path(work, ZooError).absolute(),
        pretraining=pretraining,
        dtype=dtype,
        device=device,
        n_threads=torch.get_num_threads() if n_threads is None else n_threads,
        on_epoch=on_epoch,
        bars=verbose > 0 and is_first() and effective_n_jobs(n_jobs) == 1,
    )
    with process_group(resolve_device(device)) as processes:
        if processes.size > 1 and effective_n_jobs(n_jobs) > 1:
            raise ValueError(f"n_jobs={n_jobs} is for one process; torchrun started several.")
        processes.wait()  # nothing is written before all have seen what was there
        if processes.rank == 0:
            claim_checkpoints(conditions.checkpoints, pretraining, data, multi, starts)
        processes.wait()
        missing = [d for d in data if zoo is None or pretraining.source_name(d.name) not in zoo]
        missing = missing if singles else []
        whole = multi and (zoo is None or zoo.multi(pretraining.family.name) is None)
        if processes.rank == 0:
            known = _signed_by(zoo, missing)
            signed, basis = sign_all(
                [data for data in missing if data.name not in known],
                embedder,
                None if zoo is None else zoo.basis(),
                compact=compact,
                seed=pretraining.random_state,
                device=resolve_device(device),
                verbose=verbose,
            )
            if zoo is None:
                Zoo.create(folder, embedder_id=embedder.identity, basis=basis)
            data = _replaced(data, [*signed, *known.values()])
        needed = data if whole else [d for d in data if d.name in {m.name for m in missing}]
        data = _replaced(data, decode_all(needed, pretraining.seen))
        alone, together = _tasks(
            data, {m.name for m in missing}, whole, pretraining, starts, singles=singles
        )
        if processes.size > 1:
            for task in alone[processes.rank :: processes.size]:
                pretrain(task, conditions)
            processes.wait()
        if processes.rank == 0:
            run_tasks([*alone, *together], conditions, n_jobs, verbose)
            if work is None:
                try:
                    shutil.rmtree(conditions.checkpoints)
                except OSError as error:
                    warnings.warn(
                        f"The zoo is finished; its checkpoints in {conditions.checkpoints} cannot "
                        f"be deleted: {error}",
                        UserWarning,
                        stacklevel=2,
                    )
        else:
            for task in together:
                pretrain(task, conditions)
        processes.wait()
    return Zoo.open(folder)


def _signed_by(zoo: Zoo | None, datasets: Sequence[PretrainingData]) -> dict[str, PretrainingData]:
    """Those of some datasets whose signature a zoo has, with it: another would not be equal."""
    sources = {} if zoo is None else {source.dataset: source for source in zoo.singles()}
    return {
        data.name: replace(data, signature=sources[data.name].signature())
        for data in datasets
        if data.name in sources
    }


def _replaced(
    datasets: Sequence[PretrainingData], changed: Sequence[PretrainingData]
) -> list[PretrainingData]:
    """Datasets, some of which have changed."""
    by_name = {data.name: data for data in changed}
    return [by_name.get(data.name, data) for data in datasets]


def _tasks(
    datasets: Sequence[PretrainingData],
    missing: Collection[str],
    multi: bool,
    pretraining: Pretraining,
    starts: Mapping[str, Source],
    *,
    singles: bool,
) -> tuple[list[Task], list[Task]]:
    """Tasks for some datasets, each alone, and for all together if that is wanted.

    The zoo has or will have a source of each dataset alone if ``singles``.
    """
    alone = [
        Task(name, "single", [data], data.provenance, starts.get(name))
        for data in datasets
        if data.name in missing
        for name in [pretraining.source_name(data.name)]
    ]
    if not multi:
        return alone, []
    family, licence = pretraining.family, "see the single sources"
    if not singles:
        licences = [str(d.provenance.get("licence", "not stated")) for d in datasets]
        licence = "; ".join(dict.fromkeys(licences))
    provenance = {
        "dataset": f"all {len(datasets)} datasets together",
        "licence": licence,
        "datasets": [data.name for data in datasets],
        **family.origin,
    }
    name = pretraining.source_name(MULTI)
    return alone, [Task(name, "multi", datasets, provenance, starts.get(name))]


def _check_numbers(n_jobs: int | None, n_threads: int | None) -> None:
    if n_jobs is not None and (not isinstance(n_jobs, int) or n_jobs == 0):
        raise ValueError(f"n_jobs must be None, a positive number or -1; got {n_jobs!r}.")
    if n_threads is not None and (not isinstance(n_threads, int) or n_threads < 1):
        raise ValueError(f"n_threads must be None or at least 1; got {n_threads!r}.")
