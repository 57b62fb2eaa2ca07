"""``supernetnas distance``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..distance.otdd import OTDDResult
from ..distance.signature import DatasetSignature
from ..distance.signing import sign
from ..embedding.embedder import Embedder, get_embedder
from ..images.datasets import load_dataset
from ..images.reading import as_image_set
from ..selection.ranking import FEW_SOURCES, SHORTLIST
from ..training.devices import resolve_device
from ..zoo import Zoo
from ..zoo.entries import UnknownSourceError
from .pictures import check_picture, save_picture
from .printing import fields, progress_shown, table

__all__ = ["distance"]


def distance(args: argparse.Namespace) -> None:
    """Print the distances from A to each B, nearest first."""
    for option in ("plot", "heatmap", "coupling"):
        if path := getattr(args, option):
            check_picture(f"--{option}", path)
    arguments = [args.a, *args.b]
    zoo = None
    if not args.b or not all(map(_is_path, arguments)):
        zoo = Zoo.open(args.zoo)
    whole = None if args.b else zoo  # all of which A is compared with
    others = args.b
    if whole is not None:
        others = [source.name for source in whole.singles() if source.name != args.a]
    if not others:
        raise ValueError(f"{zoo!r} has nothing to compare {args.a!r} with.")
    device = resolve_device(args.device)
    embedder = _embedder(args.embedder, zoo) if any(map(_is_path, arguments)) else None

    def signature(argument: str) -> DatasetSignature:
        if zoo is not None and not _is_path(argument):
            return zoo[argument].signature()
        # There is an embedder if any argument is a path.
        verbose = progress_shown(args.quiet)
        return _signature(argument, embedder, str(device), verbose)  # type: ignore[arg-type]

    if args.heatmap and args.a in others:
        raise ValueError(f"--heatmap: {args.a} is compared with itself; leave it out of B.")
    for argument in arguments:
        if zoo is not None and not _is_path(argument):
            try:
                zoo[argument]  # better found before the features are computed
            except UnknownSourceError as error:
                raise ValueError(f"There is no file or folder {argument!r}. {error}") from error
    target = signature(args.a)
    if whole is not None and len(others) > FEW_SOURCES:
        proposed = whole.subset(others).nearest(target, SHORTLIST)
        print(f"The {len(proposed)} of {len(others)} sources that the zoo's vectors propose:\n")
        others = list(proposed)
    signatures = [signature(b) if whole is None else whole[b].signature() for b in others]
    results = dict(zip(others, target.distances(signatures, device=device), strict=True))
    ranked = sorted(results.items(), key=lambda item: item[1].distance)
    nearest, best = ranked[0]
    print(fields([("from", args.a), ("features", target.embedder_id)]))
    rows = [
        [name, result.distance, result.similarity, result.distance - best.distance]
        for name, result in ranked
    ]
    print("\n" + table(["to", "distance", "similarity", "behind"], rows))
    if args.classes:
        print("\n" + _class_table(best, nearest))
    if args.plot:
        _plot({name: result.distance for name, result in ranked}, args.plot)
    if args.coupling:
        from ..plotting import ClassCouplingDisplay

        own, other = _short_names([args.a, nearest])
        save_picture(ClassCouplingDisplay.from_result(best, names=(own, other)), args.coupling)
    if args.heatmap:
        _heatmap([args.a, *others], [target, *signatures], results, str(device), args.heatmap)


def _short_names(names: list[str]) -> list[str]:
    """Last parts of paths, and the whole where two have the same."""
    stems = [Path(name).stem for name in names]
    return [
        stem if stems.count(stem) == 1 else name for name, stem in zip(names, stems, strict=True)
    ]


def _class_table(result: OTDDResult, name: str) -> str:
    """Where the largest share of each class goes."""
    shares = result.class_coupling / result.class_coupling.sum(axis=1, keepdims=True)
    rows = [
        [label, result.classes_b[position], share]
        for label, position, share in zip(
            result.classes_a, shares.argmax(axis=1), shares.max(axis=1).tolist(), strict=True
        )
    ]
    return table(["class", f"of {name}", "share"], rows)


def _heatmap(
    names: list[str],
    signatures: list[DatasetSignature],
    from_first: dict[str, OTDDResult],
    device: str,
    path: str,
) -> None:
    """Draw all distances, similar datasets side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    from ..plotting import DistanceHeatmapDisplay

    n = len(names)
    matrix = np.zeros((n, n))
    matrix[0, 1:] = [from_first[name].distance for name in names[1:]]
    for i in range(1, n - 1):
        results = signatures[i].distances(signatures[i + 1 :], device=device)
        matrix[i, i + 1 :] = [result.distance for result in results]
    matrix += matrix.T
    order = np.arange(n)
    if n > 2:
        order = leaves_list(linkage(squareform(matrix, checks=False), "average"))
    short = _short_names(names)
    labels = [short[position] for position in order]
    matrix[np.diag_indices(n)] = np.nan  # 0 would take the dark end of the colours
    matrix = matrix[np.ix_(order, order)]
    save_picture(DistanceHeatmapDisplay.from_distances(matrix, labels, values_format=".2f"), path)


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
    images = as_image_set(dataset.images, name=dataset.name)
    return sign(
        *(images, np.asarray(dataset.labels), embedder, dataset.class_names),
        max_embedded=None,
        device=device,
        verbose=verbose,
    )


def _plot(distances: dict[str, float], path: str) -> None:
    from ..plotting import DistanceDisplay

    save_picture(DistanceDisplay(distances, source=next(iter(distances))).plot(), path)
