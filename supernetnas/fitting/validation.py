"""What a user passes to the classifier, checked before any work.

Arrays of up to two dimensions, and all labels, go through scikit-learn's own validation, so its
errors are the ones that people know. Images go through `supernetnas.images.reading.as_image_set`.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ..families.base import get_family
from ..images.preprocessing import SIDES
from ..images.reading import ImageSet, as_image_set, looks_like_rows
from ..images.sets import UnequalImages
from ..parameters import ParameterError, check_parameter
from ..saving.labels import check_labels
from ..search.method import SearchMethod
from ..selection.strategies import find_strategy
from ..storage.counting import counted
from ..training.devices import resolve_device
from .resolved import execution_of, family_of, limits_of, method_of, retraining_of

__all__ = [
    "TrainingData",
    "check_limited",
    "check_parameters",
    "read_known_labels",
    "read_new_images",
    "read_training_data",
    "refuse_fit_parameters",
]


@dataclass(frozen=True)
class TrainingData:
    """Images and labels as ``fit`` got them, checked.

    Attributes
    ----------
    images : ImageSet
        n images.
    classes : ndarray of shape (n_classes,)
        The distinct labels, sorted, in the user's dtype.
    labels : ndarray of shape (n,), int64
        Positions in ``classes``.
    class_weight : dict of int to float, "balanced" or None
        The parameter, with positions in ``classes`` for labels.
    n_features_in : int or None
        Values per image where they came as one array.
    feature_names_in : ndarray of str or None
        Names of the columns of a DataFrame.
    """

    images: ImageSet
    classes: np.ndarray
    labels: np.ndarray
    class_weight: dict[int, float] | str | None
    n_features_in: int | None
    feature_names_in: np.ndarray | None


def check_parameters(clf: Any) -> None:
    """Refuse bad constructor parameters, apart from those that need data, zoo or device.

    Raises
    ------
    ParameterError
        Naming the parameter, what it may be, and what it is.
    """
    name = type(clf).__name__
    for parameter, constraint in clf.constraints.items():
        check_parameter(name, parameter, getattr(clf, parameter), constraint)
    method, limits = method_of(clf), limits_of(clf)
    for part in (family_of(clf), method, retraining_of(clf)):
        part.check()
    get_family(family_of(clf).name)  # which a saved classifier is read by
    if limits.max_latency is not None:
        limits.max_latency.check()
    strategy = find_strategy(clf.strategy)
    if clf.family != "auto" or clf.strategy == "scratch":  # else it depends on the source
        check_limited(clf, method)
    if strategy is not None and strategy.compares and not method.compares:
        raise ParameterError(
            f"strategy={clf.strategy!r} compares sources by their searches, so there has to be "
            "one: its epochs must be at least 1, and search must not be 'random'."
        )
    if execution_of(clf).captured and resolve_device(clf.device).type != "cuda":
        raise ParameterError(
            "Execution(compile='graph') captures steps as CUDA graphs, and there is no GPU to do "
            "it on. Use compile=False, which is the fastest on a CPU."
        )
    _check_image_size(clf.image_size)
    if clf.family != "auto":
        family = family_of(clf)  # which may refuse what follows, whatever the images
        family.input((1, 1), 1, clf.image_size)
        family.check_execution(execution_of(clf))


def check_limited(clf: Any, method: SearchMethod) -> None:
    """Refuse limits that a search does not keep."""
    if limits_of(clf) and not method.limited:
        raise ParameterError(
            "max_macs, max_parameters and max_latency need a search that keeps them: of cells "
            "'none', 'evolution', 'shifting', or 'sdarts', 'darts' or 'gdas' with "
            f"derivation='argmax'; got {method!r}."
        )


def refuse_fit_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse what ``fit`` is given besides X and y.

    Raises
    ------
    TypeError
        If there is anything.
    """
    if "sample_weight" in parameters:
        raise TypeError(
            "fit() takes no sample_weight: images cannot be weighed one by one. Weigh classes with "
            "the parameter class_weight, or leave out images that are not to count."
        )
    if parameters:
        raise TypeError(f"fit() takes X and y alone; got {', '.join(map(repr, parameters))}, too.")


def _check_image_size(image_size) -> None:
    if isinstance(image_size, str) and image_size == "auto":
        return
    sides = (image_size,) if isinstance(image_size, numbers.Integral) else image_size
    least, greatest = SIDES
    if (
        not isinstance(sides, list | tuple)
        or len(sides) not in (1, 2)
        or not all(isinstance(n, numbers.Integral) and least <= int(n) <= greatest for n in sides)
    ):
        raise ValueError(
            f"image_size must be 'auto', or one or two integers of {least} to {greatest} pixels. "
            f"Got {image_size!r}."
        )


