"""``supernetnas distance``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..devices import resolve_device
from ..embedding import Embedder, get_embedder
from ..images import as_image_set
from ..signature import DatasetSignature
from ..zoo import Zoo
from ..zoo.datasets import load_dataset
from .printing import fields, progress_shown, table

__all__ = ["distance"]


def distance(args: argparse.Namespace) -> None:
    """Print the distances from A to each B, nearest first."""
    if args.plot:
        _check_plot(args.plot)
    arguments = [args.a, *args.b]
    zoo = None
    if not args.b or not all(Path(argument).exists() for argument in arguments):
        zoo = Zoo.open(args.zoo)
    others = args.b or [source.name for source in zoo.singles() if source.name != args.a]
    if not others:
        raise ValueError(f"{zoo!r} has nothing to compare {args.a!r} with.")
    device = resolve_device(args.device)
    embedder = _embedder(args.embedder, zoo) if any(map(_is_path, arguments)) else None

    def signature(argument: str) -> DatasetSignature:
        if not _is_path(argument):
            return zoo[argument].signature()
        return _signature(argument, embedder, str(device), progress_shown(args.quiet))

    for argument in arguments:
        if not _is_path(argument):
            zoo[argument]  # an unknown name is better found before the features are computed
    target = signature(args.a)
    results = {
        other: target.distance(signature(other) if args.b else zoo[other].signature())
        for other in others
    }
    ranked = sorted(results.items(), key=lambda item: item[1].distance)
    print(fields([("from", args.a), ("features", target.embedder_id)]))
    rows = [[name, result.distance, result.similarity] for name, result in ranked]
    print("\n" + table(["to", "distance", "similarity"], rows))
    if args.plot:
        _plot({name: result.distance for name, result in ranked}, args.plot)


def _is_path(argument: str) -> bool:
    return Path(argument).exists()


def _embedder(name: str, zoo: Zoo | None) -> Embedder:
    embedder = get_embedder(name)
    if zoo is not None and embedder.identity != zoo.embedder_id:
        raise ValueError(
            f"The zoo was embedded with {zoo.embedder_id!r}, but --embedder {name} is "
            f"{embedder.identity!r}: their features cannot be compared."
        )
    return embedder


def _signature(path: str, embedder: Embedder, device: str, verbose: bool) -> DatasetSignature:
    dataset = load_dataset(path)
    features = embedder.embed(
        as_image_set(dataset.images, name=dataset.name), device=device, verbose=verbose
    )
    return DatasetSignature.from_features(
        features,
        dataset.labels,
        embedder_id=embedder.identity,
        class_names=dataset.class_names,
    )


def _check_plot(path: str) -> None:
    """Refuse a picture that could not be drawn, before it is long awaited."""
    from ..plotting._common import import_pyplot

    kinds = import_pyplot().Figure().canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in kinds:
        raise ValueError(f"--plot {path}: the ending must be one of {', '.join(sorted(kinds))}.")
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"--plot {path}: there is no such folder.")


def _plot(distances: dict[str, float], path: str) -> None:
    from ..plotting import DistanceDisplay
    from ..plotting._common import import_pyplot

    display = DistanceDisplay(distances, source=next(iter(distances))).plot()
    display.figure_.savefig(path)
    import_pyplot().close(display.figure_)
