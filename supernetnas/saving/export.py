"""A fitted classifier as one file that predicts without this package: for ONNX, or for torch.

The file goes from pixels, as Pillow and NumPy have them, to probabilities: standardisation,
network and softmax are inside. What has to be done to an image before, and the names of the
classes, stand in a JSON file beside it and in the file itself.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ..families.base import get_family
from ..fitting.validation import read_new_images
from ..images.augmentation import scale_and_offset
from ..images.preprocessing import Preprocessing
from ..images.sets import ImageSet
from ..parameters import OneOf, check_parameter
from ..storage.destinations import check_file, user_path, write_files
from ..storage.files import FileError, read_bytes
from ..storage.formats import dump_json, parse_json
from ..training.surroundings import own_surroundings
from ..version import __version__
from .quantising import onnx_session, quantised

__all__ = ["ENDINGS", "Deployed", "ExportMixin", "Exported"]

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
"""What the files of each format end in."""

_INPUT, _OUTPUT = "pixels", "probabilities"
_TOLERANCE = 1e-4  # between probabilities of two runtimes
_MOST_CALIBRATION = 256  # images
_BATCH = 64
_MAX_DESCRIPTION = 64 * 2**20
_MODES = {(True, 1): "L", (True, 3): "RGB", (False, 1): "F"}  # of Pillow


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    path : pathlib.Path
        From pixels to probabilities.
    description : pathlib.Path
        JSON: what has to be done to an image before, and the names of the classes.
    int8_path : pathlib.Path or None
        The same in integers of 8 bits, where there were images to calibrate it.
    agreement : float or None
        Share of these images that both give the same class.
    accuracy, int8_accuracy : float or None
        Share of these images that each gives their own class, where that was told.
    """

    path: Path
    description: Path
    int8_path: Path | None = None
    agreement: float | None = None
    accuracy: float | None = None
    int8_accuracy: float | None = None


class Deployed(nn.Module):
    """From pixels of shape (n, height, width, channels) to the probabilities of the classes.

    Parameters
    ----------
    network : torch.nn.Module
        From standardised images to class scores; in evaluation mode.
    preprocessing : Preprocessing
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        scale, offset = scale_and_offset(
            torch.tensor(preprocessing.mean, dtype=torch.float64),
            torch.tensor(preprocessing.std, dtype=torch.float64),
            255.0 if preprocessing.eight_bit else 1.0,
        )
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities of shape (n, n_classes)."""
        images = pixels.float() * self.scale + self.offset
        return self.network(images.permute(0, 3, 1, 2)).softmax(dim=1)


