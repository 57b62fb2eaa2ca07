"""A fitted classifier as a folder: safetensors and JSON, nothing that runs when it is read.

``config.json`` holds parameters, fitted attributes and the sha256 of the other files;
``model.safetensors`` the network, ``supernet.safetensors`` the searched supernet; ``README.md`` is a
model card.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .augmentation import Augmentation
from .files import (
    FileError,
    TensorSpec,
    dump_json,
    dump_safetensors,
    parse_safetensors,
    plain,
    read_bytes,
    read_json,
    sync_folder,
    temporary_beside,
    write_new,
)
from .network import Network, NetworkConfig
from .spaces.genotype import Genotype
from .supernets.cell import SupernetConfig

__all__ = ["PretrainedMixin", "available_device", "build_network", "resolve_device"]

FORMAT_VERSION = 1
CONFIG, MODEL, SUPERNET, CARD = "config.json", "model.safetensors", "supernet.safetensors", "README.md"
_MAX_CONFIG = 64 * 2**20
_MAX_TENSORS = 8 * 2**30


def resolve_device(device: str) -> torch.device:
    """Turn a parameter into a device; ValueError if it is not there.

    Parameters
    ----------
    device : str
        "auto" is the first NVIDIA GPU, or the CPU without one.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not a device; use 'auto', 'cpu' or 'cuda'.") from error
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device={device!r} was asked for, but torch finds no CUDA GPU. "
                "Use device='auto' or 'cpu'."
            )
        if (resolved.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device={device!r} does not exist; there are {torch.cuda.device_count()} GPUs."
            )
    return resolved


def available_device(device: str) -> str:
    """Return ``device`` if it is there, else "cpu" with a warning."""
    try:
        return str(resolve_device(device))
    except ValueError:
        warnings.warn(
            f"The classifier was fitted on {device!r}, which is not here; it predicts on the CPU.",
            UserWarning,
            stacklevel=3,
        )
        return "cpu"


def build_network(config: Mapping[str, Any], state: Mapping[str, np.ndarray], device: str) -> Network:
    """Rebuild a trained network from plain data, in evaluation mode."""
    with torch.device("meta"):
        network = Network(NetworkConfig.from_dict(dict(config)))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(True)
    return network.to(device, memory_format=torch.channels_last).eval()


