"""Labelled datasets from the disk, to pretrain on and to compare.

Three forms are read: a folder of class folders, an ``.npz`` file, and an album, a folder of
``.npz`` files. An ``album.json`` beside ``.npz`` files says where their images come from. Nothing
is unpickled.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.files import sha256
from ..storage.formats import read_json
from .image_files import load_images

__all__ = ["ALBUM", "SourceDataset", "load_dataset", "load_datasets", "load_npz_dataset"]

ALBUM = "album.json"
"""Name of the file that describes the ``.npz`` files beside it."""

_ALBUM_LIMIT = 16 * 2**20
_KEPT = ("upstream", "licence", "domain", "native_size", "notes")


@dataclass(frozen=True)
class SourceDataset:
    """A labelled dataset to pretrain on.

    Attributes
    ----------
    name : str
        Name of the source in the zoo.
    images : object
        Whatever `supernetnas.images.reading.as_image_set` accepts.
    labels : array-like of shape (n,)
    class_names : sequence of str, optional
        Names of the sorted labels.
    provenance : dict
        Where the images come from and under which licence, as their source states it.
    """

    name: str
    images: Any
    labels: np.ndarray
    class_names: Sequence[str] | None = None
    provenance: dict = field(default_factory=dict)


def load_datasets(paths: Iterable[str | os.PathLike]) -> list[SourceDataset]:
    """Load datasets of any form.

    Parameters
    ----------
    paths : iterable of path
        Class-folder folders, ``.npz`` files and albums. The datasets of an album come in the
        order of its ``album.json``, others after them by name.

    Returns
    -------
    list of SourceDataset
        Files of images are listed, not opened.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such file or folder.
    ValueError
        If something there is not a dataset.
    FileError
        If an ``album.json`` cannot be read.
    """
    datasets = []
    for path in map(Path, paths):
        files = sorted(path.glob("*.npz")) if path.is_dir() else []
        if files:
            datasets += [load_npz_dataset(file) for file in _in_order(files, _album(path))]
        else:
            datasets.append(load_dataset(path))
    return datasets


def load_dataset(path: str | os.PathLike) -> SourceDataset:
    """Load a folder of class folders or an ``.npz`` file as the dataset of its name.

    Raises and is otherwise as `load_datasets`.
    """
    path = Path(path)
    if path.is_dir():
        images, labels = load_images(path)
        name = path.resolve().name
        return SourceDataset(name, images, labels, np.unique(labels).tolist(), {"dataset": name})
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    if path.suffix != ".npz":
        raise ValueError(
            f"{str(path)!r} is not a dataset: pass a folder of class folders or an .npz file."
        )
    return load_npz_dataset(path)


def load_npz_dataset(path: str | os.PathLike) -> SourceDataset:
    """Load a dataset from an ``.npz`` file.

    Parameters
    ----------
    path : path
        Of a file with the arrays ``X``, uint8 of shape (n, height, width, channels) with 1 or 3
        channels or (n, height, width); ``y``, integers of shape (n,); and ``classes``, the names
        of the classes, which ``y`` indexes. Without ``classes`` the values of ``y`` are the names.
        If an ``album.json`` beside the file has an entry for it, provenance is taken from there.

    Returns
    -------
    SourceDataset
        Of the file's name without its ending.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds something else, or is not the one that ``album.json`` describes.
    FileError
        If ``album.json`` cannot be read.
    """
    path = Path(path)
    arrays = _arrays(path)
    pixels, labels = arrays["X"], arrays["y"]
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"X in {path} must be uint8 of shape (n, height, width, channels); it is "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3):
        raise ValueError(f"X in {path} must have 1 or 3 channels, last; its shape: {pixels.shape}.")
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"y in {path} must have one integer for each of the {len(pixels)} images of X; it is "
            f"{labels.dtype} of shape {labels.shape}."
        )
    values = np.unique(labels)
    classes = arrays.get("classes")
    if classes is not None:
        if classes.ndim != 1 or classes.dtype.kind != "U":
            raise ValueError(f"classes in {path} must be a list of names; it is {classes.dtype}.")
        if labels.dtype.kind == "U" or values[0] < 0 or values[-1] >= len(classes):
            raise ValueError(f"y in {path} must index its {len(classes)} classes, from 0.")
        values = classes[values]
    provenance = {"dataset": path.stem}
    if entry := _album(path.parent).get(path.name):
        if "sha256" in entry and sha256(path) != entry["sha256"]:
            raise ValueError(f"{path} is not the file that {path.parent / ALBUM} describes.")
        provenance |= _provenance(entry)
    return SourceDataset(path.stem, pixels, labels, [str(name) for name in values], provenance)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if not path.is_file():  # opening a pipe would wait for somebody who writes
        raise ValueError(f"{path} is not a regular file.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("X", "y", "classes") if name in file.files}
            found = ", ".join(file.files)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not {"X", "y"} <= arrays.keys():
        raise ValueError(f"{path} must hold the arrays X, y and classes; it holds {found}.")
    return arrays


def _in_order(files: list[Path], album: Mapping[str, Any]) -> list[Path]:
    """Files in the order of an album, then those that it does not list."""
    order = {name: position for position, name in enumerate(album)}
    return sorted(files, key=lambda file: order.get(file.name, len(order)))


def _album(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Entries of a folder's ``album.json`` by file name, in its order; empty if there is none."""
    path = folder / ALBUM
    if not path.exists():
        return {}
    data = read_json(path, limit=_ALBUM_LIMIT)
    entries = data.get("datasets") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("file"), str) for entry in entries
    ):
        raise ValueError(f"{path} must have a list 'datasets' of entries that name their 'file'.")
    return {entry["file"]: entry for entry in entries}


def _provenance(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What `Zoo.add` calls provenance, from an album's entry."""
    provenance = {key: entry[key] for key in _KEPT if entry.get(key) is not None}
    if isinstance(entry.get("title"), str):
        provenance["dataset"] = entry["title"]
    if source := entry.get("source"):
        provenance["source"] = "; ".join(
            map(_origin, source if isinstance(source, list) else [source])
        )
    return provenance


def _origin(source: Any) -> str:
    """One line for a place that files were taken from: ``github owner/name @ commit: path``."""
    if not isinstance(source, dict):
        return str(source)
    place = [source.get("kind"), source.get("repo") or source.get("package") or source.get("url")]
    text = " ".join(str(part) for part in place if part)
    if version := source.get("commit") or source.get("version"):
        text += f" @ {version}"
    return f"{text}: {source['path']}" if source.get("path") else text
