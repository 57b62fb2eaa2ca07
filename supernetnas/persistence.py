"""A fitted classifier as a folder of safetensors and JSON, or as a pickle.

A folder holds nothing that runs when it is read: ``config.json`` has the parameters, the fitted
attributes and the SHA-256 of the other files; ``model.safetensors`` the network;
``supernet.safetensors`` the searched supernet; ``README.md`` is a model card. A pickle holds plain
values and NumPy arrays instead of torch modules, so it needs no GPU to be read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from . import __version__
from .devices import available_device, resolve_device
from .files import (
    FileError,
    TensorSpec,
    dump_json,
    dump_safetensors,
    parse_safetensors,
    read_bytes,
    read_json,
    sync_folder,
    temporary_beside,
    write_new,
)
from .network import Network, NetworkConfig
from .parameter_values import decode_parameters, encode_parameters
from .preprocessing import Preprocessing
from .spaces.genotype import Genotype
from .supernets.cell import CellSupernet, SupernetConfig

__all__ = ["PersistenceMixin"]

FORMAT_VERSION = 1
CONFIG, MODEL, SUPERNET = "config.json", "model.safetensors", "supernet.safetensors"
CARD = "README.md"
_MAX_CONFIG = 64 * 2**20
_MAX_TENSORS = 8 * 2**30
_MAX_LABEL = 2**16  # bytes of one label


class PersistenceMixin:
    """Saving to and loading from a folder, and pickling, for `SupernetTransferClassifier`."""

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write the fitted classifier to a folder.

        The folder appears complete or not at all; one that is replaced stays until then. A
        parameter that JSON cannot hold, such as a callable embedder, is left out with a warning.

        Parameters
        ----------
        folder : path
            Made, or replaced as a whole if it holds a saved classifier.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        TypeError
            If labels are of a kind that JSON cannot hold.
        FileError
            If the folder holds anything else.
        """
        check_is_fitted(self)
        folder = Path(folder).expanduser().resolve()
        check_destination(folder)
        network = {k: v.detach().cpu().numpy() for k, v in self.network_.state_dict().items()}
        contents = {
            MODEL: dump_safetensors(network, {"format": "pt"}),
            SUPERNET: dump_safetensors(self.supernet_state_, {"format": "pt"}),
        }
        config = {
            "library_name": "supernetnas",
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "supernetnas_version": __version__,
            "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
            "parameters": encode_parameters(self.get_params(deep=False)),
            "fitted": _encode_fitted(self),
        }
        contents |= {CONFIG: dump_json(config), CARD: _card(self).encode()}
        _install(folder, contents)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, *, device: str = "auto"):
        """Load what `save_pretrained` wrote.

        Parameters
        ----------
        folder : path
        device : str, default="auto"
            Where to predict. The parameter ``device`` stays what it was.

        Returns
        -------
        SupernetTransferClassifier
            Fitted; it predicts what the saved one did.

        Raises
        ------
        FileError
            If a file is missing, was changed, is of a newer format or describes something else.
        ValueError
            If the device is not there.
        """
        folder, device = Path(folder).expanduser(), str(resolve_device(device))
        config = _read_config(folder, cls.__name__)
        try:
            clf = cls(**decode_parameters(config["parameters"]))
            fitted, hashes = config["fitted"], config["sha256"]
            network_config = NetworkConfig.from_dict(fitted["network"])
            supernet_config = SupernetConfig.from_dict(fitted["supernet"])
            attributes = _decode_fitted(fitted)
            with torch.device("meta"):
                network = Network(network_config).state_dict()
                supernet = CellSupernet(supernet_config).state_dict()
            hash_of_network, hash_of_supernet = str(hashes[MODEL]), str(hashes[SUPERNET])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{folder / CONFIG} does not describe a {cls.__name__} of this version: {error!r}."
            ) from error
        supernet = {k: v for k, v in supernet.items() if not k.startswith("classifier.")}
        tensors = _read_tensors(folder / MODEL, hash_of_network, network)
        attributes |= {
            "supernet_config_": supernet_config,
            "supernet_state_": _read_tensors(folder / SUPERNET, hash_of_supernet, supernet),
            "network_": _build_network(network_config, tensors, device),
            "device_": device,
        }
        vars(clf).update(attributes)
        return clf

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if isinstance(state.get("network_"), Network):
            network = state["network_"]
            state["network_"] = {
                "config": network.config.to_dict(),
                "state": {k: v.cpu().numpy() for k, v in network.state_dict().items()},
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if isinstance(packed := state.get("network_"), dict):
            state["device_"] = available_device(state["device_"])
            config = NetworkConfig.from_dict(packed["config"])
            state["network_"] = _build_network(config, packed["state"], state["device_"])
        super().__setstate__(state)


def _build_network(config: NetworkConfig, state: Mapping[str, np.ndarray], device: str) -> Network:
    """Rebuild a trained network, in evaluation mode; draws no random number."""
    with torch.device("meta"):
        network = Network(config)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(True)
    return network.to(device, memory_format=torch.channels_last).eval()


# Files


def check_destination(folder: Path) -> None:
    """Raise FileError unless the folder is free for a classifier."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileError(f"{folder} is a file, not a folder.")
    names = {path.name for path in folder.iterdir()}
    strangers = sorted(names - {CONFIG, MODEL, SUPERNET, CARD})
    if not strangers and names and not _looks_saved(folder):
        strangers = sorted(names)
    if strangers:
        raise FileError(
            f"{folder} holds {strangers[0]!r}, which is not of a saved classifier. Choose another "
            "folder."
        )


def _looks_saved(folder: Path) -> bool:
    try:
        config = read_json(folder / CONFIG, limit=_MAX_CONFIG)
    except FileError:
        return False
    return isinstance(config, dict) and config.get("library_name") == "supernetnas"


def _install(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a new folder beside, and put it in the place of ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_beside(folder), temporary_beside(folder)
    try:
        temporary.mkdir()
        for name, data in contents.items():
            write_new(temporary / name, data)
        sync_folder(temporary)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _read_config(folder: Path, class_name: str) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileError(f"{folder} is not a saved classifier: it has no {CONFIG}.")
    config = read_json(folder / CONFIG, limit=_MAX_CONFIG)
    if not isinstance(config, dict) or config.get("class") != class_name:
        raise FileError(f"{folder / CONFIG} does not describe a {class_name}.")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise FileError(
            f"{folder / CONFIG} has format version {version!r}; this supernetnas reads "
            f"{FORMAT_VERSION}. Upgrade supernetnas if the file is newer."
        )
    return config


def _read_tensors(
    path: Path, sha256: str, expected: Mapping[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """Read tensors that must be of the names, shapes and dtypes of a state dict."""
    data = read_bytes(path, limit=_MAX_TENSORS)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FileError(
            f"{path} is not the file that was saved: its SHA-256 is not that in {CONFIG}. Take it "
            "again from where it came from."
        )
    specs = {
        name: TensorSpec(tuple(tensor.shape), (str(tensor.dtype).removeprefix("torch."),))
        for name, tensor in expected.items()
    }
    return parse_safetensors(data, name=str(path), expected=specs)[0]


# Fitted attributes


def _encode_fitted(clf) -> dict[str, Any]:
    names = getattr(clf, "feature_names_in_", None)
    return {
        "classes": {"dtype": clf.classes_.dtype.str, "values": clf.classes_.tolist()},
        "n_features_in": getattr(clf, "n_features_in_", None),
        "feature_names_in": None if names is None else names.tolist(),
        "image_shape": clf.image_shape_,
        "preprocessing": clf.preprocessing_.to_dict(),
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


def _decode_fitted(fitted: Mapping[str, Any]) -> dict[str, Any]:
    shape = fitted["image_shape"]
    preprocessing = Preprocessing.from_dict(fitted["preprocessing"])
    attributes = {
        "classes_": _decode_classes(**fitted["classes"]),
        "image_shape_": None if shape is None else tuple(int(n) for n in shape),
        "image_size_": preprocessing.image_size,
        "preprocessing_": preprocessing,
        "source_": str(fitted["source"]),
        "distances_": None if fitted["distances"] is None else dict(fitted["distances"]),
        "genotype_": Genotype.from_dict(fitted["genotype"]),
        "history_": [dict(row) for row in fitted["history"]],
        "inherited_": float(fitted["inherited"]),
        "n_parameters_": int(fitted["n_parameters"]),
        "n_macs_": int(fitted["n_macs"]),
    }
    if fitted["n_features_in"] is not None:
        attributes["n_features_in_"] = int(fitted["n_features_in"])
    if fitted["feature_names_in"] is not None:
        attributes["feature_names_in_"] = np.array(fitted["feature_names_in"], dtype=object)
    return attributes


def _decode_classes(dtype: str, values: list) -> np.ndarray:
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufUO" or dtype.itemsize > _MAX_LABEL:
        raise ValueError(f"labels of dtype {dtype}")
    return np.array(values, dtype=dtype)


def _card(clf) -> str:
    """Model card of a fitted classifier."""
    classes = ", ".join(str(c) for c in clf.classes_[:10])
    more = ", ..." if len(clf.classes_) > 10 else ""
    height, width = clf.image_size_
    start = "random weights"
    if clf.source_ != "scratch":
        start = f"the pretrained supernet `{clf.source_}`"
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
`supernetnas.SupernetTransferClassifier`, starting from {start}.

| | |
|---|---|
| classes | {len(clf.classes_)}: {classes}{more} |
| input | {height} x {width} pixels, {clf.preprocessing_.channels} channel(s) |
| parameters | {clf.n_parameters_:,} |
| multiply-accumulates per image | {clf.n_macs_:,} |
| search space | {clf.genotype_.space} |

```python
from supernetnas import SupernetTransferClassifier

clf = SupernetTransferClassifier.from_pretrained("path/to/this/folder")
clf.predict(images)
```
"""
