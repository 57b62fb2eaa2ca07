"""The scikit-learn estimator: from images and labels to a network whose architecture fits them."""

from __future__ import annotations

import logging
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    check_scalar,
    column_or_1d,
    validate_data,
)
from torch import Tensor

from .augmentation import Augmentation, ImageTensors, channel_statistics
from .cost import count_macs, count_parameters
from .embedding import get_embedder
from .images import ImageSet, as_image_set, looks_like_rows
from .network import Network, NetworkConfig, inherit_weights
from .persistence import PretrainedMixin, available_device, build_network, resolve_device
from .progress import Progress
from .retraining import RetrainSettings, retrain
from .search.bilevel import BilevelSearch, SearchSettings
from .selection import Selection, check_strategy, select_sources
from .signature import DatasetSignature
from .spaces.cells import available_spaces
from .supernets.cell import CellSupernet, SupernetConfig
from .supernets.warm_start import warm_started_supernet
from .training import (
    LabelledImages,
    Stopwatch,
    class_weights,
    recalibrate_batch_norm,
    seeded_modules,
    stratified_split,
)
from .zoo import Source, Zoo

__all__ = ["SupernetTransferClassifier"]

logger = logging.getLogger(__name__)

_SEARCH_SHARE = 0.5  # of a time limit


@dataclass(frozen=True)
class _Target:
    """The target as the stages of a fit see it."""

    images: ImageSet
    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    augmentation: Augmentation
    device: torch.device

    def part(self, index: Tensor | slice = slice(None)) -> LabelledImages:
        images = ImageTensors(
            self.pixels[index], self.mean, self.std, self.augmentation, self.device
        )
        return LabelledImages(images, self.labels[index].to(self.device))


