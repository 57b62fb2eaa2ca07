"""A fitted classifier as a folder of safetensors and JSON, or as a pickle.

A folder holds nothing that runs when it is read: ``config.json`` has the parameters, the fitted
attributes and the SHA-256 of the other files; ``model.safetensors`` the network;
``supernet.safetensors`` the searched supernet; ``signature.safetensors`` the signature of the
images, if there is one; ``README.md`` is a model card. A repository on the Hugging Face Hub holds
the same. A pickle holds plain values and NumPy arrays instead of torch modules, so it needs no GPU
to be read.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from . import __version__
from .cost import count_macs, count_parameters
from .devices import available_device, placed, resolve_device
from .files import (
    MAX_HEADER,
    FileError,
    TensorSpec,
    dump_json,
    dump_safetensors,
    parse_json,
    parse_safetensors,
    read_bytes,
    read_json,
    sync_folder,
    temporary_beside,
    write_new,
)
from .fitted_checks import check_fitted, decode_labels
from .hub import HubRepository, check_address, hub_address
from .model_card import model_card
from .network import Network, NetworkConfig
from .parameter_values import decode_parameters, encode_parameters
from .preprocessing import Preprocessing
from .signature import DatasetSignature
from .spaces.genotype import Genotype
from .stored_states import check_values, network_specs, supernet_specs
from .supernets.cell import SupernetConfig

if TYPE_CHECKING:
    from .hub_target import Pushed

__all__ = ["PersistenceMixin"]

FORMAT_VERSION = 1
CONFIG, MODEL, SUPERNET = "config.json", "model.safetensors", "supernet.safetensors"
SIGNATURE, CARD = "signature.safetensors", "README.md"
_FILES = {CONFIG, MODEL, SUPERNET, SIGNATURE, CARD}
_MAX_CONFIG = 64 * 2**20
_MAX_TENSORS = 8 * 2**30
_MAX_SIGNATURE = 256 * 2**20


class PersistenceMixin(BaseEstimator):
    """Saving to and loading from a folder, and pickling, for `SupernetTransferClassifier`."""

    def save_pretrained(
        self, folder: str | os.PathLike, *, card: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the fitted classifier to a folder.

        The folder appears complete or not at all; one that is replaced stays until then. A
        parameter that JSON cannot hold, such as a callable embedder, is left out with a warning.
        Paths of this machine are left out, too: ``checkpoint_dir``, and a ``zoo`` other than
        "builtin".

        Parameters
        ----------
        folder : path
            Made, or replaced as a whole if it holds a saved classifier.
        card : mapping, optional
            What the model card is to say: ``title``, ``description``, ``dataset`` (title of the
            images), ``dataset_id`` (their name on the Hub), ``licence`` (of the model) and
            ``metrics`` (numbers by name, such as ``{"accuracy": 0.97}``, measured by you on
            images that the fit has not seen).

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
        ValueError
            If the card has other keys, or the attributes are not what a fit leaves.
        FileError
            If the folder holds anything else.
        """
        check_is_fitted(self)
        folder = Path(folder).expanduser().resolve()
        check_destination(folder)
        parameters = self.get_params(deep=False)
        contents = _contents(self, parameters, signature=True)
        contents[CARD] = model_card(self, card or {}, "path/to/this/folder").encode()
        _install(folder, contents)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: Mapping[str, Any] | None = None,
        signature: bool = False,
        revision: str | None = None,
        create_pr: bool = False,
        private: bool | None = None,
        message: str | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Pushed:
        """Publish the fitted classifier on the Hugging Face Hub, in one commit.

        If the upload breaks off, call it again: what has arrived is not sent again. Parameters are
        left out as in `save_pretrained`.

        Parameters
        ----------
        repo_id : str
            ``"org/name"``; made if need be.
        card : mapping, optional
            As in `save_pretrained`.
        signature : bool
            Whether to publish the signature of the images as well, if there is one: statistics
            and a sample of their features, which are not anonymous.
        revision : str, optional
            Branch; by default "main".
        create_pr : bool
            Whether to propose the change in a pull request instead.
        private : bool, optional
            Of a repository that is made now.
        message : str, optional
            Of the commit.
        token : str or bool, optional
            By default the one that you have logged in with.
        endpoint : str, optional
            Address of another Hub.

        Returns
        -------
        Pushed
            With ``commit``, ``url`` and ``revision``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        FileError
            If the repository holds anything else.
        HubError
            If the Hub refuses or cannot be reached. What is there is as it was.
        """
        from .hub_target import Target

        check_is_fitted(self)
        parameters = self.get_params(deep=False)
        contents = _contents(self, parameters, signature=signature)
        contents[CARD] = model_card(self, card or {}, repo_id).encode()
        target = Target(
            repo_id,
            revision=revision,
            create_pr=create_pr,
            private=private,
            token=token,
            endpoint=endpoint,
        )
        parent = target.head()
        files = set(target.files(parent)) - {".gitattributes"}
        if CONFIG in files:
            path = target.repository(parent).fetch({CONFIG: _MAX_CONFIG})[CONFIG]
            ours = _looks_saved(path.parent)
        else:
            ours = files <= {CARD}
        if strangers := sorted(files - _FILES if ours else files):
            raise FileError(
                f"{repo_id} holds {strangers[0]!r}, which is not of a saved classifier. Choose "
                "another repository."
            )
        return target.commit(contents, files - contents.keys(), message or "Save model", parent)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        device: str = "auto",
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
        progress: bool = True,
    ):
        """Load what `save_pretrained` or `push_to_hub` wrote.

        No file decides what is read from or written to later: ``checkpoint_dir`` is None, and so is
        a ``zoo`` other than "builtin". Set them before another fit.

        Parameters
        ----------
        folder : path or str
            A folder, or ``"org/name"`` or ``"org/name@revision"`` on the Hugging Face Hub, told
            apart as in `Zoo.open`.
        device : str, default="auto"
            Where to predict. The parameter ``device`` stays what it was.
        revision, cache_dir, token, local_files_only, endpoint, progress
            For a repository, as in `Zoo.from_pretrained`.

        Returns
        -------
        SupernetTransferClassifier
            Fitted; it predicts what the saved one did.

        Raises
        ------
        FileError
            If a file is missing, was changed, is of a newer format or describes something else.
        HubError
            If a repository cannot be had.
        ValueError
            If the device is not there.
        """
        device = str(resolve_device(device))
        address = hub_address(folder)
        if revision is not None and address is None:
            raise ValueError(f"revision={revision!r} needs a repository; {folder!r} is a folder.")
        if address is None:
            files: _Files = _Files(Path(folder).expanduser())
        else:
            if revision is not None:
                address = check_address(address.repo_id, revision)
            repository, _ = HubRepository.at(
                address,
                CONFIG,
                _MAX_CONFIG,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                token=token,
                local_files_only=local_files_only,
                endpoint=endpoint,
                progress=progress,
            )
            files = _HubFiles(repository)
        config = _read_config(files, cls.__name__)
        try:
            clf = cls(**decode_parameters(config["parameters"]))
            fitted = config["fitted"]
            hashes = {file: str(digest) for file, digest in config["sha256"].items()}
            network_config = NetworkConfig.from_dict(fitted["network"])
            supernet_config = SupernetConfig.from_dict(fitted["supernet"])
            check_fitted(fitted, network_config, supernet_config)
            attributes = _decode_fitted(fitted)
            network, supernet = network_specs(network_config), supernet_specs(supernet_config)
            limits = {MODEL: _most_bytes(network), SUPERNET: _most_bytes(supernet)}
            if SIGNATURE in hashes:
                limits[SIGNATURE] = _MAX_SIGNATURE
            hashes = {file: hashes[file] for file in limits}
        except (
            AttributeError,
            KeyError,
            OverflowError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise FileError(
                f"{files.name(CONFIG)} does not describe a {cls.__name__} of this version: "
                f"{error!r:.300}."
            ) from error
        data = files.read(limits, hashes)
        tensors = _parse_tensors(data[MODEL], files.name(MODEL), network)
        _check_cost(attributes, network_config, files.name(CONFIG))
        attributes |= {
            "supernet_config_": supernet_config,
            "supernet_state_": _parse_tensors(data[SUPERNET], files.name(SUPERNET), supernet),
            "signature_": None,
            "network_": _build_network(network_config, tensors, device),
            "device_": device,
        }
        if SIGNATURE in data:
            attributes["signature_"] = _parse_signature(
                data[SIGNATURE], files.name(SIGNATURE), attributes["classes_"]
            )
        clf.__dict__.update(attributes)
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
    return placed(network, device).eval()


# Files


def check_destination(folder: Path) -> None:
    """Raise FileError unless the folder is free for a classifier."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileError(f"{folder} is a file, not a folder.")
    names = {path.name for path in folder.iterdir()}
    strangers = sorted(names - _FILES)
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


class _Files:
    """Files of a saved classifier in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, file: str) -> str:
        return str(self.folder / file)

    def config(self) -> bytes:
        if not self.folder.exists():
            raise FileError(f"There is no folder {self.folder}, and so no classifier in it.")
        if not (self.folder / CONFIG).is_file():
            raise FileError(f"{self.folder} is not a saved classifier: it has no {CONFIG}.")
        return read_bytes(self.folder / CONFIG, limit=_MAX_CONFIG)

    def read(self, limits: Mapping[str, int], hashes: Mapping[str, str]) -> dict[str, bytes]:
        """Read files of at most so many bytes, which must have these hashes."""
        data = {}
        for file, limit in limits.items():
            data[file] = read_bytes(self.folder / file, limit=limit)
            self._check(file, data[file], hashes)
        return data

    def _check(self, file: str, data: bytes, hashes: Mapping[str, str]) -> None:
        if hashlib.sha256(data).hexdigest() != hashes[file]:
            raise FileError(
                f"{self.name(file)} is not the file that was saved: its SHA-256 is not that in "
                f"{CONFIG}. Take it again from where it came from."
            )


