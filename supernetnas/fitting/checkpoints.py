"""Checkpoints of a fit: what is interrupted goes on where it was.

A fit has its own folder inside ``checkpoint_dir``, named after everything that its result follows
from: parameters, images, labels, kind of device. So fits of one folder never mix, as in a grid
search, and a fit with other parameters or other data starts anew. Inside, each stage has one file,
replaced as a whole after each epoch. A fit that ends deletes its folder. Once it trains, a fit does
not end for want of checkpoints: what cannot be written or deleted is told, and it goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import Tensor, nn

from ..parameters import Parameters
from ..storage.destinations import refusal, user_path
from ..storage.files import TEMPORARY, FileError, locked, write_atomic
from ..storage.formats import dump_json, read_json
from ..training.checkpoints import load_checkpoint, save_checkpoint
from ..training.clock import Stopwatch
from .parameter_values import encode_parameter

__all__ = ["FitCheckpoints", "StageCheckpoint", "fingerprint", "fit_checkpoints"]

_RECORD, _LOCK = "fit.json", "lock"
_RECORD_LIMIT = 2**20

# They change how a fit is shown or where it runs, not what it gives.
_NOT_IN_FINGERPRINT = ("checkpoint_dir", "device", "verbose")


@dataclass
class StageCheckpoint:
    """The file of one stage.

    Attributes
    ----------
    path : Path or None
        None neither saves nor finds anything.
    watch : Stopwatch or None
        Clock of the fit, which goes on from the time of the checkpoint.
    unwritten : set of str
        Names of the fit's files whose last version could not be written. While there is one,
        those of other stages are not written: a fit goes on from stages without a gap.
    """

    path: Path | None = None
    watch: Stopwatch | None = None
    unwritten: set[str] = field(default_factory=set)

    def exists(self) -> bool:
        """Whether there is something to `load`."""
        return self.path is not None and self.path.exists()

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """Return what `save` wrote last, or None.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            tensors, state = load_checkpoint(self.path)
            seconds = float(state.pop("seconds_of_fit"))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"The checkpoint {self.path} is damaged: {error}. Delete its folder to start anew."
            ) from error
        if self.watch is not None:
            self.watch.start = min(self.watch.start, time.monotonic() - seconds)
        return tensors, state

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the file, or warn if that is not possible.

        Warns
        -----
        UserWarning
            The first time that the system refuses.
        """
        if self.path is None or self.unwritten - {self.path.name}:
            return
        seconds = self.watch.seconds if self.watch is not None else 0.0
        try:
            save_checkpoint(self.path, dict(tensors), {**state, "seconds_of_fit": seconds})
        except OSError as error:
            if not self.unwritten:
                _warn(f"The checkpoint {self.path} cannot be written; the fit goes on", error)
            self.unwritten.add(self.path.name)
        else:
            self.unwritten.discard(self.path.name)


@dataclass
class FitCheckpoints:
    """The checkpoints of one fit; without a folder, none.

    Attributes
    ----------
    folder : Path or None
    watch : Stopwatch
        Clock of the fit.
    """

    folder: Path | None
    watch: Stopwatch
    _record: dict[str, Any] = field(default_factory=dict)
    _unwritten: set[str] = field(default_factory=set)

    def seed(self, draw: Callable[[], int]) -> int:
        """Return the seed of the interrupted fit, or else a new one."""
        drawn = draw()  # in any case: a RandomState goes on as it would have
        return int(self._remembered("seed", drawn))

    def check_start(self, supernets: Iterable[tuple[str, nn.Module]]) -> None:
        """Compare the supernets to start from, with their names, with the interrupted fit's.

        Raises
        ------
        ValueError
            If they differ, as when the zoo was changed in between.
        """
        if self.folder is None:
            return
        digest = hashlib.sha256()
        for name, supernet in supernets:
            digest.update(name.encode())
            for key, tensor in supernet.state_dict().items():
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        if self._remembered("start", digest.hexdigest()) != digest.hexdigest():
            raise ValueError(
                "The interrupted fit started from other supernets: the zoo has changed since. "
                f"Delete {self.folder} to start anew."
            )

    def stage(self, name: str) -> StageCheckpoint:
        """Return the checkpoint of a stage."""
        path = None if self.folder is None else self.folder / f"{name}.safetensors"
        return StageCheckpoint(path, self.watch, self._unwritten)

    def _remembered(self, key: str, value: Any) -> Any:
        if self.folder is None:
            return value
        if key not in self._record:
            self._record[key] = value
            try:
                write_atomic(self.folder / _RECORD, dump_json(self._record))
            except OSError as error:
                if len(self._record) == 1:  # the first of all: nothing is lost by giving up
                    raise _refusal(self.folder, error) from error
                _warn(f"{self.folder / _RECORD} cannot be written; the fit goes on", error)
                self._unwritten.add(_RECORD)
        return self._record[key]


@contextlib.contextmanager
def fit_checkpoints(
    folder: str | os.PathLike | None, name: str, watch: Stopwatch
) -> Iterator[FitCheckpoints]:
    """Open the checkpoints of a fit; delete them if what follows raises nothing.

    Parameters
    ----------
    folder : path or None
        ``checkpoint_dir``; made if need be. None keeps no checkpoints.
    name : str
        The fit's `fingerprint`.
    watch : Stopwatch
        Clock of the fit.

    Raises
    ------
    FileError
        If the folder cannot be written to, or another process runs the same fit there.
    """
    if folder is None:
        yield FitCheckpoints(None, watch)
        return
    own = user_path(folder) / name
    lock = own.with_name(f"{name}.{_LOCK}")
    busy = FileError(
        f"Another process runs this very fit with its checkpoints in {own}. Give it another "
        "checkpoint_dir, or another random_state."
    )
    with contextlib.ExitStack() as stack:
        try:
            own.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock, timeout=0, busy=busy))
        except OSError as error:
            if error is busy:
                raise
            raise _refusal(folder, error) from error
        for leftover in own.glob(f"{TEMPORARY}*"):  # of a process that was killed
            with contextlib.suppress(OSError):
                leftover.unlink()
        record = own / _RECORD
        try:
            known = read_json(record, limit=_RECORD_LIMIT) if record.exists() else {}
        except FileError as error:
            raise FileError(f"{error} Delete the folder {own} to start anew.") from error
        if not known:  # stages of a fit that ended and could not delete them
            for stage in own.glob("*.safetensors"):
                stage.unlink()
        yield FitCheckpoints(own, watch, known)
        try:
            record.unlink(missing_ok=True)
            shutil.rmtree(own)
        except OSError as error:
            _warn(f"The checkpoints in {own} are of no more use, but cannot be deleted", error)
        with contextlib.suppress(OSError):  # whatever it is, the fit is what counts
            if not own.exists():
                lock.unlink()


def _refusal(folder: str | os.PathLike, error: OSError) -> OSError:
    return refusal(FileError, f"Checkpoints cannot be written to {folder}", error)


def _warn(text: str, error: OSError) -> None:
    warnings.warn(f"{text}: {error}", UserWarning, stacklevel=3)


def fingerprint(
    parameters: Mapping[str, Any],
    contents: Iterable[bytes | memoryview],
    arrays: Iterable[np.ndarray],
    device: str,
) -> str:
    """Name a fit after what its result follows from.

    Parameters
    ----------
    parameters : mapping of str to object
        Of the constructor. Objects that have no plain form count by their ``identity`` or type.
    contents : iterable of bytes
        Of the images as they came.
    arrays : iterable of ndarray
        Labels and classes.
    device : str
        Kind of device.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    described = {}
    for key, value in parameters.items():
        if key in _NOT_IN_FINGERPRINT:
            continue
        if isinstance(value, np.random.RandomState):
            value = "RandomState"  # its state moves on with every fit
        try:
            described[key] = encode_parameter(value)
        except TypeError:
            own = repr(value) if isinstance(value, Parameters) else ""
            described[key] = getattr(value, "identity", f"{type(value)}{own}")
    digest = hashlib.sha256(json.dumps([described, device], sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        data = np.ascontiguousarray(array)
        digest.update(repr(data.tolist()).encode() if data.dtype == object else data.tobytes())
    for part in contents:
        digest.update(part)
    return digest.hexdigest()[:32]
