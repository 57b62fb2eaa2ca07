"""``supernetnas zoo list``, ``show``, ``verify``, ``vectors`` and ``pretrain``."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from ..zoo import Source, Zoo
from .printing import fields, progress_shown, table

__all__ = ["list_", "pretrain", "show", "vectors", "verify"]


def list_(args: argparse.Namespace) -> None:
    """Print a line for each source of a zoo."""
    print(_sources(Zoo.open(args.zoo)))


def show(args: argparse.Namespace) -> None:
    """Print what is known about a zoo or a source."""
    zoo, name = _zoo_and_source(args.zoo, args.source)
    if name is not None:
        print(_card(zoo[name]))
        return
    print(
        fields(
            [
                ("zoo", zoo.folder),
                ("embedder", zoo.embedder_id),
                ("signatures", "full" if zoo.basis() is None else "compact"),
                ("size", _mebibytes(sum(source.n_bytes for source in zoo.values()))),
            ]
        )
    )
    print(f"\n{_sources(zoo)}")


def verify(args: argparse.Namespace) -> int:
    """Check every file of a zoo; returns 1 if one is not as it should be."""
    zoo = Zoo.open(args.zoo)
    problems = zoo.verify()
    for problem in problems:
        print(problem)
    if not problems:
        n_files = sum(len(source._entry.files) for source in zoo.values())
        print(f"{zoo.folder} is as its index says: {len(zoo)} sources, {n_files} files.")
    return int(bool(problems))


def vectors(args: argparse.Namespace) -> None:
    """Give the sources of a zoo vectors."""
    zoo = Zoo.open(args.zoo)
    zoo.index_vectors()
    space = zoo.vector_space()
    print(f"{len(zoo.singles())} sources have vectors of {space.dimension} numbers.")


def pretrain(args: argparse.Namespace) -> None:
    """Pretrain a zoo and print what it holds."""
    from ..zoo.datasets import load_datasets
    from ..zoo.pretraining import Pretraining, pretrain_zoo

    default = Pretraining()
    zoo = pretrain_zoo(
        load_datasets(args.data),
        args.out,
        pretraining=replace(
            default,
            space=args.space,
            init_channels=args.channels,
            n_cells=args.cells,
            image_side=args.image_size,
            steps=args.steps,
            min_epochs=args.min_epochs,
            multi_epochs=args.multi_epochs,
            settings=replace(default.settings, batch_size=args.batch_size),
            random_state=args.seed,
        ),
        device=args.device,
        embedder=args.embedder,
        multi=args.multi,
        warm_start=None if args.warm_start is None else Zoo.open(args.warm_start),
        dtype=args.dtype,
        compact=args.compact,
        work=args.work,
        verbose=int(progress_shown(args.quiet)),
    )
    print(_sources(zoo))


def _zoo_and_source(zoo: str, source: str | None) -> tuple[Zoo, str | None]:
    """Read the arguments of ``show``, of which one alone may be either."""
    if source is None and zoo != "builtin" and os.sep not in zoo and not Path(zoo).exists():
        return Zoo.open("builtin"), zoo
    return Zoo.open(zoo), source


def _sources(zoo: Zoo) -> str:
    if not zoo:
        return "The zoo has no sources yet."
    head = ["source", "kind", "images", "classes", "space", "channels", "cells", "size"]
    head += ["accuracy", "MiB", "licence"]
    rows = []
    for source in zoo.values():
        config = source.config
        height, width = config.image_size
        rows.append(
            [
                source.name,
                source.kind,
                source.n_images,
                source.n_classes,
                config.space,
                config.init_channels,
                config.n_cells,
                f"{height}x{width}",
                source.metrics.get("validation_accuracy"),
                round(source.n_bytes / 2**20, 2),
                source.provenance.get("licence", "not stated"),
            ]
        )
    return table(head, rows)


def _card(source: Source) -> str:
    config = source.config
    height, width = config.image_size
    provenance = {"licence": "not stated", **source.provenance}
    for count in ("n_images", "n_classes"):
        provenance.pop(count, None)
    return fields(
        [
            ("source", f"{source.name} ({source.kind})"),
            *provenance.items(),
            ("images", source.n_images),
            ("classes", source.n_classes),
            ("class names", source.classes or None),
            ("search space", config.space),
            ("supernet", f"{config.init_channels} channels, {config.n_cells} cells"),
            ("input", f"{height}x{width} pixels, {config.input_channels} channels"),
            *((name.replace("_", " "), value) for name, value in source.metrics.items()),
            ("embedder", source.embedder_id),
            ("size", _mebibytes(source.n_bytes)),
        ]
    )


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.2f} MiB"
