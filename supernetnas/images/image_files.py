"""Image files on a disk: paths as a sequence, and folders of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from .class_folders import is_foreign, training_split
from .picture_sets import PictureImages
from .pictures import IMAGE_EXTENSIONS

__all__ = ["ImageFiles", "image_paths", "load_images"]


class ImageFiles:
    """Paths of images, as a sequence that scikit-learn can index without reading a file.

    Indexing with a slice, an integer array or a boolean mask gives another `ImageFiles`;
    indexing with an integer gives a path. A pickle holds the paths alone.

    Parameters
    ----------
    paths : iterable of str or path-like
        The files, in order. They are opened when their pixels are needed.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        if isinstance(paths, str | bytes | os.PathLike):
            raise TypeError(
                f"paths is one path, {os.fspath(paths)!r}. Pass a list of paths, or read a folder "
                f"of class folders with supernetnas.load_images(folder)."
            )
        paths = list(paths)
        for i, path in enumerate(paths):
            if not isinstance(path, str | bytes | os.PathLike):
                raise TypeError(f"paths[{i}] is a {type(path).__name__}, not a path.")
        self.paths = [os.fsdecode(path) for path in paths]

    @property
    def shape(self) -> tuple[int]:
        return (len(self.paths),)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __getitem__(self, index):
        if isinstance(index, tuple):  # scikit-learn indexes array-likes with (index, ...)
            if len(index) != 2 or index[1] is not Ellipsis:
                raise IndexError("ImageFiles has one axis.")
            index = index[0]
        positions = np.arange(len(self))[index]
        if positions.ndim == 0:
            return self.paths[positions]
        return ImageFiles([self.paths[i] for i in positions])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype).kind not in "OU":
            raise TypeError("ImageFiles holds paths, not pixels; to_array(size) reads the images.")
        return np.array(self.paths, dtype=object if dtype is None else dtype)

    def __repr__(self) -> str:
        first = f", the first is {self.paths[0]!r}" if self.paths else ""
        return f"<ImageFiles: {len(self)} files{first}>"

    def to_array(self, size: int | tuple[int, int], channels: int | None = None) -> np.ndarray:
        """Read every file into one array.

        Parameters
        ----------
        size : int or tuple of int (height, width)
            The size to which images are resized, in pixels.
        channels : {1, 3}, optional
            By default 3, or 1 if all files are grey.

        Returns
        -------
        ndarray of shape (n, height, width, channels), uint8
            float32 for grey files of more than 8 bits.
        """
        height, width = (size, size) if isinstance(size, int | Integral) else size
        if not self.paths:
            raise ValueError("There is no file to read: ImageFiles is empty.")
        pixels = PictureImages(self.paths, "X").tensor(height, width, channels)
        return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def load_images(folder: str | os.PathLike) -> tuple[ImageFiles, np.ndarray]:
    """List a folder that holds one folder of images per class.

    Class folders are searched to any depth. Names that begin with a dot, folders that systems and
    archives leave (``__MACOSX``, ``@eaDir``) and files without an image's extension are passed
    over; symbolic links are followed, once.

    Parameters
    ----------
    folder : str or path-like
        Such as ``animals`` with ``animals/cat/1.jpg`` and ``animals/dog/1.jpg``.

    Returns
    -------
    images : ImageFiles
        Sorted by class, then by path. Nothing is read yet.
    labels : ndarray of shape (n,), str
        The name of each image's class folder.

    Raises
    ------
    NotADirectoryError
        If `folder` is not a folder.
    ValueError
        If there are no class folders, one has no images, or they are named like the splits of a
        dataset (train, test).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a folder.")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not is_foreign(p.name))
    if not classes:
        raise ValueError(
            f"{str(folder)!r} has no class folders. Put the images of each class into a folder of "
            f"its own: cat/1.jpg, dog/1.jpg."
        )
    if (split := training_split([path.name for path in classes])) is not None:
        raise ValueError(
            f"The folders in {str(folder)!r} are splits of a dataset, not classes. Take one of "
            f"them instead: {str(folder / split)!r}."
        )
    paths: list[str] = []
    labels: list[str] = []
    for path in classes:
        found = image_paths(path)
        if not found:
            raise ValueError(
                f"The class folder {str(path)!r} has no images "
                f"({' '.join(IMAGE_EXTENSIONS)}). Remove it or fill it."
            )
        paths += found
        labels += [path.name] * len(found)
    return ImageFiles(paths), np.array(labels)


def image_paths(folder: Path) -> list[str]:
    """Sorted paths of the images below a folder."""
    paths: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link back to a folder above
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not is_foreign(name)]
        paths += [
            os.path.join(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_EXTENSIONS
        ]
    return sorted(paths)
