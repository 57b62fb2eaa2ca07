"""Which folders beside each other are classes, and which are not.

Datasets come as folders of splits (``train``, ``test``), which hold the folders of the classes, and
archives, servers and systems leave folders of their own among them, some with small copies of
the images.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

__all__ = ["is_foreign", "training_split"]

# Of macOS archives, of Synology and QNAP servers, of Windows and of Linux.
_FOREIGN = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin"),
        *("lost+found", "system volume information", "__pycache__"),
    )
)
_TRAINING = frozenset(("train", "training", "trn"))
_OTHERS = frozenset(
    (
        *("dev", "development", "eval", "evaluation", "holdout", "test", "testing", "tst"),
        *("val", "valid", "validation"),
    )
)
_MORE = frozenset(("extra", "fold", "pred", "unlabeled", "unlabelled", "unsup"))
_SPLITS = _TRAINING | _OTHERS | _MORE
# What stands beside the name of a split: train_set, test-images, TrainingData, val2017.
_FILLERS = ("data", "dataset", "folder", "image", "images", "img", "imgs", "set", "split")
_GLUED = re.compile(rf"^({'|'.join(_SPLITS)})(?:{'|'.join(_FILLERS)})$")


def is_foreign(name: str) -> bool:
    """Whether a folder belongs to a system or an archive: hidden ones, ``__MACOSX``, ``@eaDir``."""
    return name.startswith(".") or name.lower() in _FOREIGN


def training_split(names: Sequence[str]) -> str | None:
    """The folder to load if folders are the splits of a dataset, or None if they are classes.

    They are splits if all of their names are names of splits, apart from words that all have in
    common (``seg_train``, ``seg_test``); or if there are a training and a test or validation
    split, whatever is beside them. A class ``train`` among ``bus`` and ``car`` is a class.

    Parameters
    ----------
    names : sequence of str
        Of folders beside each other.
    """
    words = [_words(name) for name in names]
    shared = frozenset.intersection(*words) if len(words) > 1 else frozenset()
    kinds = [_kind(own - shared) or _kind(own) for own in words]
    training = [name for name, kind in zip(names, kinds, strict=True) if kind in _TRAINING]
    if None in kinds and not (training and _OTHERS.intersection(kinds)):
        return None
    return (training or names)[0] if names else None


def _words(name: str) -> frozenset[str]:
    parted = re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return frozenset(_GLUED.sub(r"\1", word) for word in re.findall(r"[^\W\d_]+", parted))


def _kind(words: Collection[str]) -> str | None:
    """The split that words name, if they name one and nothing else."""
    left = set(words).difference(_FILLERS)
    return left.pop() if len(left) == 1 and left <= _SPLITS else None