class SupernetTransferClassifier(PretrainedMixin, ClassifierMixin, BaseEstimator):
    """Image classifier whose architecture is searched from a pretrained supernet.

    ``fit`` takes a supernet from a zoo, goes on searching it on the given images with SmoothDARTS,
    derives the discrete architecture, lets it inherit the supernet's weights, and finetunes it.

    Parameters
    ----------
    strategy : str, default="multi"
        What the search starts from: "multi", the supernet that was pretrained on all sources
        together; "ot", the source at the smallest dataset distance; "oracle", every source in
        turn, of which the best on validation data is kept (an upper bound at the cost of one
        search per source); "random", a source drawn at random; "scratch", random weights; or the
        name of a source.
    zoo : str, path or Zoo, default="builtin"
        Where pretrained supernets come from: "builtin", the zoo that comes with the package, or a
        folder.
    embedder : str, callable or Embedder, default="efficientnet_lite0"
        The frozen network whose features are compared, see `supernetnas.get_embedder`. It must
        be the one that the zoo was made with. Used by strategy "ot".
    image_shape : tuple of int, optional
        Height, width and, unless grey, channels of one image where X holds rows of pixels.
    image_size : int, tuple of int or "auto", default="auto"
        Height and width that images are resized to for the network. "auto" keeps the size of the
        images within 16 to 32 pixels a side.
    space : str, default="s1"
        Search space of strategy "scratch"; a source brings its own.
    init_channels, n_cells : int, default=16 and 5
        Size of the supernet of strategy "scratch"; a source brings its own.
    search_epochs : int, default=15
        Most passes over the images during the search. 0 derives the architecture from the source
        as it is.
    search_learning_rate : float, default=0.05
        Peak learning rate of the weights in the search.
    search_perturbation : {"random", "adversarial", "none"}, default="random"
        SDARTS-RS, SDARTS-ADV (some three times slower) or DARTS.
    search_perturbation_radius : tuple of float, default=(0.03, 0.3)
        First and limiting radius of the perturbation.
    search_patience : int or None, default=5
        Epochs without a better validation accuracy after which the search ends.
    alpha_learning_rate : float, default=0.003
        Learning rate of the alphas.
    validation_fraction : float, default=0.4
        Share of each class that trains the alphas in the search. Retraining uses all images.
    retrain_epochs : int, default=30
        Passes over the images during the retraining.
    retrain_learning_rate : float, default=0.05
        Peak learning rate of the retraining.
    retrain_cells, retrain_channels : int or None, default=None
        Cells and initial channels of the final network; None for those of the supernet. More
        cells repeat the supernet's; where shapes differ, weights start anew.
    batch_size : int or "auto", default="auto"
        "auto" is a sixteenth of the images, within 16 and 64.
    augmentation : "auto", "none" or Augmentation, default="auto"
        How images are varied in training. "auto" shifts, and flips only colour images of more
        than 32 pixels a side: glyphs and signs change their meaning in a mirror.
    label_smoothing : float, default=0.1
        In the retraining.
    dropout : float, default=0.0
        Before the classifier of the final network.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in every loss.
    time_limit : float or None, default=None
        Seconds that ``fit`` may take, of which the search gets half. An epoch that has begun is
        finished.
    device : str, default="auto"
        "auto" is a GPU where there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of everything. The same int gives the same network on a CPU.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
        Values per image; for array input only.
    image_shape_ : tuple of int (height, width, channels) or None
        Of the images in ``fit``; None where sizes may vary.
    image_size_ : tuple of int
        Height and width that the network sees.
    source_ : str
        Name of the source that the search started from, or "scratch".
    distances_ : dict of str to float, or None
        Distance to each source, nearest first, where the strategy measured it.
    genotype_ : Genotype
        The architecture.
    network_ : Network
        The trained network.
    supernet_config_ : SupernetConfig
    supernet_state_ : dict of str to ndarray
        The searched supernet: weights and alphas, without the classifier's.
    history_ : list of dict
        One row per epoch and stage; ``pandas.DataFrame(clf.history_)`` is a table.
    n_parameters_, n_macs_ : int
        Cost of the network: trainable values, and multiply-accumulates for one image.
    inherited_ : float
        Share of the network's weights that came from the supernet.
    device_ : str

    References
    ----------
    .. [1] P. Singh, J. Vanschoren, "On Supernet Transfer Learning for Effective Task Adaptation".
    .. [2] X. Chen, C.-J. Hsieh, "Stabilizing Differentiable Architecture Search via
       Perturbation-based Regularization", ICML 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from supernetnas import SupernetTransferClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = SupernetTransferClassifier(random_state=0).fit(X, y)  # doctest: +SKIP
    """

    def __init__(
        self,
        strategy="multi",
        *,
        zoo="builtin",
        embedder="efficientnet_lite0",
        image_shape=None,
        image_size="auto",
        space="s1",
        init_channels=16,
        n_cells=5,
        search_epochs=15,
        search_learning_rate=0.05,
        search_perturbation="random",
        search_perturbation_radius=(0.03, 0.3),
        search_patience=5,
        alpha_learning_rate=0.003,
        validation_fraction=0.4,
        retrain_epochs=30,
        retrain_learning_rate=0.05,
        retrain_cells=None,
        retrain_channels=None,
        batch_size="auto",
        augmentation="auto",
        label_smoothing=0.1,
        dropout=0.0,
        class_weight=None,
        time_limit=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.strategy = strategy
        self.zoo = zoo
        self.embedder = embedder
        self.image_shape = image_shape
        self.image_size = image_size
        self.space = space
        self.init_channels = init_channels
        self.n_cells = n_cells
        self.search_epochs = search_epochs
        self.search_learning_rate = search_learning_rate
        self.search_perturbation = search_perturbation
        self.search_perturbation_radius = search_perturbation_radius
        self.search_patience = search_patience
        self.alpha_learning_rate = alpha_learning_rate
        self.validation_fraction = validation_fraction
        self.retrain_epochs = retrain_epochs
        self.retrain_learning_rate = retrain_learning_rate
        self.retrain_cells = retrain_cells
        self.retrain_channels = retrain_channels
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.class_weight = class_weight
        self.time_limit = time_limit
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X, y):
        """Search, derive and train a network for the images X of the classes y.

        Parameters
        ----------
        X : array-like or sequence of images
            Rows of pixels (n, p); images (n, h, w), (n, h, w, c) or (n, c, h, w); a sequence of
            paths, PIL images or arrays of any sizes; see `supernetnas.images.as_image_set`.
        y : array-like of shape (n,)
            Labels: integers, strings or booleans.

        Returns
        -------
        self : SupernetTransferClassifier

        Raises
        ------
        ValueError
            If parameters or data are wrong; before any long work.
        ZooError
            If the zoo is missing or damaged.
        """
        watch = Stopwatch(self.time_limit)
        device = self._check_parameters()
        images, y = self._check_training_data(X, y)
        classes, labels = np.unique(y, return_inverse=True)
        self._check_classes(classes, labels)
        zoo = self._open_zoo()
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        progress = Progress(self.verbose)

        target = self._prepare(images, labels, device)
        selection = self._select(zoo, target, classes, int(seed), progress)
        search, source = self._search(selection, target, len(classes), generator, watch, progress)
        network, inherited = self._derive(search.supernet, target, len(classes), generator)
        retraining = self._retrain(network, target, len(classes), generator, watch, progress)

        self.classes_ = classes
        self.image_shape_ = images.native_shape
        self.image_size_ = tuple(target.pixels.shape[-2:])
        self._read = {
            "channels": int(target.pixels.shape[1]),
            "dtype": "uint8" if target.pixels.dtype == torch.uint8 else "float32",
            "mean": target.mean.numpy(),
            "std": target.std.numpy(),
        }
        self.source_ = "scratch" if source is None else source.name
        self.distances_ = selection.distances
        self.genotype_ = network.config.genotype
        self.network_ = network
        self.inherited_ = inherited
        self.supernet_config_ = search.supernet.config
        self.supernet_state_ = {
            name: value.detach().cpu().numpy().copy()
            for name, value in search.supernet.state_dict().items()
            if not name.startswith("classifier.")
        }
        self.history_ = search.history + retraining
        self.n_parameters_ = count_parameters(network)
        self.n_macs_ = count_macs(network, tuple(target.pixels.shape[1:]))
        self.device_ = str(device)
        return self

    def predict(self, X):
        """Predict the class of each image.

        Parameters
        ----------
        X : array-like or sequence of images
            As in `fit`; arrays of the same shape.

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like or sequence of images
            As in `fit`; arrays of the same shape.

        Returns
        -------
        ndarray of shape (n, n_classes), float32
            Columns in the order of ``classes_``.
        """
        check_is_fitted(self)
        images = self._check_new_data(X)
        parts = []
        mean, std = torch.from_numpy(self._read["mean"]), torch.from_numpy(self._read["std"])
        for start in range(0, len(images), 1024):
            part = images.take(slice(start, start + 1024))
            pixels = part.tensor(*self.image_size_, channels=self._read["channels"])
            pixels = _on_scale(pixels, self._read["dtype"])
            batch = ImageTensors(pixels, mean, std, device=self.device_)
            with torch.inference_mode():
                for index in torch.arange(len(part)).split(256):
                    scores = self.network_(batch.clean(index))
                    parts.append(scores.float().softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)

    # ------------------------------------------------------------------ checks

    def _check_parameters(self) -> torch.device:
        """Refuse bad parameters; returns the device."""
        name = type(self).__name__
        positive = ("init_channels", "n_cells", "retrain_epochs")
        for parameter in positive:
            check_scalar(getattr(self, parameter), parameter, numbers.Integral, min_val=1)
        check_scalar(self.search_epochs, "search_epochs", numbers.Integral, min_val=0)
        for parameter in ("search_patience", "retrain_cells", "retrain_channels"):
            if getattr(self, parameter) is not None:
                check_scalar(getattr(self, parameter), parameter, numbers.Integral, min_val=1)
        for parameter in ("search_learning_rate", "alpha_learning_rate", "retrain_learning_rate"):
            value = getattr(self, parameter)
            check_scalar(value, parameter, numbers.Real, min_val=0, include_boundaries="neither")
        if self.time_limit is not None:
            check_scalar(
                self.time_limit, "time_limit", numbers.Real, min_val=0, include_boundaries="neither"
            )
        bounds = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
        check_scalar(self.validation_fraction, "validation_fraction", numbers.Real, **bounds)
        bounds["include_boundaries"] = "left"
        check_scalar(self.label_smoothing, "label_smoothing", numbers.Real, **bounds)
        check_scalar(self.dropout, "dropout", numbers.Real, **bounds)
        choices = {
            "search_perturbation": ("random", "adversarial", "none"),
            "space": tuple(available_spaces()),
        }
        for parameter, allowed in choices.items():
            if getattr(self, parameter) not in allowed:
                raise ValueError(
                    f"The {parameter!r} parameter of {name} must be one of {allowed}. "
                    f"Got {getattr(self, parameter)!r} instead."
                )
        radius = np.asarray(self.search_perturbation_radius, dtype=float)
        if radius.shape != (2,) or not (0 <= radius).all():
            raise ValueError(
                "search_perturbation_radius must be two non-negative numbers, the first and the "
                f"limiting radius. Got {self.search_perturbation_radius!r}."
            )
        if self.batch_size != "auto":
            check_scalar(self.batch_size, "batch_size", numbers.Integral, min_val=2)
        if not isinstance(self.augmentation, Augmentation) and self.augmentation not in (
            "auto",
            "none",
        ):
            raise ValueError(
                f"The 'augmentation' parameter of {name} must be 'auto', 'none' or an "
                f"Augmentation. Got {self.augmentation!r} instead."
            )
        if self.image_size != "auto":
            size = np.ravel(self.image_size)
            if len(size) not in (1, 2) or not all(
                isinstance(n, numbers.Integral) and 8 <= n <= 224 for n in size.tolist()
            ):
                raise ValueError(
                    "image_size must be 'auto', or one or two integers of 8 to 224 pixels. "
                    f"Got {self.image_size!r}."
                )
        return resolve_device(self.device)

    def _check_training_data(self, X, y) -> tuple[ImageSet, np.ndarray]:
        """Read X as images and y as labels."""
        if looks_like_rows(X):
            X, y = validate_data(self, X, y)
            images = as_image_set(X, image_shape=self.image_shape)
        else:
            images = as_image_set(X, image_shape=self.image_shape)
            if images.is_array:
                _, y = validate_data(self, images.rows(), y)
            else:
                if y is None:
                    raise ValueError(
                        f"{type(self).__name__} requires y to be passed, but the target y is None."
                    )
                images.check()
                y = column_or_1d(y, warn=True)
                if y.dtype.kind == "f":
                    assert_all_finite(y, input_name="y")
                check_consistent_length(images, y)
                if hasattr(self, "n_features_in_"):
                    del self.n_features_in_
        check_classification_targets(y)
        return images, np.asarray(y)

    def _check_classes(self, classes: np.ndarray, labels: np.ndarray) -> None:
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs images of at least two classes; y holds one class "
                f"only: {classes[0]!r}."
            )
        counts = np.bincount(labels)
        if counts.min() < 2:
            rare = [str(c) for c in classes[counts < 2]]
            shown = ", ".join(rare[:5]) + (", ..." if len(rare) > 5 else "")
            raise ValueError(
                "Each class needs at least 2 images, one to train the weights and one to train "
                f"the architecture; {len(rare)} class(es) have 1: {shown}. Add images or leave "
                "these classes out."
            )
        if isinstance(self.class_weight, dict):
            unknown = [key for key in self.class_weight if key not in classes]
            if unknown:
                raise ValueError(f"class_weight names classes that y does not hold: {unknown}.")
        elif self.class_weight not in (None, "balanced"):
            raise ValueError(
                f"class_weight must be a dict, 'balanced' or None. Got {self.class_weight!r}."
            )
        self._label_weights = self.class_weight
        if isinstance(self.class_weight, dict):
            index = {label: i for i, label in enumerate(classes.tolist())}
            self._label_weights = {
                index[getattr(k, "item", lambda k=k: k)()]: v for k, v in self.class_weight.items()
            }

    def _check_new_data(self, X) -> ImageSet:
        """Read X as images like those of ``fit``."""
        shape = self.image_shape_
        if looks_like_rows(X) and shape is not None:
            images = as_image_set(validate_data(self, X, reset=False), image_shape=shape)
        else:
            images = as_image_set(X)
            if images.is_array and shape is not None and images.native_shape != shape:
                raise ValueError(
                    f"X holds images of shape {images.native_shape}, but "
                    f"{type(self).__name__} was fitted on {shape}."
                )
        return images

    def _open_zoo(self) -> Zoo | None:
        if self.strategy == "scratch":
            return None
        zoo = self.zoo if isinstance(self.zoo, Zoo) else Zoo.open(self.zoo)
        check_strategy(self.strategy, zoo)
        if self.strategy == "ot":
            embedder = get_embedder(self.embedder)
            if embedder.identity != zoo.embedder_id:
                raise ValueError(
                    f"The zoo was embedded with {zoo.embedder_id!r}, but embedder="
                    f"{self.embedder!r} is {embedder.identity!r}; distances between features of "
                    "different embedders mean nothing. Pass the zoo's embedder, or use strategy "
                    "'multi'."
                )
        return zoo

    # ------------------------------------------------------------------ stages

    def _prepare(self, images: ImageSet, labels: np.ndarray, device: torch.device) -> _Target:
        height, width = self._network_size(images)
        pixels = images.tensor(height, width)
        mean, std = channel_statistics(pixels)
        if isinstance(self.augmentation, Augmentation):
            augmentation = self.augmentation
        elif self.augmentation == "none":
            augmentation = Augmentation.NONE
        else:
            augmentation = Augmentation.choose(*images.typical_size, images.colour)
        return _Target(images, pixels, torch.from_numpy(labels), mean, std, augmentation, device)

    def _network_size(self, images: ImageSet) -> tuple[int, int]:
        if self.image_size == "auto":
            sides = [min(max(side, 16), 32) for side in images.typical_size]
            return tuple(-(-side // 4) * 4 for side in sides)
        height, width = np.broadcast_to(self.image_size, 2).tolist()
        return height, width

    def _select(
        self, zoo: Zoo | None, target: _Target, classes: np.ndarray, seed: int, progress: Progress
    ) -> Selection:
        def signature() -> DatasetSignature:
            embedder = get_embedder(self.embedder)
            sample = np.arange(len(target.labels))
            features = embedder.embed(
                target.images.take(sample), device=target.device, verbose=progress.enabled
            )
            return DatasetSignature.from_features(
                features,
                target.labels.numpy(),
                embedder_id=embedder.identity,
                class_names=[str(c) for c in classes],
                random_state=seed,
            )

        return select_sources(
            self.strategy, zoo, signature=signature, random_state=np.random.RandomState(seed)
        )

    def _supernet(
        self, source: Source | None, target: _Target, n_classes: int, seed: int
    ) -> CellSupernet:
        _, channels, height, width = target.pixels.shape
        if source is not None:
            supernet = warm_started_supernet(
                source.config,
                source.state_dict(),
                image_size=(height, width),
                input_channels=channels,
                n_classes=n_classes,
                seed=seed,
            )
        else:
            config = SupernetConfig(
                self.space, self.init_channels, self.n_cells, (height, width), channels, n_classes
            )
            with seeded_modules(seed):
                supernet = CellSupernet(config)
        return supernet.to(target.device, memory_format=torch.channels_last)

    def _search(
        self,
        selection: Selection,
        target: _Target,
        n_classes: int,
        generator: torch.Generator,
        watch: Stopwatch,
        progress: Progress,
    ) -> tuple[BilevelSearch, Source | None]:
        """Search from every candidate; returns the best search and its source."""
        first, second = stratified_split(target.labels, self.validation_fraction, generator)
        train, validation = target.part(first), target.part(second)
        settings = SearchSettings(
            epochs=self.search_epochs,
            batch_size=self._batch_size(len(train)),
            learning_rate=self.search_learning_rate,
            alpha_learning_rate=self.alpha_learning_rate,
            perturbation=self.search_perturbation,
            perturbation_radius=tuple(self.search_perturbation_radius),
            patience=self.search_patience,
        )
        weights = class_weights(target.labels, n_classes, self._label_weights)
        weights = None if weights is None else weights.to(target.device)
        best: tuple[BilevelSearch, Source | None] | None = None
        for source in selection.candidates or (None,):
            seed = int(torch.randint(2**31 - 1, (), generator=generator))
            supernet = self._supernet(source, target, n_classes, seed)
            if source is not None:
                recalibrate_batch_norm(
                    supernet, train.images, batch_size=settings.batch_size, generator=generator
                )
            search = BilevelSearch(supernet, train, validation, settings, generator, weights)
            name = "scratch" if source is None else source.name
            with progress.stage(f"search from {name}", settings.epochs) as advance:
                search.run(
                    on_epoch=lambda search, advance=advance: (
                        advance(search.history[-1]) or watch.expired(_SEARCH_SHARE)
                    )
                )
            if best is None or search.plateau.best > best[0].plateau.best:
                best = search, source
        return best

    def _derive(
        self,
        supernet: CellSupernet,
        target: _Target,
        n_classes: int,
        generator: torch.Generator,
    ) -> tuple[Network, float]:
        """Build the network of the supernet's genotype with the supernet's weights."""
        config = NetworkConfig(
            supernet.genotype(),
            self.retrain_channels or supernet.config.init_channels,
            self.retrain_cells or supernet.config.n_cells,
            supernet.config.input_channels,
            n_classes,
            self.dropout,
        )
        with seeded_modules(int(torch.randint(2**31 - 1, (), generator=generator))):
            network = Network(config)
        network.to(target.device, memory_format=torch.channels_last)
        return network, inherit_weights(network, supernet)

    def _retrain(
        self,
        network: Network,
        target: _Target,
        n_classes: int,
        generator: torch.Generator,
        watch: Stopwatch,
        progress: Progress,
    ) -> list[dict]:
        train = target.part()
        settings = RetrainSettings(
            epochs=self.retrain_epochs,
            batch_size=self._batch_size(len(train)),
            learning_rate=self.retrain_learning_rate,
            label_smoothing=self.label_smoothing,
        )
        recalibrate_batch_norm(
            network, train.images, batch_size=settings.batch_size, generator=generator
        )
        weights = class_weights(target.labels, n_classes, self._label_weights)
        with progress.stage("retrain", settings.epochs) as advance:
            history = retrain(
                network,
                train,
                settings,
                generator,
                class_weight=None if weights is None else weights.to(target.device),
                time_limit=None if self.time_limit is None else self.time_limit - watch.seconds,
                on_epoch=advance,
            )
        recalibrate_batch_norm(
            network, train.images, batch_size=settings.batch_size, generator=generator
        )
        return history

    def _batch_size(self, n_images: int) -> int:
        if self.batch_size != "auto":
            return int(self.batch_size)
        return min(max(n_images // 16, 16), 64)

    # ------------------------------------------------------------------ pickling

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        network = state.get("network_")
        if isinstance(network, Network):
            state["network_"] = {
                "config": network.config.to_dict(),
                "state": {k: v.cpu().numpy() for k, v in network.state_dict().items()},
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.get("network_")
        super().__setstate__(state)
        if isinstance(packed, dict):
            self.device_ = available_device(state["device_"])
            self.network_ = build_network(packed["config"], packed["state"], self.device_)


def _on_scale(pixels: Tensor, dtype: str) -> Tensor:
    """Bring pixels to the scale of the images that were fitted: 0 to 255, or their own."""
    fitted = torch.uint8 if dtype == "uint8" else torch.float32
    if pixels.dtype == fitted:
        return pixels
    if fitted == torch.uint8:
        raise ValueError(
            "X holds float images, but the classifier was fitted on 8-bit images or files. Pass "
            "uint8 values of 0 to 255."
        )
    return pixels.float()
