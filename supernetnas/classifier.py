"""The scikit-learn estimator: from images and labels to a network whose architecture fits them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from .families.base import Family, available_families, get_family
from .fitting.checkpoints import fingerprint, fit_checkpoints
from .fitting.estimates import expect_search
from .fitting.finetuning import finetune
from .fitting.fitted import Fitted, plain_state
from .fitting.front import choose_member, validate_front
from .fitting.holding_out import HeldOut, hold_out, read_held_out
from .fitting.outcome import describe_outcome
from .fitting.progress import Progress
from .fitting.resolved import (
    PRESETS,
    batch_size_of,
    draw_seed,
    execution_of,
    family_of,
    limits_of,
    method_of,
    retraining_of,
    searching_method_of,
    settings_of,
)
from .fitting.retraining import Retraining
from .fitting.run import Run
from .fitting.searching import candidates_of, derive, search_best
from .fitting.sources import checked, chosen_start, selected, warn_of_unused_sizes
from .fitting.summary import summary_html
from .fitting.target import prepare, warn_of_lost_detail
from .fitting.validation import (
    TrainingData,
    read_new_images,
    refuse_fit_parameters,
)
from .images.augmentation import Augmentation
from .images.resizing import RESIZING
from .parameters import (
    NOTHING,
    AnyOf,
    Constraint,
    Instance,
    OneOf,
    ParameterError,
    Real,
    Whole,
    check_parameter,
)
from .reporting.estimator import ReportingMixin
from .saving.as_source import SourceMixin
from .saving.export import ExportMixin
from .saving.folding import for_predictions
from .saving.persistence import PersistenceMixin
from .search.costs import count_macs, count_parameters
from .search.limits import Latency
from .search.method import SearchMethod
from .training.clock import Stopwatch
from .training.devices import placed, resolve_device
from .training.execution import FLOAT32, PRECISIONS, Execution
from .training.memory import explained_memory_error, explained_shortage
from .training.surroundings import own_surroundings

__all__ = ["SupernetTransferClassifier"]

logger = logging.getLogger(__name__)

_SEARCH_SHARE = 0.5  # of a time limit
_DERIVATION_SHARE = 0.75  # after the search


class SupernetTransferClassifier(
    PersistenceMixin,
    SourceMixin,
    ExportMixin,
    ReportingMixin,
    ClassifierMixin,
    BaseEstimator,
):
    """Image classifier whose architecture is searched from a pretrained supernet.

    ``fit`` takes a supernet from a zoo, goes on searching it on the given images, derives the
    discrete architecture, lets it inherit the supernet's weights, and finetunes it.

    Parameters
    ----------
    strategy : str, default="auto"
        What the search starts from: "auto", of the supernets that were pretrained on many datasets,
        one of each family, the one whose features suit the images best, see ``scores_``; "multi",
        the supernet of the first family that was pretrained on many sources together; "ot", the
        source at the smallest dataset distance; "oracle", every source in turn, of which the best
        on validation data is kept (an upper bound at the cost of one search per source); "random",
        a source drawn at random; "scratch", random weights; or the name of a source.
    family : {"auto", "cells", "elastic", "paths"} or Family, default="auto"
        Kind of supernet: "cells", whose operations are chosen; "elastic", EfficientNet-Lite0
        with its ImageNet weights and smaller networks within it; or "paths", of which every block
        of a row is chosen from a few. "auto" is the one of the source; a strategy that chooses
        within one family takes the first that has the ``search``. An object, such as
        `Cells(n_cells=8)`, has the sizes of the supernet of strategy "scratch" and of the final
        network; a source brings its own supernet.
    zoo : str, path or Zoo, default="builtin"
        Where pretrained supernets come from: "builtin", the zoo that comes with the package; a
        folder; or a zoo on the Hugging Face Hub, ``"org/name"`` or ``"org/name@revision"``, of
        which only the sources that the fit starts from or compares are downloaded. See `Zoo.open`.
    embedder : str, callable or Embedder, default="efficientnet_lite0"
        The frozen network whose features are compared, see `supernetnas.get_embedder`. It must
        be the one that the zoo was made with. Used by strategy "ot".
    image_shape : tuple of int or None, default=None
        Height, width and, unless grey, channels of one image where X holds rows of pixels.
    image_size : int, tuple of int or "auto", default="auto"
        Height and width that images are resized to for the network, from 8 to 224. "auto" keeps the
        size of the images within 8 to 32 pixels a side for cells, fewer under ``max_macs``, and 32
        to 64 for paths; for elastic networks, which see squares, it is 128, less for images of less
        than 32 pixels.
    resize : {"squeeze", "crop", "pad"}, default="squeeze"
        What becomes of images of another aspect than what the network sees: "squeeze" changes it,
        "crop" leaves out what is too long, and "pad" adds zeros on both sides. `show_inputs` draws
        the result.
    search : str or SearchMethod, default="auto"
        How the supernet is searched. Of cells "auto" is "none", the architecture that the source's
        alphas stand for, since in the same time no search was better; only from random weights and
        for strategy "oracle" it is "sdarts", SmoothDARTS. Others are "darts" and "darts2", DARTS of
        first and of second order; "pc_darts", PC-DARTS; "drnas", DrNAS in two stages; "gdas", GDAS;
        "evolution" and "shifting", as of single paths; and the baselines "random", an architecture
        drawn at random, and "random_search", the best on validation data of 50 random architectures
        under weights that were trained on random architectures. An object has the method's own
        parameters, such as ``SmoothDARTS(epochs=3)``; they can be set as ``search__epochs``, too.
        Elastic networks have "probe", which is "auto" there: the largest network or, under limits,
        the best by a linear probe; "front", several networks along the front of accuracy against
        cost, see `at`; "random"; and "evolution". Single paths have "none", a random path, which is
        "auto" as for cells; "evolution", which is it from random weights; "shifting", which goes on
        training the supernet along the paths that it compares; and "random", the best of some
        random paths.
    retraining : Retraining or None, default=None
        How the derived network is trained to the end; None is ``Retraining()``, whose parameters
        can be set as ``retraining__epochs`` and so on.
    preset : {"quick", "default", "best"}, default="default"
        How long the retraining is where ``retraining`` leaves it open: "quick" is a third of the
        epochs, "best" three times as many.
    max_macs, max_parameters : int >= 1 or None, default=None
        Most multiply-accumulates for one image, and most trainable values, of the final network.
        The search is pushed below them, and the network keeps them. Where ``image_size`` is "auto",
        cells see fewer pixels before ``max_macs`` takes operations from the source's genotype, down
        to a half of the side, and are trained for longer instead. Of cells they need ``search``
        "none", "evolution", "shifting", or "sdarts", "darts" or "gdas" with
        ``derivation="argmax"``; of other families all keep them.
    max_latency : float > 0, Latency or None, default=None
        Most seconds that the final network takes for one image, alone, as measured on the device of
        the fit with the threads that torch has there. A `Latency` is for larger batches, or for
        another device that a callable measures on. Needs what ``max_macs`` needs.
    batch_size : int >= 2 or "auto", default="auto"
        "auto" is a sixteenth of the images, within 16 and 64; for elastic networks it is 32.
    augmentation : {"auto", "none"} or Augmentation, default="auto"
        How images are varied in training. "auto" shifts; colour images of more than
        32 pixels a side, which are taken for photographs, are also flipped and partly erased. Pass
        an Augmentation without flip for large coloured signs.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in every loss, by label; classes that a dict leaves out weigh 1.
        "balanced" weighs a class by the inverse of its share of the images.
    holdout_fraction : float >= 0 and < 1, default=0
        Share of each class that is held out of the whole fit, from the choice of the source to the
        last epoch, to measure the network: after each epoch in ``history_``, and at the end in
        ``holdout_``. By default nothing is, since a network gets better with every image.
    verbose : int >= 0 or bool, default=0
        1 shows a bar and how long the fit takes, 2 a line per epoch, both on the standard error.
    time_limit : float > 0 or None, default=None
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
    precision : {"auto", "float32", "bfloat16"} or Execution, default="auto"
        What convolutions compute in while networks are trained; alphas, weights and the statistics
        of batch norms stay in float32. "auto" is bfloat16 on a GPU that has it, and for elastic
        networks on a CPU that multiplies in it; else float32, since for the others bfloat16 is
        slower on a CPU. Searches along single architectures, "evolution" and "shifting", take
        float32 under "auto". Predictions are made in float32. An Execution also says whether
        training is compiled or captured as graphs, and whether it saves memory:
        ``Execution(compile="graph", checkpointing=True)``.
    random_state : int, RandomState instance or None, default=None
        Seed of everything; None is a fresh seed for each fit. The same int gives the same network
        on the same CPU with the same number of threads: another number adds in another order, and
        training amplifies the rounding. joblib gives its worker processes fewer threads, so set
        ``OMP_NUM_THREADS=1``, or use ``joblib.parallel_config(backend="loky",
        inner_max_num_threads=...)``, where results must not depend on ``n_jobs``. Global random
        states are neither read nor changed.

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
    family_ : str
        Name of the kind of supernet.
    source_ : str
        Name of the source that the search started from, or "scratch".
    source_record_ : dict or None
        What the source was: ``weights_sha256``, of its file of weights, and ``trained_on``, the
        datasets that its supernet has seen. None without a source.
    distances_ : dict of str to float, or None
        Distance to each source, nearest first, where the strategy measured it.
    scores_ : list of dict or None
        Where there was a choice of supernets: ``source``, ``family``,
        ``image_size``, and the ``accuracy`` of a linear model of its features on at most 400
        images, each left out in turn; the fit started from the best. Of near ties, and of
        networks that are yet to be taught, also the ``race_accuracy`` of brief fits on images held
        out, which then decides.
    signature_ : DatasetSignature or None
        What the strategy compared with the sources: statistics and a sample of the features of
        the images, at most a few megabytes. `Zoo.add_classifier` makes a source with it.
    architecture_ : Genotype or ElasticArchitecture
        The architecture; as ``genotype_``, too, where it is one.
    outcome_ : str
        How the architecture differs from that of the source, and from what it was chosen.
    front_ : list of dict
        Of a fit that has trained several networks, what each costs and reaches:
        ``architecture``, ``n_macs``, ``n_parameters``, ``probe_accuracy`` (of a linear model of its
        features before training, each image left out in turn) and, with ``search="front"``,
        ``validation_accuracy``. `at` returns any of them.
    network_ : torch.nn.Module
        The trained network.
    supernet_config_ : object
        What the supernet was built from.
    supernet_state_ : dict of str to ndarray
        The searched supernet: weights and alphas, without the classifier's.
    history_ : list of dict
        One row per epoch and stage; ``pandas.DataFrame(clf.history_)`` is a table.
    holdout_ : Evaluation or None
        What the network predicts for the images that it was not trained on: those of
        ``holdout_fraction``, or else those that ``search="front"`` holds out. None without any,
        since the classes of what a network was trained on say little about it; see `evaluate`.
    n_parameters_, n_macs_ : int
        Cost of the network: trainable values, and multiply-accumulates for one image.
    inherited_ : float
        Share of the network's weights that came from the supernet.
    device_ : str

    References
    ----------
    .. [1] P. Singh, J. Vanschoren, "On Supernet Transfer Learning for Effective Task
       Adaptation".
    .. [2] X. Chen, C.-J. Hsieh, "Stabilizing Differentiable Architecture Search via
       Perturbation-based Regularization", ICML 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from supernetnas import SupernetTransferClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = SupernetTransferClassifier(random_state=0).fit(X, y)  # doctest: +SKIP
    """

    constraints: ClassVar[dict[str, Constraint]] = {
        "family": AnyOf(OneOf("auto", *available_families()), Instance(Family, "Family")),
        "resize": RESIZING,
        "search": AnyOf(Instance(str, "str"), Instance(SearchMethod, "SearchMethod")),
        "retraining": AnyOf(Instance(Retraining, "Retraining"), NOTHING),
        "preset": OneOf(*PRESETS),
        "max_macs": AnyOf(Whole(1), NOTHING),
        "max_parameters": AnyOf(Whole(1), NOTHING),
        "max_latency": AnyOf(Real(), Instance(Latency, "Latency"), NOTHING),
        "batch_size": AnyOf(Whole(2), OneOf("auto")),
        "augmentation": AnyOf(OneOf("auto", "none"), Instance(Augmentation, "Augmentation")),
        "class_weight": AnyOf(Instance(dict, "dict"), OneOf("balanced"), NOTHING),
        "holdout_fraction": Real(0, 1, "low"),
        "time_limit": AnyOf(Real(), NOTHING),
        "checkpoint_dir": AnyOf(Instance((str, os.PathLike), "str, path"), NOTHING),
        "precision": AnyOf(OneOf(*PRECISIONS), Instance(Execution, "Execution")),
        "verbose": AnyOf(Whole(0), Instance(bool, "bool")),
    }

    def __init__(
        self,
        strategy="auto",
        *,
        family="auto",
        zoo="builtin",
        embedder="efficientnet_lite0",
        image_shape=None,
        image_size="auto",
        resize="squeeze",
        search="auto",
        retraining=None,
        preset="default",
        max_macs=None,
        max_parameters=None,
        max_latency=None,
        batch_size="auto",
        augmentation="auto",
        class_weight=None,
        holdout_fraction=0,
        verbose=0,
        time_limit=None,
        checkpoint_dir=None,
        device="auto",
        precision="auto",
        random_state=None,
    ):
        self.strategy = strategy
        self.family = family
        self.zoo = zoo
        self.embedder = embedder
        self.image_shape = image_shape
        self.image_size = image_size
        self.resize = resize
        self.search = search
        self.retraining = retraining
        self.preset = preset
        self.max_macs = max_macs
        self.max_parameters = max_parameters
        self.max_latency = max_latency
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.class_weight = class_weight
        self.holdout_fraction = holdout_fraction
        self.verbose = verbose
        self.time_limit = time_limit
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def set_params(self, **params):
        """Set parameters by name, those of ``search``, ``retraining`` and ``family`` as well.

        Parameters
        ----------
        **params : dict
            Such as ``search="drnas"`` or ``search__epochs=3``; the latter makes the object that a
            name stands for, of "auto" one that searches, and changes one that is there.

        Returns
        -------
        self : SupernetTransferClassifier
        """
        nested = {name: value for name, value in params.items() if "__" in name}
        parts = {name.partition("__")[0] for name in nested}
        before = {name: getattr(self, name) for name in self.get_params(deep=False)}
        makers = {
            "search": searching_method_of,
            "retraining": retraining_of,
            "family": family_of,
        }
        for name in parts & before.keys() - makers.keys():
            if not hasattr(before[name], "set_params"):
                raise ParameterError(
                    f"What {name!r} consists of cannot be set by name, as by {name}__...; pass "
                    f"{name} as a whole. By name go those of {', '.join(map(repr, makers))}."
                )
        inner = {}
        try:
            super().set_params(**{name: v for name, v in params.items() if "__" not in name})
            for name in parts & makers.keys():
                setattr(self, name, makers[name](self))
            inner = {name: getattr(self, name).get_params() for name in parts & before.keys()}
            return super().set_params(**nested)
        except Exception:  # all or nothing
            for name, values in inner.items():
                getattr(self, name).set_params(**values)
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _repr_html_inner(self) -> str:
        """What notebooks show: of a fitted classifier what was found, else the parameters."""
        if not hasattr(self, "network_"):
            return super()._repr_html_inner()
        return summary_html(Fitted.of(self), repr(self))

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] = self._repr_html_inner()
        return bundle

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    @own_surroundings()
    def fit(self, X, y, **fit_params):
        """Search, derive and train a network for the images X of the classes y.

        A fit that fails or is interrupted leaves the classifier as it was; with a
        ``checkpoint_dir`` it can be called again to go on.

        Parameters
        ----------
        X : array-like or sequence of images
            Rows of pixels (n, p); images (n, h, w), (n, h, w, c) or (n, c, h, w); a sequence of
            paths, PIL images or arrays of any sizes; see `supernetnas.images.reading.as_image_set`.
        y : array-like of shape (n,)
            Labels: integers, strings or booleans.
        **fit_params : dict
            Refused, ``sample_weight`` included: scikit-learn demands that a weight of 2 be the same
            as an image that is there twice, which training in random batches cannot give. The
            parameter ``class_weight`` weighs classes.

        Returns
        -------
        self : SupernetTransferClassifier

        Raises
        ------
        TypeError, ValueError
            If parameters or data are wrong; before any long work.
        OSError
            If images cannot be read; names the first and counts them. If no checkpoint can be
            written, one is damaged, or another process is at the same fit. (One that cannot be
            written later is warned of, and the fit goes on.)
        ZooError, HubError
            If the zoo is missing or damaged, or cannot be had from the Hub.
        FloatingPointError
            If the search or the retraining diverges.
        MemoryError
            If a step needs more memory than there is; suggests a batch size.
        """
        watch = Stopwatch(self.time_limit)
        refuse_fit_parameters(fit_params)
        data, zoo, embedder = checked(self, X, y)
        device, asked = resolve_device(self.device), execution_of(self)
        limits = limits_of(self)

        with (
            fit_checkpoints(self.checkpoint_dir, self._fingerprint(data, device), watch) as kept,
            self._progress() as progress,
        ):
            seed = kept.seed(partial(draw_seed, self))
            data, aside, places = hold_out(data, float(self.holdout_fraction), seed)
            run = Run(torch.Generator().manual_seed(seed), watch, progress, kept)
            progress.doing("embedding" if embedder else "choosing the start")
            selection = selected(self, zoo, data, embedder, device, seed)
            start, scores, sources = chosen_start(
                self, selection.candidates, data, device, seed, kept, race=not progress.rehearses
            )
            family, seen = start.family, start.seen
            execution = family.execution(asked, device)
            along_paths = FLOAT32 if asked.precision == "auto" else execution
            method = method_of(self, family)
            warn_of_unused_sizes(family, start.source)
            warn_of_lost_detail(data.images, seen.size, self.image_size, self.resize)
            target = prepare(data, seen, self.augmentation, device, self.resize)
            held_out = read_held_out(aside, places, target.preprocessing, device)
            n_train = round(len(target.labels) * (1 - method.validation_share))
            batch_size = batch_size_of(self, n_train)
            with explained_memory_error(batch_size, execution.checkpointing):
                searched = candidates_of(
                    *(sources, family, seen, target, limits, execution, run, along_paths)
                )
                if progress.estimates and method.n_epochs:
                    settings = settings_of(
                        self, family, searched[0].pretrained, len(target.labels), start.times_epochs
                    )
                    expect_search(
                        searched, family, seen, target, method, settings.epochs, execution, run
                    )
                found = search_best(
                    searched,
                    target,
                    method,
                    batch_size,
                    run,
                    self._share_of_time(_SEARCH_SHARE),
                )
            architecture = derive(
                found, method, family, run, self._share_of_time(_DERIVATION_SHARE)
            )
            outcome = describe_outcome(found, architecture, family)
            run.progress.tell(outcome)
            logger.info("%s", outcome)
            settings = settings_of(
                self, family, found.start.pretrained, len(target.labels), start.times_epochs
            )
            learner, inherited = family.learner(
                found.search,
                architecture,
                dropout=settings.dropout,
                seed=run.draw_seed(),
                pretrained=found.start.pretrained,
            )
            train = found.task.train if method.holds_out else target.part()
            if held_out is None and method.holds_out:
                held_out = HeldOut(found.task.validation, found.compared_on.numpy())

            def measured() -> dict[str, float]:
                if held_out is None:
                    return {}
                return held_out.measure(family.trained(learner, architecture), family)

            def measured_in_training() -> dict[str, float]:
                return measured() if family.trains(learner, architecture) else {}

            retraining = (train, target, settings, family, execution, run, measured_in_training)
            history = finetune(learner, *retraining, time_limit=self.time_limit)
            if family.teaches(learner):
                learner = family.taught(learner)
                history += finetune(learner, *retraining, time_limit=self.time_limit, taught=True)
            history[-1] |= measured()  # after the last pass over the statistics
            network = family.trained(learner, architecture)
            holdout = None
            if held_out is not None:
                holdout = held_out.evaluate(network, family, data.classes, X)
            front = family.front(learner, found.search)
            supernet = found.search.searched_supernet()
            if found.search.out_of_time and found.search.epoch < method.n_epochs:
                done = found.search.epoch, method.n_epochs
                logger.warning("search ended after %d of %d epochs", *done)
            if method.holds_out:
                validate_front(front, family, supernet, found.task.validation)

        Fitted(
            classes=data.classes,
            n_features_in=data.n_features_in,
            feature_names_in=data.feature_names_in,
            image_shape=data.images.native_shape,
            preprocessing=target.preprocessing,
            family=family.name,
            source=found.start.name,
            source_record=found.start.record,
            distances=selection.distances,
            scores=scores or None,
            signature=selection.signature,
            architecture=architecture,
            outcome=outcome,
            front=front,
            network=network,
            inherited=inherited,
            supernet_config=supernet.config,
            supernet_state=plain_state(supernet, family.head),
            history=found.history + history,
            holdout=holdout,
            n_parameters=count_parameters(network),
            n_macs=count_macs(network, seen.shape),
            device=str(device),
        ).assign(self)
        return self

    @own_surroundings()
    def at(self, *, max_macs=None, max_parameters=None, max_latency=None):
        """Return another network of the same fit as a classifier, without another fit.

        A fit under limits or with ``search="front"`` of the family "elastic" trains several
        networks, which ``front_`` lists.

        Parameters
        ----------
        max_macs, max_parameters : int >= 1 or None, default=None
            Most multiply-accumulates for one image, and most trainable values.
        max_latency : float > 0, Latency or None, default=None
            Most seconds for one image, as measured now on ``device_`` with the threads that torch
            has; or a `Latency`, as for a fit.

        Returns
        -------
        SupernetTransferClassifier
            Fitted. Of the networks within the limits it has the most expensive; ``outcome_`` and
            the log say if a cheaper one had a greater ``validation_accuracy``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            If no network that was trained keeps the limits; names those that there are.
        """
        check_is_fitted(self)
        given = {
            "max_macs": max_macs,
            "max_parameters": max_parameters,
            "max_latency": max_latency,
        }
        for name, value in given.items():
            check_parameter(type(self).__name__, name, value, self.constraints[name])
        other = clone(self).set_params(**given)
        limits = limits_of(other, self.device_)
        if limits.max_latency is not None:
            limits.max_latency.check()
        fitted, family = Fitted.of(self), get_family(self.family_)
        state = {name: torch.from_numpy(a) for name, a in self.supernet_state_.items()}
        shape = (fitted.preprocessing.channels, *self.image_size_)

        def build(architecture) -> torch.nn.Module:
            return placed(family.member(self.supernet_config_, state, architecture), self.device_)

        row, network, outcome = choose_member(self.front_, limits, build, shape)
        logger.info("%s", outcome)
        replace(
            fitted,
            architecture=row["architecture"],
            outcome=outcome,
            network=network,
            holdout=None,
            n_macs=count_macs(network, shape),
            n_parameters=count_parameters(network),
        ).assign(other)
        return other

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

    @own_surroundings()
    @explained_shortage("predict so many images at once", "Pass fewer in each call.")
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
        FloatingPointError
            If the network returns numbers that are not finite.

        Warns
        -----
        UserWarning
            If a few images are very dark, or have no negative values unlike those in ``fit``, so
            that they may be on another scale. Ten or more such images are an error.
        """
        check_is_fitted(self)
        return np.concatenate(list(self._predicted_batches(X)))

    def score(self, X, y, sample_weight=None):
        """Return the accuracy: the share of images whose class is predicted rightly.

        Parameters
        ----------
        X : array-like or sequence of images
            As in `predict_proba`.
        y : array-like of shape (n,)
            Their true classes.
        sample_weight : array-like of shape (n,), default=None
            How much each image counts.

        Returns
        -------
        float
        """
        return super().score(X, y, sample_weight)

    def _predicted_batches(self, X) -> Iterator[np.ndarray]:
        """Yield the rows of `predict_proba`, a batch of images at a time."""
        images = read_new_images(self, X)
        network = for_predictions(self.network_, get_family(self.family_).folded)
        for batch in self.preprocessing_.batches(images, self.device_):
            with torch.inference_mode():
                probabilities = network(batch).float().softmax(dim=1).cpu().numpy()
            if not np.isfinite(probabilities).all():
                raise FloatingPointError(
                    "The network returns numbers that are not finite: its weights, or the pixel "
                    "values of X, are too large."
                )
            yield probabilities

    def show_inputs(self, X, y=None, *, n_images=12):
        """Draw some images as the network sees them: at its size, and of its aspect.

        Parameters
        ----------
        X : array-like or sequence of images
            As in `predict_proba`.
        y : sequence of shape (n,), optional
            A name for each image.
        n_images : int, default=12
            Most images; of more, as many are drawn at equal distances.

        Returns
        -------
        InputsDisplay
            Drawn.
        """
        from .plotting.inputs import InputsDisplay  # only who draws needs matplotlib

        return InputsDisplay.from_estimator(self, X, y, n_images=n_images)

    def _progress(self) -> Progress:
        return Progress(int(self.verbose))

    def _share_of_time(self, share: float) -> float | None:
        return None if self.time_limit is None else share * self.time_limit

    def _fingerprint(self, data: TrainingData, device: torch.device) -> str:
        """Name this fit for its checkpoints, after the images as they came."""
        if self.checkpoint_dir is None:
            return ""
        parameters = self.get_params(deep=False)
        contents = [data.labels, data.classes]
        return fingerprint(parameters, data.images.contents(), contents, device.type)
