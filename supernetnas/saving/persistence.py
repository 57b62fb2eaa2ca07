"""A fitted classifier as a folder of safetensors and JSON, or as a pickle.

A folder holds nothing that runs when it is read: ``config.json`` has the parameters, the fitted
attributes and the SHA-256 of the other files; ``model.safetensors`` the network;
``supernet.safetensors`` the searched supernet; ``signature.safetensors`` the signature of the
images, if there is one; ``held_out.csv`` the images that the fit has held out, if there are any,
with what was predicted for them; ``README.md`` is a model card. A repository on the Hugging Face
Hub holds the same, but for names of images. A pickle holds plain values and NumPy arrays instead
of torch modules, so it needs no GPU to be read.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ..distance.signature import DatasetSignature
from ..evaluation.evaluation import Evaluation
from ..families.base import Family, get_family
from ..fitting.fitted import Fitted
from ..fitting.parameter_values import decode_parameters, encode_parameters
from ..search.costs import count_macs, count_parameters
from ..storage.destinations import refusal, user_path
from ..storage.files import FileError
from ..storage.folders import replace_content
from ..storage.formats import (
    MAX_HEADER,
    TensorSpec,
    check_values,
    dump_json,
    dump_safetensors,
    parse_json,
    parse_safetensors,
)
from ..storage.hub import HubRepository, check_address, hub_address
from ..training.devices import available_device, placed, resolve_device
from ..training.surroundings import own_surroundings
from ..version import __version__
from .fitted_checks import check_fitted
from .labels import decode_labels
from .model_card import model_card
from .model_files import (
    CARD,
    CONFIG,
    HELD_OUT,
    MAX_CONFIG,
    MODEL,
    MODEL_FILES,
    SIGNATURE,
    SUPERNET,
    ModelFiles,
    ModelFilesInMemory,
    ModelFilesOnHub,
    check_destination,
    looks_saved,
    settled,
)
from .older_formats import from_version_1

if TYPE_CHECKING:
    from ..storage.hub_push import Pushed

__all__ = ["PersistenceMixin"]

FORMAT_VERSION = 2
_MAX_TENSORS = 8 * 2**30
_MAX_SIGNATURE = 256 * 2**20
_MAX_HELD_OUT = 256 * 2**20


class PersistenceMixin(BaseEstimator):
    """Saving to and loading from a folder, and pickling, for `SupernetTransferClassifier`."""

    def save_pretrained(
        self, folder: str | os.PathLike, *, card: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the fitted classifier to a folder.

        Whoever loads from the folder gets the old classifier or the new one, whatever interrupts
        this; hidden files that an interruption leaves are cleared by the next call. Weights are
        written as float32. A parameter that JSON cannot hold, such as a callable embedder, is left
        out with a warning.

        Parameters
        ----------
        folder : path
            Made, or kept with its rights if it is there. It may be a mount point. If it holds a
            saved classifier, its files are replaced.
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
        ValueError
            If the card has other keys, or fitted attributes were changed to what could not be
            loaded.
        FileError
            If the folder holds anything else, or the system refuses to write; the classifier stays
            fitted and can be saved elsewhere.
        """
        check_is_fitted(self)
        folder = user_path(folder).resolve()
        check_destination(folder)
        parameters = self.get_params(deep=False)
        contents = self._contents(parameters, signature=True, held_out=True)
        contents[CARD] = model_card(self, card or {}, "path/to/this/folder").encode()
        try:
            replace_content(folder, contents, MODEL_FILES, CONFIG)
        except OSError as error:
            raise refusal(
                FileError,
                f"The classifier, which stays fitted, could not be saved to {folder}",
                error,
            ) from error
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

        The names of the images that the fit has held out are not published, only how many there
        are and what was measured on them. If the upload breaks off, call it again: what has arrived
        is not sent again. Parameters are left out as in `save_pretrained`.

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
        from ..storage.hub_push import Target

        check_is_fitted(self)
        parameters = self.get_params(deep=False)
        contents = self._contents(parameters, signature=signature, held_out=False)
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
            path = target.repository(parent).fetch({CONFIG: MAX_CONFIG})[CONFIG]
            ours = looks_saved(path.parent)
        else:
            ours = files <= {CARD}
        if strangers := sorted(files - MODEL_FILES if ours else files):
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
            files: ModelFiles = ModelFiles(user_path(folder))
        else:
            if revision is not None:
                address = check_address(address.repo_id, revision)
            repository, _ = HubRepository.at(
                address,
                CONFIG,
                MAX_CONFIG,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                token=token,
                local_files_only=local_files_only,
                endpoint=endpoint,
                progress=progress,
            )
            files = ModelFilesOnHub(repository)
        return settled(files, lambda: cls._load(files, device))

    @classmethod
    @own_surroundings()
    def _load(cls, files: ModelFiles, device: str):
        """Load a classifier from files; FileError if they are not those of one."""
        config = _read_config(files, cls.__name__)
        try:
            clf = cls(**decode_parameters(config["parameters"]))
            record = config["fitted"]
            hashes = {file: str(digest) for file, digest in config["sha256"].items()}
            family = get_family(record["family"])
            network_config = family.read_network_config(record["network"])
            supernet_config = family.read_config(record["supernet"])
            check_fitted(record, family, network_config, supernet_config)
            classes = decode_labels(**record["classes"])
            specs = {
                MODEL: family.network_specs(network_config),
                SUPERNET: family.supernet_specs(supernet_config),
            }
            limits = {file: _most_bytes(of) for file, of in specs.items()}
            for file, most in ((SIGNATURE, _MAX_SIGNATURE), (HELD_OUT, _MAX_HELD_OUT)):
                if file in hashes:
                    limits[file] = most
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
        states = {file: _parse_tensors(data[file], files.name(file), specs[file]) for file in specs}
        _check_cost(record, family, network_config, files.name(CONFIG))
        signature = None
        if SIGNATURE in data:
            signature = _parse_signature(data[SIGNATURE], files.name(SIGNATURE), classes)
        holdout = None
        if HELD_OUT in data:
            holdout = Evaluation.from_csv(
                data[HELD_OUT], classes.tolist(), name=files.name(HELD_OUT)
            )
        Fitted.from_dict(
            record,
            network=_build_network(family, network_config, states[MODEL], device),
            supernet_state=states[SUPERNET],
            signature=signature,
            holdout=holdout,
            device=device,
        ).assign(clf)
        return clf

    def _contents(
        self, parameters: Mapping[str, Any], *, signature: bool, held_out: bool
    ) -> dict[str, bytes]:
        """Return the files of the fitted classifier, without the card.

        Raises
        ------
        ValueError
            If `_load` would refuse them.
        """
        contents = {
            MODEL: dump_safetensors(_arrays(self.network_), {"format": "pt"}),
            SUPERNET: dump_safetensors(self.supernet_state_, {"format": "pt"}),
        }
        kept = self.signature_
        if signature and kept is not None:
            contents[SIGNATURE] = dump_safetensors(kept.to_tensors(), kept.metadata())
        holdout = getattr(self, "holdout_", None)
        if held_out and holdout is not None:
            contents[HELD_OUT] = holdout.to_csv().encode()
        config = {
            "library_name": "supernetnas",
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "supernetnas_version": __version__,
            "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
            "parameters": encode_parameters(parameters),
            "fitted": Fitted.of(self).to_dict(),
        }
        contents = {CONFIG: dump_json(config), **contents}
        try:
            self._load(ModelFilesInMemory(contents), "cpu")
        except FileError as error:
            raise ValueError(
                f"The classifier is not saved, since it could not be loaded: {error} Were its "
                "fitted attributes changed after fit?"
            ) from error
        return contents

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if isinstance(network := state.get("network_"), nn.Module):
            config: Any = network.config
            state["network_"] = {"config": config.to_dict(), "state": _arrays(network)}
        return state

    @own_surroundings()
    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if isinstance(packed := state.get("network_"), dict):
            state["device_"] = available_device(state["device_"])
            family = get_family(state["family_"])
            config = family.read_network_config(packed["config"])
            state["network_"] = _build_network(family, config, packed["state"], state["device_"])
        super().__setstate__(state)