class ExportMixin(BaseEstimator):
    """Exporting a fitted `SupernetTransferClassifier`."""

    @own_surroundings()
    def export(
        self, path: str | os.PathLike, format: str = "onnx", *, calibration=None, labels=None
    ) -> Exported:
        """Write the network as a file that predicts without this package.

        It takes pixels of shape (n, height, width, channels), for any n, and gives probabilities of
        shape (n, n_classes). A JSON file beside it says how images become such pixels, and names
        the classes; the same is in the file itself. Batch norms are folded. Before anything is
        written, the file is run and compared with the network.

        Parameters
        ----------
        path : path
            Of the file, which ends in ``.onnx`` or, for torch, ``.pt2``. It is replaced, as are the
            files beside it: ``.json`` and, with `calibration`, ``.int8.onnx``.
        format : {"onnx", "torch"}, default="onnx"
            "onnx" needs the extra ``onnx``; "torch" is what ``torch.export.load(path).module()``
            reads.
        calibration : array-like or sequence of images, optional
            Some hundred images like those to come, such as those of the fit. With them, a second
            ONNX file is written, whose convolutions compute in integers of 8 bits.
        labels : array-like of shape (n,), optional
            Classes of these images, to compare the accuracies of the two files on all of them. At
            most 256 of the images, evenly spaced, are what the integers are calibrated with.

        Returns
        -------
        Exported
            The paths, and how well the file in integers does.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ImportError
            If a library is missing; names the extra.
        ValueError
            If the path ends otherwise, or the images or labels do not suit.
        FileError
            If the system refuses to write.
        RuntimeError
            If the exported file does not predict what the network predicts.
        """
        check_is_fitted(self)
        check_parameter("export()", "format", format, OneOf(*ENDINGS))
        path = user_path(path)
        if path.suffix != ENDINGS[format]:
            raise ValueError(
                f"A file for {format} ends in {ENDINGS[format]}; got {os.fspath(path)!r}."
            )
        if calibration is None and labels is not None:
            raise ValueError("labels are those of the images in calibration; pass these, too.")
        if calibration is not None and format != "onnx":
            raise ValueError("Only ONNX files are made for integers; use format='onnx'.")
        described, int8 = path.with_suffix(".json"), path.with_suffix(".int8.onnx")
        for file in (path, described, *([] if calibration is None else [int8])):
            _check_file(file)
        _check_description(described)
        images = None if calibration is None else read_new_images(self, calibration)
        answers = None
        if images is not None and labels is not None:
            answers = _positions(labels, self.classes_, len(images))
        about = _about(self, format)
        module = Deployed(self._folded_copy(), self.preprocessing_).eval()
        sample = _sample(self.preprocessing_)
        make = {"onnx": _onnx_bytes, "torch": _torch_bytes}[format]
        with torch.no_grad(), _quiet():
            data = make(module, sample, about)
            _compare(module, sample, _runner(data, format))
        files = {path: data}
        report: dict[str, float] = {}
        if images is not None:
            chosen = np.unique(
                np.linspace(0, len(images) - 1, min(_MOST_CALIBRATION, len(images))).astype(int)
            )
            calibrating = _pixels(self.preprocessing_, images.take(chosen))
            small = quantised(data, _INPUT, calibrating, {**about, "precision": "int8"})
            report = _judged(data, small, self.preprocessing_, images, answers)
            files[int8] = small
        files[described] = dump_json({**about, **report})
        write_files(files)
        return Exported(path, described, None if images is None else int8, **report)

    def _folded_copy(self) -> nn.Module:
        """Return the network as it is exported: its own, on the CPU, with dense tensors."""
        network = copy.deepcopy(self.network_).cpu().eval()
        network = get_family(self.family_).folded(network).requires_grad_(False)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.contiguous()
        return network


def _check_file(path: Path) -> None:
    try:
        check_file(path, "export")
    except OSError as error:
        raise FileError(str(error)) from error


def _check_description(path: Path) -> None:
    """Refuse to replace a JSON file that is something else, which has the name by accident."""
    if not path.exists():
        return
    try:
        found = parse_json(read_bytes(path, limit=_MAX_DESCRIPTION), name=str(path))
    except FileError:
        found = None
    if not isinstance(found, dict) or "supernetnas" not in found:
        raise FileError(
            f"{path} is there already and does not describe an exported classifier. Choose "
            "another name."
        )


def _about(clf: Any, format: str) -> dict[str, Any]:
    """What whoever runs the file has to know."""
    seen: Preprocessing = clf.preprocessing_
    height, width = seen.image_size
    return {
        "format": format,
        "classes": clf.classes_.tolist(),
        "input": {
            "name": _INPUT,
            "shape": ["n", height, width, seen.channels],
            "dtype": "uint8" if seen.eight_bit else "float32",
            "value_range": list(seen.value_range),
        },
        "output": {"name": _OUTPUT, "shape": ["n", len(clf.classes_)], "dtype": "float32"},
        "image": {
            "size": [height, width],
            "mode": _MODES.get((seen.eight_bit, seen.channels)),
            "orientation": "as EXIF says",
            "transparency": "on white",
            "resize": seen.resize,
            "filter": "bilinear, with antialiasing",
            "draft": [2 * max(height, width)] * 2,
        },
        "architecture": str(clf.architecture_),
        "n_parameters": clf.n_parameters_,
        "n_macs": clf.n_macs_,
        "supernetnas": __version__,
    }


