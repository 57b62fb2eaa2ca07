"""``supernetnas zoo list``, ``show``, ``verify``, ``vectors``, ``pull``, ``push``, ``pretrain``."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from ..storage.foreign_text import one_line
from ..storage.hub import hub_address
from ..zoo import Source, Zoo
from ..zoo.provenance import described_provenance
from .printing import fields, progress_shown, table

__all__ = ["list_", "pretrain", "pull", "push", "show", "vectors", "verify"]

_LONGEST = 40  # letters of a licence in a list


def list_(args: argparse.Namespace) -> None:
    """Print a line for each source of a zoo."""
    print(_sources(_open(args.zoo, args.quiet)))


def show(args: argparse.Namespace) -> None:
    """Print what is known about a zoo or a source."""
    zoo, name = _zoo_and_source(args.zoo, args.source, args.quiet)
    if name is not None:
        print(_card(zoo[name]))
        return
    print(
        fields(
            [
                ("zoo", zoo.where),
                ("embedder", zoo.embedder_id),
                ("signatures", "full" if zoo.basis() is None else "compact"),
                ("size", _mebibytes(sum(source.n_bytes for source in zoo.values()))),
            ]
        )
    )
    print(f"\n{_sources(zoo)}")


def verify(args: argparse.Namespace) -> int:
    """Check every file of a zoo; returns 1 if one is not as it should be."""
    zoo = _open(args.zoo, args.quiet)
    problems = zoo.verify()
    for problem in problems:
        print(problem)
    if not problems:
        n_files = sum(len(source.entry.files) for source in zoo.values())
        print(f"{one_line(zoo.where)} is as its index says: {len(zoo)} sources, {n_files} files.")
    return int(bool(problems))


def pull(args: argparse.Namespace) -> None:
    """Fetch a zoo from the Hub, and print what there is now."""
    if args.out and not (args.all or args.sources):
        raise ValueError("--out needs to know which supernets to write: name sources, or --all.")
    zoo = Zoo.from_pretrained(args.zoo, progress=progress_shown(args.quiet))
    names = zoo.names if args.all else [zoo[name].name for name in args.sources]
    zoo.download(weights=False)
    zoo.download(names)
    folder = None if not args.out else zoo.save(args.out, names).folder
    print(
        fields(
            [
                ("zoo", zoo.where),
                ("signatures", len(zoo.singles())),
                ("supernets", names or None),
                ("cache", zoo.folder),
                ("folder", folder),
            ]
        )
    )


def push(args: argparse.Namespace) -> None:
    """Publish a zoo on the Hub, and print where."""
    pushed = Zoo.open(args.zoo).push_to_hub(
        args.repository,
        revision=args.revision,
        create_pr=args.create_pr,
        overwrite=args.overwrite,
        prune=args.prune,
        private=args.private or None,
        message=args.message,
    )
    print(fields([("commit", pushed.commit), ("branch", pushed.revision), ("at", pushed.url)]))


def vectors(args: argparse.Namespace) -> None:
    """Give the sources of a zoo vectors."""
    zoo = Zoo.open(args.zoo)
    zoo.index_vectors()
    if (space := zoo.vector_space()) is not None:
        print(f"{len(zoo.singles())} sources have vectors of {space.dimension} numbers.")


def pretrain(args: argparse.Namespace) -> None:
    """Pretrain a zoo and print what it holds."""
    from ..families.base import available_families, get_family
    from ..images.datasets import load_datasets
    from ..pretraining.whole_zoo import Pretraining, pretrain_zoo
    from ..training.distributed import is_first

    family = get_family(args.family or available_families()[0]).set_params(**dict(args.set))
    numbers = {"batch_size": args.batch_size, "learning_rate": args.learning_rate}
    given = {name: value for name, value in numbers.items() if value is not None}
    zoo = pretrain_zoo(
        load_datasets(args.data),
        args.out,
        pretraining=Pretraining(
            family,
            image_side=args.image_size,
            steps=args.steps,
            min_epochs=args.min_epochs,
            multi_epochs=args.multi_epochs,
            settings=replace(family.pretraining_settings(), **given),
            random_state=args.seed,
        ),
        device=args.device,
        embedder=args.embedder,
        singles=args.singles,
        multi=args.multi,
        warm_start=_warm_start(args.warm_start, args.warm_start_source),
        dtype=args.dtype,
        compact=args.compact,
        work=args.work,
        n_jobs=args.jobs,
        n_threads=args.threads,
        verbose=int(progress_shown(args.quiet)),
    )
    if is_first():
        print(_sources(zoo))


def _warm_start(zoo: str | None, source: str | None) -> Zoo | Source | None:
    if zoo is None:
        if source is not None:
            raise ValueError("--warm-start-source names a source of the zoo of --warm-start.")
        return None
    opened = Zoo.open(zoo)
    return opened if source is None else opened[source]


def _open(zoo: str, quiet: bool) -> Zoo:
    if hub_address(zoo) is None:
        return Zoo.open(zoo)
    return Zoo.from_pretrained(zoo, progress=progress_shown(quiet))


def _zoo_and_source(zoo: str, source: str | None, quiet: bool) -> tuple[Zoo, str | None]:
    """Read the arguments of ``show``, of which one alone may be either."""
    name = not {"/", os.sep} & set(zoo)
    if source is None and zoo != "builtin" and name and not Path(zoo).exists():
        return Zoo.open("builtin"), zoo
    return _open(zoo, quiet), source


def _sources(zoo: Zoo) -> str:
    if not zoo:
        return "The zoo has no sources yet."
    # Empty where this version does not know a supernet; `verify` says why.
    facts = list(dict.fromkeys(fact for source in zoo.values() for fact in source.about()))
    head = ["source", "kind", "images", "classes", *facts, "accuracy", "MiB", "licence"]
    rows = []
    for source in zoo.values():
        rows.append(
            [
                source.name,
                source.kind,
                source.n_images,
                source.n_classes,
                *map(source.about().get, facts),
                source.metrics.get("validation_accuracy"),
                source.n_bytes / 2**20,
                _cut(str(source.provenance.get("licence", "not stated"))),
            ]
        )
    return table(head, rows)


def _cut(text: str) -> str:
    """What a line of a list has room for; `show` has it all."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _card(source: Source) -> str:
    return fields(
        [
            ("source", f"{source.name} ({source.kind})"),
            *described_provenance(source.provenance, source.n_images, source.n_classes).items(),
            ("class names", source.classes or None),
            ("family", source.family),
            *source.about().items(),
            *((name.replace("_", " "), value) for name, value in source.metrics.items()),
            ("embedder", source.embedder_id),
            ("size", _mebibytes(source.n_bytes)),
        ]
    )


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.2f} MiB"
