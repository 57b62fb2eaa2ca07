"""The scikit-learn estimator: from images and labels to a network whose architecture fits them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .augmentation import Augmentation
from .checkpoint import fingerprint, fit_checkpoints
from .cost import count_macs, count_parameters
from .devices import placed, resolve_device, resolve_precision
from .embedding import Embedder, get_embedder
from .fitting import (
    DERIVATION,
    Candidate,
    Run,
    Target,
    derivation_state,
    restore_derivation,
    search_best,
)
from .images import ImageSet
from .memory import explained_memory_error
from .network import Network, NetworkConfig, inherit_weights
from .persistence import PersistenceMixin
from .preprocessing import Preprocessing
from .progress import Progress
from .retraining import RetrainSettings, retrain
from .search.bilevel import BilevelSearch, SearchSettings
from .search.budget import Budget, network_cost
from .search.diagnostics import warn_of_collapse
from .search.methods import derive
from .selection import Selection, open_zoo, select_sources, sign_target
from .spaces.genotype import Genotype
from .stored_pixels import decode
from .supernets.cell import CellSupernet, SupernetConfig
from .supernets.warm_start import warm_started_supernet
from .training import Stopwatch, class_weights, seeded_modules
from .validation import TrainingData, check_parameters, read_new_images, read_training_data
from .zoo import Source, Zoo

__all__ = ["SupernetTransferClassifier"]

logger = logging.getLogger(__name__)

_SEARCH_SHARE = 0.5  # of a time limit
_DERIVATION_SHARE = 0.75  # after the search


class SupernetTransferClassifier(PersistenceMixin, ClassifierMixin, BaseEstimator):
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
        Where pretrained supernets come from: "builtin", the zoo that comes with the package; a
        folder; or a zoo on the Hugging Face Hub, "org/name" or "org/name@revision", of which the
        chosen source alone is downloaded. See `Zoo.open`.
    embedder : str, callable or Embedder, default="efficientnet_lite0"
        The frozen network whose features are compared, see `supernetnas.get_embedder`. It must
        be the one that the zoo was made with. Used by strategy "ot".
    image_shape : tuple of int, optional
        Height, width and, unless grey, channels of one image where X holds rows of pixels.
    image_size : int, tuple of int or "auto", default="auto"
        Height and width that images are resized to for the network. "auto" keeps the size of the
        images within 8 to 32 pixels a side.
    space : str, default="s1"
        Search space of strategy "scratch"; a source brings its own.
    init_channels, n_cells : int, default=16 and 5
        Size of the supernet of strategy "scratch"; a source brings its own.
    search_epochs : int, default=6
        Most passes over the images during the search. 0 derives the architecture from the source
        as it is.
    search_learning_rate : float, default=0.05
        Peak learning rate of the weights in the search.
    search_method : str, default="sdarts"
        How the supernet is searched: "sdarts", SmoothDARTS with the perturbation below; "darts" and
        "darts2", DARTS of first and of second order; "pc_darts", PC-DARTS; "drnas", DrNAS in two
        stages; "gdas", GDAS. And two baselines: "random", an architecture drawn at random without
        any search, and "random_search", the best on validation data of 50 random architectures
        under weights that were trained on random architectures.
    search_perturbation : {"random", "adversarial", "none"}, default="random"
        Of "sdarts", without effect on the other methods: SDARTS-RS, SDARTS-ADV (some three times
        slower), or none, which is "darts".
    search_perturbation_radius : tuple of float, default=(0.03, 0.3)
        First and limiting radius of the perturbation.
    search_stopping : {"plateau", "settled", "eigenvalue"}, default="plateau"
        What ends a search before its last epoch. "plateau": the validation accuracy has not risen
        for ``search_patience`` epochs; "settled": nor has the genotype changed in them;
        "eigenvalue": the alphas' dominant eigenvalue has risen (RobustDARTS), which takes
        back the epochs since. The latter is for searches of some thirty epochs and more.
    search_patience : int or None, default=3
        Epochs that "plateau" and "settled" wait; None ends no search early.
    derivation : {"argmax", "perturbation"}, default="argmax"
        How the architecture is chosen from the searched supernet: by the largest weights, or by
        the loss of validation accuracy without each operation (DARTS-PT), which is as long as a
        search of some twenty epochs. The two random baselines have their own way.
    derivation_epochs : int, default=1
        Passes over the images between two of the 17 choices of "perturbation".
    alpha_learning_rate : float, default=0.003
        Learning rate of the alphas.
    validation_fraction : float, default=0.4
        Share of each class that trains the alphas in the search. Retraining uses all images.
    retrain_epochs : int, default=15
        Passes over the images during the retraining.
    retrain_learning_rate : float, default=0.03
        Peak learning rate of the retraining.
    retrain_cells, retrain_channels : int or None, default=None
        Cells and initial channels of the final network; None for those of the supernet. More
        cells repeat the supernet's; where shapes differ, weights start anew.
    max_macs, max_parameters : int or None, default=None
        Most multiply-accumulates for one image, and most trainable values, of the final network.
        The search is pushed below them, and the network keeps them.
        They need ``search_method`` "sdarts", "darts" or "gdas" and ``derivation="argmax"``.
    batch_size : int or "auto", default="auto"
        "auto" is a sixteenth of the images, within 16 and 64.
    augmentation : "auto", "none" or Augmentation, default="auto"
        How images are varied in training. "auto" shifts; colour images of more than
        32 pixels a side, which are taken for photographs, are also flipped and partly erased. Pass
        an Augmentation without flip for large coloured signs.
    label_smoothing : float, default=0.1
        In the retraining.
    dropout : float, default=0.0
        Before the classifier of the final network.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in every loss, by label; classes that a dict leaves out weigh 1.
        "balanced" weighs a class by the inverse of its share of the images.
    time_limit : float or None, default=None
        Seconds that ``fit`` may take. Selection and search get half, which the sources of "oracle"
        share, and a derivation that measures another quarter at most; the retraining gets what is
        left. An epoch that has begun is finished.
    checkpoint_dir : str, path or None, default=None
        Folder where ``fit`` keeps a checkpoint of every epoch of search and retraining. A fit that
        was interrupted goes on from there when it is called again with the same parameters and
        data, and on a CPU gives what it would have given. A fit with others starts anew; one that
        ends deletes its checkpoints.
    device : str, default="auto"
        "auto" is a GPU where there is one.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        What convolutions compute in while networks are trained; alphas, weights and the statistics
        of batch norms stay in float32. "auto" is bfloat16 on a GPU that has it, and float32 on
        a CPU, where bfloat16 is slower. Predictions are made in float32.
    gradient_checkpointing : bool, default=False
        Whether training keeps the inputs of cells only and computes the rest again: a fraction of
        the memory for some 1.5 times the time.
    compile : bool or "graph", default=False
        Whether `torch.compile` compiles the cells of search and retraining. It takes minutes, so it
        pays in long fits on a GPU only; on a CPU it was measured not to pay at all. "graph" instead
        captures whole training steps as CUDA graphs, which costs seconds and saves the launches of
        thousands of small kernels, with the search methods "sdarts", "darts" and "pc_darts" (the
        others run as without it) and for images that fit into memory; on a GPU only.
    random_state : int, RandomState instance or None, default=None
        Seed of everything; None is a fresh seed for each fit. The same int gives the same network
        on the same CPU with the same number of threads: another number adds in another order, and
        training amplifies the rounding. joblib gives its worker processes fewer threads, so set
        ``OMP_NUM_THREADS=1``, or use ``joblib.parallel_config(backend="loky",
        inner_max_num_threads=...)``, where results must not depend on ``n_jobs``. Global random
        states are neither read nor changed.
    verbose : int, default=0
        1 shows progress bars, 2 a line per epoch, both on the standard error.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
        Values per image; for array input only.
    image_shape_ : tuple of int (height, width, channels) or None
        Of the images in ``fit``; None where sizes may vary.
    image_size_ : tuple of int
        Height and width that the network sees.
    preprocessing_ : Preprocessing
        What images go through before the network sees them.
    source_ : str
        Name of the source that the search started from, or "scratch".
    distances_ : dict of str to float, or None
        Distance to each source, nearest first, where the strategy measured it.
    signature_ : DatasetSignature or None
        What the strategy compared with the sources: statistics and a sample of the features of
        the images, at most a few megabytes. `Zoo.add` makes a source with it.
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
        search_epochs=6,
        search_learning_rate=0.05,
        search_method="sdarts",
        search_perturbation="random",
        search_perturbation_radius=(0.03, 0.3),
        search_stopping="plateau",
        search_patience=3,
        alpha_learning_rate=0.003,
        validation_fraction=0.4,
        derivation="argmax",
        derivation_epochs=1,
        retrain_epochs=15,
        retrain_learning_rate=0.03,
        retrain_cells=None,
        retrain_channels=None,
        max_macs=None,
        max_parameters=None,
        batch_size="auto",
        augmentation="auto",
        label_smoothing=0.1,
        dropout=0.0,
        class_weight=None,
        time_limit=None,
        checkpoint_dir=None,
        device="auto",
        precision="auto",
        gradient_checkpointing=False,
        compile=False,
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
        self.search_method = search_method
        self.search_perturbation = search_perturbation
        self.search_perturbation_radius = search_perturbation_radius
        self.search_stopping = search_stopping
        self.search_patience = search_patience
        self.alpha_learning_rate = alpha_learning_rate
        self.validation_fraction = validation_fraction
        self.derivation = derivation
        self.derivation_epochs = derivation_epochs
        self.retrain_epochs = retrain_epochs
        self.retrain_learning_rate = retrain_learning_rate
        self.retrain_cells = retrain_cells
        self.retrain_channels = retrain_channels
        self.max_macs = max_macs
        self.max_parameters = max_parameters
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.class_weight = class_weight
        self.time_limit = time_limit
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.precision = precision
        self.gradient_checkpointing = gradient_checkpointing
        self.compile = compile
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X, y):
        """Search, derive and train a network for the images X of the classes y.

        A fit that fails or is interrupted leaves the classifier as it was; with a
        ``checkpoint_dir`` it can be called again to go on.

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
        TypeError, ValueError
            If parameters or data are wrong; before any long work.
        OSError
            If images cannot be read; names the first and counts them. If checkpoints cannot be
            written, are damaged, or another process is at the same fit.
        ZooError, HubError
            If the zoo is missing or damaged, or cannot be had from the Hub.
        FloatingPointError
            If the search or the retraining diverges.
        MemoryError
            If a step needs more memory than there is; suggests a batch size.
        """
        watch = Stopwatch(self.time_limit)
        check_parameters(self)
        device = resolve_device(self.device)
        data = read_training_data(self, X, y)
        embedder = get_embedder(self.embedder) if self.strategy == "ot" else None
        zoo = open_zoo(self.strategy, self.zoo, embedder)
        target = self._prepare(data, device)
        self._check_budget(zoo, target)
        name = "" if self.checkpoint_dir is None else self._fingerprint(target, data)

        with fit_checkpoints(self.checkpoint_dir, name, watch) as checkpoints:
            seed = checkpoints.seed(self._draw_seed)
            generator = torch.Generator().manual_seed(seed)
            run = Run(generator, watch, Progress(self.verbose), checkpoints)
            selection = self._select(zoo, data, embedder, device, seed)
            start, search = self._search(selection, target, run)
            genotype = self._derive(search, start.budget, run)
            supernet = search.searched_supernet()
            network, inherited = self._inherit(genotype, supernet, target, run)
            retraining = self._retrain(network, target, run)
            self._report_cuts(search, retraining)

        supernet_state = {
            name: value.detach().cpu().numpy().copy()
            for name, value in supernet.state_dict().items()
            if not name.startswith("classifier.")
        }
        n_macs = count_macs(network, tuple(target.pixels.shape[1:]))

        self._set_input_features(data.n_features_in, data.feature_names_in)
        self.classes_ = data.classes
        self.image_shape_ = data.images.native_shape
        self.image_size_ = target.preprocessing.image_size
        self.preprocessing_ = target.preprocessing
        self.source_ = start.name
        self.distances_ = selection.distances
        self.signature_ = selection.signature
        self.genotype_ = network.config.genotype
        self.network_ = network
        self.inherited_ = inherited
        self.supernet_config_ = supernet.config
        self.supernet_state_ = supernet_state
        self.history_ = search.history + retraining
        self.n_parameters_ = count_parameters(network)
        self.n_macs_ = n_macs
        self.device_ = str(device)
        return self

    def predict(self, X):
        """Predict the class of each image.

        Parameters
        ----------
        X : array-like or sequence of images
            As in `predict_proba`.

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
            Of the kinds that `fit` takes. Arrays have the shape of those in ``fit``, or are their
            rows; files and PIL images are resized. Pixel values are on the scale of those in
            ``fit``, whatever their dtype.

        Returns
        -------
        ndarray of shape (n, n_classes), float32
            Columns in the order of ``classes_``.

        Raises
        ------
        ValueError
            If the images have another shape or another scale than those in ``fit``, or X is one
            image.
        OSError
            If images cannot be read; names the first and counts them.

        Warns
        -----
        UserWarning
            If a few images are very dark, or have no negative values unlike those in ``fit``, so
            that they may be on another scale. Ten or more such images are an error.
        """
        check_is_fitted(self)
        return np.concatenate(list(self._predicted_batches(X)))

    def _predicted_batches(self, X) -> Iterator[np.ndarray]:
        """Yield the rows of `predict_proba`, a batch of images at a time."""
        images = read_new_images(self, X)
        for batch in self.preprocessing_.batches(images, self.device_):
            with torch.inference_mode():
                scores = self.network_(batch).float().softmax(dim=1).cpu()
            yield scores.numpy()

    # Stages of a fit

    def _draw_seed(self) -> int:
        """Draw the one seed that everything random follows from."""
        if self.random_state is None:
            return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _prepare(self, data: TrainingData, device: torch.device) -> Target:
        """Decode and resize the images, and choose what they go through."""
        pixels = decode(data.images, *self._network_size(data.images))
        preprocessing = Preprocessing.of(pixels)
        low, high = preprocessing.value_range
        if low == high:
            warnings.warn(
                f"All pixels of X are {low:g}, so there is nothing to learn from.",
                UserWarning,
                stacklevel=3,
            )
        labels, n_classes = torch.from_numpy(data.labels), len(data.classes)
        weights = class_weights(labels, n_classes, data.class_weight)
        return Target(
            pixels=pixels,
            labels=labels,
            n_classes=n_classes,
            class_weight=None if weights is None else weights.to(device),
            preprocessing=preprocessing,
            augmentation=self._augmentation(data.images),
            device=device,
        )

    def _fingerprint(self, target: Target, data: TrainingData) -> str:
        """Name this fit for its checkpoints."""
        pixels = (block.numpy() for block in target.pixels.split(1024))
        return fingerprint(
            self.get_params(deep=False),
            chain(pixels, (target.labels.numpy(), data.classes)),
            (target.augmentation, target.device.type),
        )

    def _network_size(self, images: ImageSet) -> tuple[int, int]:
        if self.image_size == "auto":
            sides = [min(max(side, 8), 32) for side in images.typical_size]
            height, width = (-(-side // 4) * 4 for side in sides)
            return height, width
        height, width = np.broadcast_to(self.image_size, 2).tolist()
        return height, width

    def _augmentation(self, images: ImageSet) -> Augmentation:
        if isinstance(self.augmentation, Augmentation):
            return self.augmentation
        if self.augmentation == "none":
            return Augmentation.NONE
        return Augmentation.choose(*images.typical_size, images.colour)

    def _select(
        self,
        zoo: Zoo | None,
        data: TrainingData,
        embedder: Embedder | None,
        device: torch.device,
        seed: int,
    ) -> Selection:
        """Choose the sources to start from; embeds the images if the strategy asks for it."""
        return select_sources(
            self.strategy,
            zoo,
            signature=lambda: sign_target(
                data.images,
                data.labels,
                data.classes,
                embedder,  # type: ignore[arg-type]  # there is one where this is called
                device=device,
                random_state=seed,
                verbose=bool(self.verbose),
            ),
            random_state=np.random.RandomState(seed),
            device=device,
        )

    def _candidates(self, selection: Selection, target: Target, run: Run) -> list[Candidate]:
        """Build the supernets to search, all before the first search, so bad files show early."""
        _, channels, height, width = target.pixels.shape
        candidates: list[Candidate] = []
        for source in selection.candidates:
            supernet = warm_started_supernet(
                source.config,
                source.state_dict(),
                image_size=(height, width),
                input_channels=channels,
                n_classes=target.n_classes,
                seed=run.draw_seed(),
            )
            budget = self._budget(source.config, target)
            candidates.append(Candidate(source.name, supernet, True, budget))
        if candidates:
            self._warn_of_unused(selection.candidates[0])
        else:
            config = self._scratch_config(target)
            with seeded_modules(run.draw_seed()):
                supernet = CellSupernet(config)
            candidates.append(Candidate("scratch", supernet, False, self._budget(config, target)))
        for candidate in candidates:
            candidate.supernet.place(target.device)
        return candidates

    def _warn_of_unused(self, source: Source) -> None:
        """Warn of a chosen space or size that the source does not have."""
        defaults = SupernetTransferClassifier()
        for name in ("space", "init_channels", "n_cells"):
            value, found = getattr(self, name), getattr(source.config, name)
            if value not in (getattr(defaults, name), found):
                warnings.warn(
                    f"{name}={value!r} is not used: the supernet of the source {source.name!r} has "
                    f"{found!r}. It counts with strategy='scratch'.",
                    UserWarning,
                    stacklevel=2,
                )

    def _scratch_config(self, target: Target) -> SupernetConfig:
        _, channels, height, width = target.pixels.shape
        return SupernetConfig(
            self.space,
            int(self.init_channels),
            int(self.n_cells),
            (height, width),
            channels,
            target.n_classes,
        )

    def _budget(self, config: SupernetConfig, target: Target) -> Budget | None:
        """What the network of a supernet may cost; ValueError if that cannot be."""
        if self.max_macs is None and self.max_parameters is None:
            return None
        cost = network_cost(
            config.space,
            int(self.retrain_channels or config.init_channels),
            int(self.retrain_cells or config.n_cells),
            tuple(target.pixels.shape[1:]),
            target.n_classes,
        )
        return Budget(cost, self.max_macs, self.max_parameters)

    def _check_budget(self, zoo: Zoo | None, target: Target) -> None:
        """Refuse a budget that no network keeps, whichever source may be selected."""
        configs = (
            [self._scratch_config(target)] if zoo is None else [zoo[name].config for name in zoo]
        )
        errors = []
        for config in configs:
            try:
                self._budget(config, target)
                return
            except ValueError as error:
                errors.append(error)
        raise errors[0]

    def _search(
        self, selection: Selection, target: Target, run: Run
    ) -> tuple[Candidate, BilevelSearch]:
        """Search from every source of the selection; returns the best search and its start."""
        n_train = round(len(target.labels) * (1 - self.validation_fraction))
        settings = SearchSettings(
            epochs=self.search_epochs,
            batch_size=self._batch_size(n_train),
            learning_rate=self.search_learning_rate,
            alpha_learning_rate=self.alpha_learning_rate,
            perturbation=self.search_perturbation,
            perturbation_radius=tuple(self.search_perturbation_radius),
            patience=self.search_patience,
            precision=resolve_precision(self.precision, target.device),
            compile=self._compile_setting(),
            gradient_checkpointing=bool(self.gradient_checkpointing),
        )
        with explained_memory_error(settings.batch_size, settings.gradient_checkpointing):
            return search_best(
                self._candidates(selection, target, run),
                target,
                settings,
                self.validation_fraction,
                run,
                None if self.time_limit is None else _SEARCH_SHARE * self.time_limit,
                method=self.search_method,
                stopping=self.search_stopping,
            )

    def _compile_setting(self) -> bool | str:
        return "graph" if self.compile == "graph" else bool(self.compile)

    def _derive(self, search: BilevelSearch, budget: Budget | None, run: Run) -> Genotype:
        """Choose the architecture; a choice that takes long gets its share of the time limit."""
        checkpoint = run.checkpoints.stage(DERIVATION)
        if (saved := checkpoint.load()) is not None:
            return restore_derivation(search, *saved)
        if budget is not None:
            genotype = budget.derive(search.supernet.operation_weights())
            warn_of_collapse(search.supernet, genotype, within_budget=True)
        else:
            watch = None
            if self.time_limit is not None:
                watch = Stopwatch(_DERIVATION_SHARE * self.time_limit - run.watch.seconds)
            genotype = derive(search, self.derivation, int(self.derivation_epochs), watch)
        checkpoint.save(*derivation_state(search, genotype))
        return genotype

    def _inherit(
        self, genotype: Genotype, supernet: CellSupernet, target: Target, run: Run
    ) -> tuple[Network, float]:
        """Build the network of the genotype with the supernet's weights."""
        config = NetworkConfig(
            genotype,
            int(self.retrain_channels or supernet.config.init_channels),
            int(self.retrain_cells or supernet.config.n_cells),
            supernet.config.input_channels,
            target.n_classes,
            float(self.dropout),
        )
        with seeded_modules(run.draw_seed()):
            network = Network(config)
        placed(network, target.device)
        return network, inherit_weights(network, supernet)

    def _retrain(self, network: Network, target: Target, run: Run) -> list[dict]:
        """Finetune the network on all images; returns its history."""
        train = target.part()
        settings = RetrainSettings(
            epochs=self.retrain_epochs,
            batch_size=self._batch_size(len(train)),
            learning_rate=self.retrain_learning_rate,
            label_smoothing=self.label_smoothing,
            precision=resolve_precision(self.precision, target.device),
            compile=self._compile_setting(),
            gradient_checkpointing=bool(self.gradient_checkpointing),
        )
        with (
            explained_memory_error(settings.batch_size, settings.gradient_checkpointing),
            run.progress.stage("retrain", settings.epochs) as advance,
        ):
            run.recalibrate(network, train, settings.batch_size)
            history = retrain(
                network,
                train,
                settings,
                run.generator,
                class_weight=target.class_weight,
                time_limit=None if self.time_limit is None else self.time_limit - run.watch.seconds,
                on_epoch=advance,
                checkpoint=run.checkpoints.stage("retrain"),
            )
            run.recalibrate(network, train, settings.batch_size)
        return history

    def _report_cuts(self, search: BilevelSearch, retraining: list[dict]) -> None:
        """Log which stages the time limit has cut short."""
        if search.out_of_time and search.epoch < self.search_epochs:
            logger.warning("search ended after %d of %d epochs", search.epoch, self.search_epochs)
        if (done := len(retraining)) < self.retrain_epochs:
            logger.warning("retrain ended after %d of %d epochs", done, self.retrain_epochs)

    def _batch_size(self, n_images: int) -> int:
        if self.batch_size != "auto":
            return int(self.batch_size)
        return min(max(n_images // 16, 16), 64)

    def _set_input_features(self, n_features: int | None, names: np.ndarray | None) -> None:
        """Set what scikit-learn compares later arrays with; images of any size have neither."""
        for name, value in (("n_features_in_", n_features), ("feature_names_in_", names)):
            if value is not None:
                setattr(self, name, value)
            elif hasattr(self, name):
                delattr(self, name)