class _HubFiles(_Files):
    """Files of a saved classifier in a repository."""

    def __init__(self, repository: HubRepository) -> None:
        self.repository = repository

    def name(self, file: str) -> str:
        return f"{self.repository.address}/{file}"

    def config(self) -> bytes:
        path = self.repository.fetch({CONFIG: _MAX_CONFIG})[CONFIG]
        return read_bytes(path, limit=_MAX_CONFIG)

    def read(self, limits: Mapping[str, int], hashes: Mapping[str, str]) -> dict[str, bytes]:
        data = {}
        for file, path in self.repository.fetch(limits).items():
            try:
                data[file] = read_bytes(path, limit=limits[file])
                self._check(file, data[file], hashes)
            except FileError:
                if self.repository.offline:
                    raise
                path = self.repository.fetch({file: limits[file]}, force=True)[file]
                data[file] = read_bytes(path, limit=limits[file])
                self._check(file, data[file], hashes)
        return data


def _contents(clf, parameters: Mapping[str, Any], *, signature: bool) -> dict[str, bytes]:
    """Return the files of a fitted classifier, without the card."""
    network = {k: v.detach().cpu().numpy() for k, v in clf.network_.state_dict().items()}
    contents = {
        MODEL: dump_safetensors(network, {"format": "pt"}),
        SUPERNET: dump_safetensors(clf.supernet_state_, {"format": "pt"}),
    }
    kept = getattr(clf, "signature_", None)  # a pickle of an earlier version has none
    if signature and kept is not None:
        contents[SIGNATURE] = dump_safetensors(kept.to_tensors(), kept.metadata())
    config = {
        "library_name": "supernetnas",
        "format_version": FORMAT_VERSION,
        "class": type(clf).__name__,
        "supernetnas_version": __version__,
        "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
        "parameters": encode_parameters(parameters),
        "fitted": _encode_fitted(clf),
    }
    contents = {CONFIG: dump_json(config), **contents}
    _check_readable(contents)
    return contents