class PretrainedMixin:
    """Saving to and loading from a folder, for `SupernetTransferClassifier`."""

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write the fitted classifier to a folder.

        Parameters
        ----------
        folder : path
            Created, or replaced as a whole if it holds a saved classifier.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        FileError
            If the folder exists and holds something else.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        folder = Path(os.path.abspath(folder))
        names = {CONFIG, MODEL, SUPERNET, CARD}
        if folder.exists():
            strangers = (
                sorted({p.name for p in folder.iterdir()} - names) if folder.is_dir() else [""]
            )
            if strangers:
                raise FileError(
                    f"{folder} is not a saved classifier (it holds {strangers[0]!r}); choose "
                    "another folder."
                )
        network = {k: v.detach().cpu().numpy() for k, v in self.network_.state_dict().items()}
        contents = {
            MODEL: dump_safetensors(network, {"format": "pt"}),
            SUPERNET: dump_safetensors(self.supernet_state_, {"format": "pt"}),
            CARD: _card(self).encode(),
        }
        hashes = {name: hashlib.sha256(contents[name]).hexdigest() for name in (MODEL, SUPERNET)}
        contents[CONFIG] = dump_json(
            {
                "format_version": FORMAT_VERSION,
                "class": type(self).__name__,
                "supernetnas_version": __version__,
                "sha256": hashes,
                "parameters": _encode_parameters(self.get_params(deep=False)),
                "fitted": _encode_fitted(self),
            }
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(folder)
        try:
            temporary.mkdir()
            for name, data in contents.items():
                write_new(temporary / name, data)
            if folder.exists():
                old = temporary_beside(folder)
                os.rename(folder, old)
                os.rename(temporary, folder)
                shutil.rmtree(old)
            else:
                os.rename(temporary, folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, *, device: str = "auto"):
        """Load what `save_pretrained` wrote.

        Parameters
        ----------
        folder : path
        device : str, default="auto"
            Where to predict.

        Returns
        -------
        SupernetTransferClassifier
            Fitted; it predicts what the saved one did.

        Raises
        ------
        FileError
            If a file is missing, was changed, or is of a newer format.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise FileError(f"{folder} is not a saved classifier: it has no {CONFIG}.")
        config = read_json(folder / CONFIG, limit=_MAX_CONFIG)
        version = config.get("format_version") if isinstance(config, dict) else None
        if version != FORMAT_VERSION:
            raise FileError(
                f"{folder / CONFIG} has format version {version!r}; this supernetnas reads "
                f"{FORMAT_VERSION}. Upgrade supernetnas if the file is newer."
            )
        try:
            clf = cls(**_decode_parameters(config["parameters"]))
            _decode_fitted(clf, config["fitted"])
            network_config = config["fitted"]["network"]
            hashes = {name: str(config["sha256"][name]) for name in (MODEL, SUPERNET)}
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{folder / CONFIG} does not describe a classifier: {error}.") from error
        with torch.device("meta"):
            expected = Network(NetworkConfig.from_dict(network_config)).state_dict()
        network = _read_tensors(folder / MODEL, hashes[MODEL], _specs(expected))
        clf.supernet_state_ = _read_tensors(folder / SUPERNET, hashes[SUPERNET], None)
        clf.device_ = str(resolve_device(device))
        clf.network_ = build_network(network_config, network, clf.device_)
        return clf


def _specs(state: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            tuple(tensor.shape), ("float32",) if tensor.is_floating_point() else ("int64",)
        )
        for name, tensor in state.items()
    }


def _read_tensors(
    path: Path, sha256: str, expected: Mapping[str, TensorSpec] | None
) -> dict[str, np.ndarray]:
    data = read_bytes(path, limit=_MAX_TENSORS)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FileError(f"{path} was changed after it was saved. Take it again from its origin.")
    return parse_safetensors(data, name=str(path), expected=expected)[0]


def _encode_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn parameters into JSON; what cannot be is left at its default, with a warning."""
    encoded = {}
    for name, value in parameters.items():
        if isinstance(value, Augmentation):
            value = {"augmentation": value.to_dict()}
        elif name == "class_weight" and isinstance(value, dict):
            value = {"items": [[plain(k), plain(v)] for k, v in value.items()]}
        elif name == "zoo" and hasattr(value, "folder"):
            value = value.folder
        try:
            encoded[name] = plain(value)
        except TypeError:
            warnings.warn(
                f"Parameter {name}={value!r:.80} cannot be saved; the loaded classifier has its "
                "default instead.",
                UserWarning,
                stacklevel=3,
            )
    return encoded


def _decode_parameters(encoded: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {}
    for name, value in encoded.items():
        if isinstance(value, dict) and "augmentation" in value:
            value = Augmentation.from_dict(value["augmentation"])
        elif isinstance(value, dict) and "items" in value:
            value = {k: v for k, v in value["items"]}
        elif isinstance(value, list):
            value = tuple(value)
        parameters[name] = value
    return parameters


def _encode_fitted(clf) -> dict[str, Any]:
    read = clf._read
    return {
        "classes": {"dtype": clf.classes_.dtype.str, "values": clf.classes_.tolist()},
        "n_features_in": getattr(clf, "n_features_in_", None),
        "feature_names_in": (
            clf.feature_names_in_.tolist() if hasattr(clf, "feature_names_in_") else None
        ),
        "image_shape": clf.image_shape_,
        "image_size": clf.image_size_,
        "read": {**read, "mean": read["mean"].tolist(), "std": read["std"].tolist()},
        "source": clf.source_,
        "distances": clf.distances_,
        "genotype": clf.genotype_.to_dict(),
        "network": clf.network_.config.to_dict(),
        "supernet": clf.supernet_config_.to_dict(),
        "history": clf.history_,
        "inherited": clf.inherited_,
        "n_parameters": clf.n_parameters_,
        "n_macs": clf.n_macs_,
    }


def _decode_fitted(clf, fitted: Mapping[str, Any]) -> None:
    dtype = np.dtype(fitted["classes"]["dtype"])
    clf.classes_ = np.array(fitted["classes"]["values"], dtype=dtype)
    if fitted["n_features_in"] is not None:
        clf.n_features_in_ = int(fitted["n_features_in"])
    if fitted["feature_names_in"] is not None:
        clf.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
    shape = fitted["image_shape"]
    clf.image_shape_ = None if shape is None else tuple(int(n) for n in shape)
    clf.image_size_ = tuple(int(n) for n in fitted["image_size"])
    read = dict(fitted["read"])
    read["mean"], read["std"] = (np.array(read[k], dtype=np.float32) for k in ("mean", "std"))
    clf._read = read
    clf.source_, clf.distances_ = fitted["source"], fitted["distances"]
    clf.genotype_ = Genotype.from_dict(fitted["genotype"])
    clf.supernet_config_ = SupernetConfig.from_dict(fitted["supernet"])
    clf.history_ = fitted["history"]
    clf.inherited_ = fitted["inherited"]
    clf.n_parameters_, clf.n_macs_ = fitted["n_parameters"], fitted["n_macs"]


def _card(clf) -> str:
    """Model card of a fitted classifier."""
    classes = ", ".join(str(c) for c in clf.classes_[:10])
    more = ", ..." if len(clf.classes_) > 10 else ""
    height, width = clf.image_size_
    return f"""---
library_name: supernetnas
pipeline_tag: image-classification
tags:
- supernetnas
- neural-architecture-search
- image-classification
---

# Image classifier found by supernet transfer

A convolutional network whose architecture was searched for its data with
`supernetnas.SupernetTransferClassifier`, starting from the pretrained supernet `{clf.source_}`.

| | |
|---|---|
| classes | {len(clf.classes_)}: {classes}{more} |
| input | {height} x {width} pixels, {clf._read["channels"]} channel(s) |
| parameters | {clf.n_parameters_:,} |
| multiply-accumulates per image | {clf.n_macs_:,} |
| search space | {clf.genotype_.space} |

```python
from supernetnas import SupernetTransferClassifier

clf = SupernetTransferClassifier.from_pretrained("path/to/this/folder")
clf.predict(images)
```
"""
