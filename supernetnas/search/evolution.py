"""Evolution of the architectures of a supernet.

That of Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV
2020), algorithm 1: half of a generation are mutations of the best so far, half crosses of them, and
random architectures fill it up. With more objectives than accuracy, the parents are those that
NSGA-II would keep. Without mutations and crosses it is random search of the same budget.

Deviations from the authors' code: architectures of the last generation can be chosen, too; batch
norms are averaged with equal weights; equal accuracies are told apart by their losses; and
candidates that share their first layers share their computation, see `supernetnas.search.scoring`.

The supernet is trained first, along uniformly drawn paths, and may be split on the way, see
`supernetnas.search.supernet_training`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..parameters import NOTHING, AnyOf, Constraint, Instance, OneOf, ParameterError, Real, Whole
from ..training.clock import Stopwatch
from ..training.history import HistoryRow
from .bounds import Bounds, one_of
from .fronts import by_rank_and_crowding, import_pymoo, nearest_to_ideal
from .loop import SearchLoop
from .method import SearchMethod, SearchTask
from .protocols import Architecture, Evolvable
from .scoring import Score, Scorer
from .splitting import Split, SplitSupernet
from .stopping import Plateau
from .supernet_training import SupernetTraining

__all__ = ["Evolution", "EvolutionSearch", "Objectives"]

A = TypeVar("A", bound=Architecture)

_TRIES = 10  # for each architecture of a generation, as in the authors' code
_COSTS = ("macs", "parameters", "latency")
_ALL = ("accuracy", *_COSTS)
_BUILT = 20  # networks, at most, whose latency is measured in the end


class Objectives:
    """What the parameter ``objectives`` may be."""

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            return False
        names = [*value]
        return "accuracy" in names and len({*names}) == len(names) and {*names} <= {*_ALL}

    def __str__(self) -> str:
        *most, last = (f'"{name}"' for name in _COSTS)
        return f'tuple of "accuracy", and {", ".join(most)} or {last}'


class _AllGenerations(Plateau):
    """Stops after the last generation, or one that found no architecture that is new."""

    def update(self, search: Any) -> bool:
        """Look at the search after one more epoch and say whether to stop."""
        last = search.history[-1]
        return search.n_generations >= search.method.generations or last.get("candidates") == 0


class EvolutionSearch(SearchLoop, Generic[A]):
    """Generations of architectures, each better than random ones.

    An epoch is one of the training, as long as the supernet is trained, and then a generation. What
    architectures are scored on is the supernet or, once it was split, the part that they belong to;
    in the end the supernet gets the weights of the part of the best.

    Parameters
    ----------
    supernet : torch.nn.Module
        An `Evolvable`, or what the task's is made of; trained in place.
    task : SearchTask
    method : Evolution

    Attributes
    ----------
    scores : dict of Architecture to Score
        The latest of each that was scored.
    parents : list of Architecture
        What the next generation comes from, best first.
    n_generations : int
        Generations that were scored.
    members : Evolvable
        The supernet, or what runs its members with its weights.
    training : SupernetTraining
        Of the weights, before the first generation.
    """

    supernet: Any

    def __init__(self, supernet: Evolvable[A], task: SearchTask, method: Evolution) -> None:
        super().__init__(supernet, method.n_epochs, task.generator, _AllGenerations(None))
        self.members: Any = supernet if task.evolvable is None else task.evolvable
        timed = "latency" in method.objectives
        self.bounds = Bounds(self.members, task.limits, task.train.images.shape, timed)
        self.method, self.task = method, task
        self.seed = int(torch.randint(2**31 - 1, (), generator=task.generator))
        self.scorer = Scorer(
            *(self.members, task.train, task.validation),
            seed=self.seed,
            n_recalibration=int(method.n_recalibration),
            probe=method.score == "probe",
            execution=task.execution,
        )
        self.training = self._new_training()
        self.scores: dict[A, Score] = {}
        self.parents: list[A] = []
        self.n_generations = 0
        self._watch: Stopwatch | None = None

    def run(
        self,
        *,
        stopwatch: Stopwatch | None = None,
        on_epoch: Callable[[Any], bool | None] | None = None,
    ) -> list[HistoryRow]:
        """As `SearchLoop.run`."""
        self._watch = stopwatch
        return super().run(stopwatch=stopwatch, on_epoch=on_epoch)

    def run_epoch(self) -> HistoryRow:
        """Train the supernet for an epoch, or score a generation."""
        watch = Stopwatch()
        row: HistoryRow = {"stage": "search", "epoch": self.epoch + 1}
        if self.training.ended:
            self._evolve(row)
        else:
            self.training.run_epoch(row, self._watch)
            if not math.isfinite(row["train_loss"]):
                raise EvolutionSearch.divergence(self)  # it may just have ended
            self.scorer.supernet = self.searched
        self.epoch += 1
        row["seconds"] = watch.seconds
        self.history.append(row)
        return row

    @property
    def searched(self) -> Any:
        """The supernet with its members, or the parts that it was split into."""
        return self.training.trained

    def may_stop(self) -> bool:
        """Whether a generation has been scored."""
        return self.n_generations > 0

    @property
    def validation_accuracy(self) -> float:
        """Accuracy of the best architecture; minus infinity before there is one."""
        return max((score.accuracy for score in self.scores.values()), default=float("-inf"))

    def generation(self) -> list[A]:
        """Draw the architectures that are scored next."""
        method, taken, found = self.method, set(self.known()), list[A]()

        def propose(n: int, draw: Callable[[], A]) -> None:
            wanted = len(found) + n
            for _ in range(_TRIES * n):
                if len(found) == wanted:
                    return
                architecture = draw()
                if architecture not in taken and self.bounds.keep(architecture):
                    taken.add(architecture)
                    found.append(architecture)

        if self.parents:
            propose(int(method.mutations), self._mutated)
            propose(int(method.crossovers), self._crossed)
        propose(int(method.population) - len(found), lambda: self.bounds.random(self.generator))
        return found

    def divergence(self) -> FloatingPointError:
        """Return the error of a loss that is not finite, which names the rate to lower."""
        return FloatingPointError(
            f"The search diverged in epoch {self.epoch + 1}: its loss is not finite. Lower its "
            f"learning_rate ({self.method.learning_rate:g})."
        )

    def known(self) -> Iterable[A]:
        """Architectures that are not scored again."""
        return self.scores

    def score(self, generation: Sequence[A]) -> None:
        """Score a generation."""
        self.scores.update(zip(generation, self.scorer(generation), strict=True))

    def ranking(self) -> list[A]:
        """Architectures that were scored, best first."""
        scored = sorted(self.scores, key=lambda a: self.scores[a].rank, reverse=True)
        if len(self.method.objectives) == 1:
            return scored
        order, _ = by_rank_and_crowding(self._points(scored))
        return [scored[place] for place in order]

    def front(self) -> list[A]:
        """Architectures that no other beats in all objectives, the most accurate first."""
        scored = sorted(self.scores, key=lambda a: self.scores[a].rank, reverse=True)
        if len(self.method.objectives) == 1:
            return scored[:1]
        _, ranks = by_rank_and_crowding(self._points(scored))
        return [a for a, rank in zip(scored, ranks, strict=True) if rank == 0]

    def derive(self, stopwatch: Stopwatch | None = None) -> A:
        """Return the best architecture.

        With more objectives than accuracy it is the one of the front that is nearest to the best
        in each of them. Under a limit on latency it is the first that keeps it when it is built.
        Where time was over before the first generation, that one is scored now.
        """
        if not self.n_generations:
            self.training.ended = True
            self.run_epoch()
        best = self._confirmed()
        if isinstance(self.searched, SplitSupernet):
            self.members.load_state_dict(self.searched.part(best).state_dict())
        return best

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `SearchLoop.state`, with what was scored and, meanwhile, the training."""
        tensors, state = super().state()
        encode = self.bounds.space.encode
        state["seed"], state["n_generations"] = self.seed, self.n_generations
        state["parents"] = [list(encode(a)) for a in self.parents]
        state["scores"] = [[list(encode(a)), *score] for a, score in self.scores.items()]
        state["bounds"] = self.bounds.state()
        training, state["training"] = self.training.state()
        return tensors | {f"training.{name}": t for name, t in training.items()}, state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, state)
        self.bounds.load_state(state["bounds"])
        decode = self.bounds.space.decode
        self.seed = self.scorer.seed = state["seed"]
        self.n_generations = state["n_generations"]
        self.parents = [decode(genes) for genes in state["parents"]]
        self.scores = {decode(genes): Score(*score) for genes, *score in state["scores"]}
        prefix, self.training = "training.", self._new_training()
        self.training.load_state(
            {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)},
            state["training"],
        )
        self.scorer.supernet = self.searched

    def _new_training(self) -> SupernetTraining[A]:
        method = self.method
        return SupernetTraining(
            *(self.members, self.bounds.space, self.task),
            seed=self.seed,
            epochs=int(method.epochs),
            learning_rate=float(method.learning_rate),
            label_smoothing=float(method.label_smoothing),
            split=method.split,
        )

    def _evolve(self, row: HistoryRow) -> None:
        generation = self.generation()
        self.score(generation)
        best = max(self.scores.values(), key=lambda score: score.rank)
        if not math.isfinite(best.loss):
            raise self.divergence()
        self.n_generations += 1
        ranking = self.ranking()
        self.parents = ranking[: int(self.method.parents)]
        row["validation_accuracy"], row["validation_loss"] = best
        row["candidates"] = len(generation)

    def _confirmed(self) -> A:
        """Return the best architecture that keeps the limits when it is built."""
        front = self.front()
        best = front[nearest_to_ideal(self._points(front))]
        for architecture in [best, *self.ranking()[:_BUILT]]:
            if self.bounds.confirmed(architecture):
                return architecture
        cheapest = self.bounds.cheapest
        taken = "The cheapest is taken, whose accuracy was not compared"
        if not self.bounds.confirmed(cheapest):
            taken += ", though it is slower, too"
        warnings.warn(
            "The networks of the best architectures are slower than predicted, and than "
            f"max_latency, when they are built. {taken}.",
            UserWarning,
            stacklevel=3,
        )
        return cheapest

    def _mutated(self) -> A:
        parent = one_of(self.parents, self.generator)
        probability = float(self.method.mutation_probability)
        return self.bounds.mutated(parent, probability, self.generator)

    def _crossed(self) -> A:
        first, second = (one_of(self.parents, self.generator) for _ in range(2))
        return self.bounds.crossed(first, second, self.generator)

    def _seconds(self, architecture: A) -> float:
        assert self.bounds.latency is not None
        return self.bounds.latency(architecture)

    def _points(self, architectures: Sequence[A]) -> np.ndarray:
        """Objectives of architectures, of shape (n, objectives); the smaller, the better."""
        columns: dict[str, Callable[[A], float]] = {
            "accuracy": lambda a: -self.scores[a].accuracy,
            "macs": lambda a: self.bounds.costs(a)[0],
            "parameters": lambda a: self.bounds.costs(a)[1],
            "latency": self._seconds,
        }
        chosen = [columns[name] for name in self.method.objectives]
        return np.array([[column(a) for column in chosen] for a in architectures], dtype=float)