def read_training_data(clf: Any, X, y) -> TrainingData:
    """Read X as images and y as labels.

    Files are opened, but not decoded yet. The classifier is left as it is.

    Raises
    ------
    TypeError, ValueError
        If X or y are not what ``fit`` takes, classes are too few or too small, or
        ``class_weight`` does not suit them.
    OSError
        If files are not images; names the first and counts them.
    """
    # scikit-learn writes n_features_in_ on the estimator, which must not outlive a fit that fails.
    blank: Any = object.__new__(type(clf))
    if looks_like_rows(X):
        X, y = validate_data(blank, X, y)
        images = as_image_set(X, image_shape=clf.image_shape)
    else:
        images = as_image_set(X, image_shape=clf.image_shape)
        images.check()
        _check_as_many_labels(X, y, len(images))
        rows = images.rows() if images.is_array else np.empty((len(images), 0))
        _, y = validate_data(blank, rows, y, ensure_min_features=0)
    _check_one_kind(y)
    check_classification_targets(y)
    classes, labels = np.unique(y, return_inverse=True)
    check_labels(classes)
    _check_classes(clf, classes, labels)
    return TrainingData(
        images=images,
        classes=classes,
        labels=labels,
        class_weight=_weights_by_position(clf.class_weight, classes),
        n_features_in=blank.n_features_in_ if images.is_array else None,
        feature_names_in=getattr(blank, "feature_names_in_", None),
    )


def _check_as_many_labels(X, y, n_images: int) -> None:
    """Refuse labels of another number than images; one image may be taken for many."""
    n_labels = len(y) if hasattr(y, "__len__") and np.ndim(y) else n_images
    if n_labels == n_images:
        return
    shape = _shape_of(X)
    advice = ""
    if len(shape) == 3 and (shape[2] in (1, 3, 4) or shape[0] in (1, 3, 4)):
        advice = f" If X is one image of shape {shape}, it is X[None]."
    raise ValueError(
        f"X has {counted(n_images, 'image')} and y {counted(n_labels, 'label')}; each image needs "
        f"one.{advice}"
    )


def _check_one_kind(labels: np.ndarray) -> None:
    """Refuse missing labels, and strings among others."""
    if labels.dtype != object:
        return
    missing = [position for position, label in enumerate(labels) if label is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(labels)} labels are missing (None), the first of them "
            f"y[{missing[0]}]."
        )
    if 0 < sum(isinstance(label, str) for label in labels) < len(labels):
        kinds = sorted({type(label).__name__ for label in labels})
        raise ValueError(
            f"Labels must be of one kind; got {', '.join(kinds)}. np.array(y, dtype=str) makes all "
            "of them strings."
        )


def _check_classes(clf, classes: np.ndarray, labels: np.ndarray) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"{type(clf).__name__} needs images of at least two classes; y holds one class only: "
            f"{classes[0]}."
        )
    rare = classes[np.bincount(labels) < 2]
    if len(rare):
        shown = ", ".join(map(str, rare[:5])) + (", ..." if len(rare) > 5 else "")
        raise ValueError(
            "Each class needs at least 2 images, one to train the weights and one to train the "
            f"architecture; {counted(len(rare), 'class has', 'classes have')} 1: {shown}. Add "
            "images, or leave what is so rare out."
        )
    _check_what_is_left(clf.holdout_fraction, classes, labels)


def _check_what_is_left(fraction: float, classes: np.ndarray, labels: np.ndarray) -> None:
    """Refuse to hold so many images out that a class would have fewer than two left."""
    counts = np.bincount(labels)
    left = counts - np.maximum(np.rint(fraction * counts), 1)
    if fraction and left.min() < 2:
        least = left.argmin()
        raise ValueError(
            f"holdout_fraction={fraction} leaves fewer than 2 images of class {classes[least]}, "
            f"which has {counted(counts[least], 'image')}. Hold a smaller share out, or none with "
            "holdout_fraction=0."
        )