def _sample(preprocessing: Preprocessing) -> Tensor:
    """Pixels of three images that a network may see."""
    generator = torch.Generator().manual_seed(0)
    shape = 3, *preprocessing.image_size, preprocessing.channels
    low, high = preprocessing.value_range
    pixels = low + (high - low) * torch.rand(shape, generator=generator)
    return pixels.round().to(torch.uint8) if preprocessing.eight_bit else pixels


def _program(module: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    """Trace a module for any number of images."""
    program = torch.export.export(
        module, (sample,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
    )
    for node in program.graph.nodes:  # paths of the files on this machine are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def _onnx_bytes(module: nn.Module, sample: Tensor, about: dict[str, Any]) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (better missed now than after the work)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "An export to ONNX needs onnx, onnxruntime and onnxscript. Install them with: pip "
            'install "supernetnas[onnx]"'
        ) from error
    exported = torch.onnx.export(
        _program(module, sample),
        dynamo=True,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        verbose=False,
    )
    assert exported is not None
    proto = exported.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in about.items()})
    return proto.SerializeToString()


def _torch_bytes(module: nn.Module, sample: Tensor, about: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(
        _program(module, sample), buffer, extra_files={"about.json": json.dumps(about)}
    )
    return buffer.getvalue()


def _runner(data: bytes, format: str) -> Any:
    """Return a function from pixels to probabilities that runs an exported file."""
    if format == "onnx":
        session = onnx_session(data)
        return lambda pixels: session.run([_OUTPUT], {_INPUT: pixels})[0]
    loaded = torch.export.load(io.BytesIO(data)).module()
    return lambda pixels: loaded(torch.from_numpy(pixels)).numpy()


def _compare(module: nn.Module, sample: Tensor, run: Any) -> None:
    """Raise RuntimeError unless an exported file gives what the module gives."""
    for n in (1, len(sample)):
        expected, found = module(sample[:n]).numpy(), run(sample[:n].numpy())
        if found.shape != expected.shape or not np.allclose(found, expected, atol=_TOLERANCE):
            raise RuntimeError(
                "The exported file does not predict what the network predicts, by up to "
                f"{np.abs(found - expected).max():.2g} in a probability. Nothing was written. "
                f"Please report this with the versions of torch ({torch.__version__}) and of "
                "onnxruntime."
            )


def _pixels(preprocessing: Preprocessing, images: ImageSet) -> Iterator[np.ndarray]:
    """Yield batches of pixels as an exported file takes them."""
    for block in preprocessing.pixels(images):
        for part in block.split(_BATCH):
            yield part.permute(0, 2, 3, 1).contiguous().numpy()


def _judged(
    data: bytes,
    small: bytes,
    preprocessing: Preprocessing,
    images: ImageSet,
    answers: np.ndarray | None,
) -> dict[str, float]:
    """Compare the file in integers with the other, on all images."""
    run, run_small = (_runner(file, "onnx") for file in (data, small))
    found, found_small = (
        np.concatenate(parts)
        for parts in zip(
            *(
                (run(batch).argmax(1), run_small(batch).argmax(1))
                for batch in _pixels(preprocessing, images)
            ),
            strict=True,
        )
    )
    report = {"agreement": float((found == found_small).mean())}
    if answers is not None:
        report["accuracy"] = float((found == answers).mean())
        report["int8_accuracy"] = float((found_small == answers).mean())
    return report


def _positions(labels, classes: np.ndarray, n_images: int) -> np.ndarray:
    """Positions of labels in the classes of a fit."""
    position = {label: index for index, label in enumerate(classes.tolist())}
    labels = np.asarray(labels)
    if labels.shape != (n_images,):
        raise ValueError(f"labels must be {n_images}, one for each image; got {labels.shape}.")
    unknown = sorted({str(label) for label in labels.tolist() if label not in position})
    if unknown:
        raise ValueError(f"labels has classes that the fit had not: {', '.join(unknown[:5])}.")
    return np.array([position[label] for label in labels.tolist()])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter tells of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Of torch's own calls to its pytrees.
            warnings.filterwarnings("ignore", message=".*treespec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