class Evolution(SearchMethod):
    """Evolution: the best architectures so far are mutated and crossed, generation by generation.

    The supernet is trained along random paths before.

    Parameters
    ----------
    generations : int >= 1, default=20
        Generations that are scored; the first is random.
    population : int >= 2, default=50
        Architectures in each.
    parents : int >= 1, default=10
        Best architectures so far that the next generation comes from.
    mutations, crossovers : int >= 0, default=25
        How many of a generation are mutations, and how many crosses of two parents; the rest is
        random. With none of both it is random search.
    mutation_probability : float > 0 and <= 1, default=0.1
        Of each choice of an architecture that is mutated.
    objectives : tuple of "accuracy", and "macs", "parameters" or "latency", default=("accuracy",)
        What is to be good. With several, parents are those that NSGA-II keeps, which needs pymoo
        (``pip install "supernetnas[evolution]"``), and the architecture is that of the front which
        is nearest to the best in each.
    score : {"classifier", "probe"}, default="classifier"
        What the accuracy is of: the supernet's own classifier on the images that are held out, or
        a linear model of the features, each image left out in turn.
    epochs : int >= 0, default=10
        Passes over the images that train the supernet, each batch along a random path.
    learning_rate : float > 0, default=0.001
        Of this training.
    label_smoothing : float >= 0 and < 1, default=0.1
        Of this training.
    validation_fraction : float > 0 and < 1, default=0.2
        Share of each class that architectures are compared on with "classifier". Retraining uses
        all images.
    n_recalibration : int >= 1, default=1280
        Images, about, that the batch norms of each architecture get their statistics from.
    split : Split or None, default=None
        What the supernet is split into after these epochs, and how its parts go on training.

    References
    ----------
    .. [1] Z. Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling",
       ECCV 2020.
    """

    name = "evolution"
    along_paths = True
    constraints: ClassVar[Mapping[str, Constraint]] = {
        "generations": Whole(1),
        "population": Whole(2),
        "parents": Whole(1),
        "mutations": Whole(0),
        "crossovers": Whole(0),
        "mutation_probability": Real(0, 1, "high"),
        "objectives": Objectives(),
        "score": OneOf("classifier", "probe"),
        "epochs": Whole(0),
        "learning_rate": Real(),
        "label_smoothing": Real(0, 1, "low"),
        "validation_fraction": Real(0, 1),
        "n_recalibration": Whole(1),
        "split": AnyOf(Instance(Split, "Split"), NOTHING),
    }

    def __init__(
        self,
        generations=20,
        *,
        population=50,
        parents=10,
        mutations=25,
        crossovers=25,
        mutation_probability=0.1,
        objectives=("accuracy",),
        score="classifier",
        epochs=10,
        learning_rate=0.001,
        label_smoothing=0.1,
        validation_fraction=0.2,
        n_recalibration=1280,
        split=None,
    ):
        self.generations = generations
        self.population = population
        self.parents = parents
        self.mutations = mutations
        self.crossovers = crossovers
        self.mutation_probability = mutation_probability
        self.objectives = objectives
        self.score = score
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.label_smoothing = label_smoothing
        self.validation_fraction = validation_fraction
        self.n_recalibration = n_recalibration
        self.split = split

    def check(self) -> None:
        """Refuse parameters that may not be, and objectives without pymoo."""
        super().check()
        if self.mutations + self.crossovers > self.population:
            raise ParameterError(
                f"mutations={self.mutations} and crossovers={self.crossovers} are parts of a "
                f"generation, and together more than its population={self.population}. Raise "
                "population, or lower them."
            )
        if len(self.objectives) > 1:
            import_pymoo()

    @property
    def limited(self) -> bool:
        return True

    @property
    def n_epochs(self) -> int:
        after = 0 if self.split is None else int(self.split.epochs)
        return int(self.epochs) + after + int(self.generations)

    @property
    def validation_share(self) -> float:
        return 0.0 if self.score == "probe" else float(self.validation_fraction)

    def start(self, supernet: Any, task: SearchTask) -> EvolutionSearch:
        """Begin a search of a supernet, which will be changed in place."""
        return EvolutionSearch(supernet, task, self)

    def derive(
        self, search: EvolutionSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> Any:
        """Choose the architecture."""
        return search.derive(stopwatch)