def _weights_by_position(
    class_weight: dict | str | None, classes: np.ndarray
) -> dict[int, float] | str | None:
    if not isinstance(class_weight, dict):
        return class_weight
    position = {label: index for index, label in enumerate(classes.tolist())}
    unknown = [label for label in class_weight if label not in position]
    if unknown:
        raise ValueError(f"class_weight names classes that y does not hold: {unknown}.")
    for label, weight in class_weight.items():
        # Losses are sums of these in float32; what is out of its range is no learning rate's fault.
        if not isinstance(weight, numbers.Real) or not 1e-30 < float(weight) < 1e30:
            raise ValueError(
                f"class_weight[{label!r}] must be a positive number, of at most 1e30; got "
                f"{weight!r}."
            )
    return {position[label]: float(weight) for label, weight in class_weight.items()}


def read_new_images(clf: Any, X) -> ImageSet:
    """Read X as images like those that the classifier was fitted on.

    Arrays must have the shape of the arrays in ``fit``, or be their rows. Files and PIL images are
    resized, whatever ``fit`` saw, and so is everything if ``fit`` saw images of any size.

    Raises
    ------
    TypeError, ValueError
        If X is not that.
    """
    shape, name = clf.image_shape_, type(clf).__name__
    if looks_like_rows(X):
        if shape is not None:
            _refuse_one_image(_shape_of(X), shape)
            return as_image_set(validate_data(clf, X, reset=False), image_shape=shape)
        given = _shape_of(X)
        one_row = (1, given[1]) if len(given) == 2 and given[1] else None
        as_image_set(X, image_shape=one_row)  # has better words for what is not even rows
        raise ValueError(
            f"X holds rows of numbers, but {name} was fitted on images of any size. Pass images; "
            "if X is one grey image, X[None]."
        )
    if shape is None:
        images = as_image_set(X)
        if images.is_array:
            _refuse_one_image_of_any_size(_shape_of(X), clf.preprocessing_.channels)
        return images
    try:
        images = as_image_set(X, image_shape=shape)  # it may tell where the channels are
    except ValueError:
        images = as_image_set(X)  # has better words for what no shape could mend
        _refuse_one_image(_shape_of(X), shape)
        raise ValueError(
            f"X holds images of shape {images.native_shape}, but {name} was fitted on {shape}."
        ) from None
    if isinstance(images, UnequalImages):
        raise ValueError(f"X holds images of different sizes, but {name} was fitted on {shape}.")
    return images


def read_known_labels(clf: Any, y, n_images: int) -> np.ndarray:
    """Read y as the labels of images, each of a class that the classifier knows.

    Returns
    -------
    ndarray of shape (n_images,), int64
        Positions in ``clf.classes_``.

    Raises
    ------
    ValueError
        If they are not that.
    """
    labels, classes = np.asarray(y), clf.classes_
    if labels.shape != (n_images,):
        raise ValueError(
            f"y must have one label for each of the {n_images} images; it has shape {labels.shape}."
        )
    position = {label: place for place, label in enumerate(classes.tolist())}
    found = [position.get(label) for label in labels.tolist()]
    if None in found:
        unknown = list(dict.fromkeys(str(labels[i]) for i, p in enumerate(found) if p is None))
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        known = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
        raise ValueError(
            f"y has {counted(len(unknown), 'class', 'classes')} that the fit has not seen: "
            f"{shown}. It has seen {len(classes)}: {known}."
        )
    return np.array(found, dtype=np.int64)


def _shape_of(X) -> tuple[int, ...]:
    """Shape of an array, or of a list of arrays or numbers of one shape."""
    if isinstance(X, list | tuple):
        return (len(X), *np.shape(X[0])) if len(X) else (0,)
    return tuple(getattr(X, "shape", ()))


def _refuse_one_image(given: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    """Raise if X is an image of the fit's shape, where it is not an array of them."""
    height, width, channels = shape
    if given in (shape, (channels, height, width)) or (
        given == (height, width) and channels == 1 and height > 1
    ):
        raise ValueError(f"X is one image, of shape {given}. Pass X[None].")


def _refuse_one_image_of_any_size(given: tuple[int, ...], channels: int) -> None:
    """Raise if X is an image with channels, where it would be read as a stack of grey rows."""
    if len(given) != 3:
        return
    if given[2] in (1, 3, 4, channels):
        raise ValueError(
            f"X is one image, of shape {given}. Pass X[None], or X[..., None] if it holds "
            f"{given[0]} grey images."
        )
    if given[0] == channels > 1:
        raise ValueError(
            f"X is one image with its channels first, of shape {given}, or {channels} grey images. "
            "Pass X[None] or X[..., None]."
        )