def _check_readable(contents: Mapping[str, bytes]) -> None:
    """Refuse to write what `from_pretrained` would not read."""
    try:
        if len(contents[CONFIG]) > _MAX_CONFIG:
            raise ValueError(f"{CONFIG} would have {len(contents[CONFIG])} bytes")
        fitted = parse_json(contents[CONFIG], name=CONFIG)["fitted"]
        network = NetworkConfig.from_dict(fitted["network"])
        supernet = SupernetConfig.from_dict(fitted["supernet"])
        check_fitted(fitted, network, supernet)
        decode_labels(**fitted["classes"])
        _parse_tensors(contents[MODEL], "network_", network_specs(network))
        _parse_tensors(contents[SUPERNET], "supernet_state_", supernet_specs(supernet))
    except (FileError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"The classifier could not be loaded again: {error}") from error


def _read_config(files: _Files, class_name: str) -> dict[str, Any]:
    name = files.name(CONFIG)
    config = parse_json(files.config(), name=name)
    if not isinstance(config, dict) or config.get("class") != class_name:
        raise FileError(f"{name} does not describe a {class_name}.")
    version = config.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise FileError(
            f"{name} has format version {version!r:.80}; this supernetnas reads {FORMAT_VERSION}. "
            "Upgrade supernetnas if the file is newer."
        )
    return config


def _check_cost(attributes: Mapping[str, Any], config: NetworkConfig, name: str) -> None:
    """Compare the cost that a file states with that of its network."""
    with torch.device("meta"):
        network = Network(config)
        n_macs = count_macs(network, (config.input_channels, *attributes["image_size_"]))
    stated = attributes["n_parameters_"], attributes["n_macs_"]
    if stated != (found := (count_parameters(network), n_macs)):
        raise FileError(
            f"{name} states a network of {stated[0]} parameters and {stated[1]} MACs; it has "
            f"{found[0]} and {found[1]}."
        )


def _most_bytes(specs: Mapping[str, TensorSpec]) -> int:
    """Most bytes that a file of such tensors can have."""
    content = sum(
        math.prod(spec.shape) * max(np.dtype(dtype).itemsize for dtype in spec.dtypes)
        for spec in specs.values()
    )
    return min(content + MAX_HEADER, _MAX_TENSORS)


def _parse_tensors(
    data: bytes, name: str, expected: Mapping[str, TensorSpec]
) -> dict[str, np.ndarray]:
    """Read the tensors of a state dict, whose values a training can have left."""
    arrays, _ = parse_safetensors(data, name=name, expected=expected)
    check_values(arrays, name=name)
    return arrays


def _parse_signature(data: bytes, name: str, classes: np.ndarray) -> DatasetSignature:
    tensors, metadata = parse_safetensors(data, name=name)
    try:
        signature = DatasetSignature.from_tensors(tensors, metadata)
    except ValueError as error:
        raise FileError(f"{name}: {error}") from error
    if signature.class_names != tuple(str(label) for label in classes):
        raise FileError(f"{name} is the signature of other classes than those in {CONFIG}.")
    return signature


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
        "classes_": decode_labels(**fitted["classes"]),
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