def _build_network(
    family: Family, config: Any, state: Mapping[str, np.ndarray], device: str
) -> nn.Module:
    """Rebuild a trained network, in evaluation mode; draws no random number."""
    with torch.device("meta"):
        network = family.network(config)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(True)
    return placed(network, device).eval()


def _arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """State of a network as it is stored: weights and statistics as float32."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().numpy()
        for name, tensor in network.state_dict().items()
    }


def _read_config(files: ModelFiles, class_name: str) -> dict[str, Any]:
    name = files.name(CONFIG)
    config = parse_json(files.config(), name=name)
    if not isinstance(config, dict) or config.get("class") != class_name:
        raise FileError(f"{name} does not describe a {class_name}.")
    version = config.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise FileError(
            f"{name} has format version {version!r:.80}; this supernetnas reads 1 to "
            f"{FORMAT_VERSION}. Upgrade supernetnas if the file is newer."
        )
    if version == 1:
        try:
            return from_version_1(config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileError(f"{name} does not describe a {class_name}: {error!r:.300}.") from error
    return config


def _check_cost(record: Mapping[str, Any], family: Family, config: Any, name: str) -> None:
    """Compare the cost that a file states with that of its network."""
    with torch.device("meta"):
        network = family.network(config)
        size = record["preprocessing"]["image_size"]
        n_macs = count_macs(network, (config.input_channels, *size))
    stated = record["n_parameters"], record["n_macs"]
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
