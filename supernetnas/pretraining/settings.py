"""How supernets are pretrained, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..families.base import Family, NetworkInput, available_families, get_family
from ..storage.formats import plain
from ..zoo.source import Source

__all__ = ["MULTI", "Pretraining"]

MULTI = "multi"
"""Name of the source on all datasets, and of its checkpoint."""


def _first_family() -> Family:
    return get_family(available_families()[0])


@dataclass(frozen=True)
class Pretraining:
    """How supernets are pretrained.

    Attributes
    ----------
    family : Family
        Kind and sizes of the supernets, such as ``Cells("s2", n_cells=8)``.
    image_side : int or None
        Images are resized to a square of this side; by default that of the family.
    steps, min_epochs : int
        Weight steps on a single source; the epochs follow from it, at least ``min_epochs``.
    multi_epochs : int
        Epochs on all sources together.
    validation_fraction : float
        Share of the images, in every class, by which architectures are compared. This, ``steps``
        and ``min_epochs`` have no meaning for a family that does not learn labels.
    settings : object or None
        Numbers of the training, whose epochs are replaced; by default those of the family, see
        `Family.pretraining_settings`.
    random_state : int
    """

    family: Family = field(default_factory=_first_family)
    image_side: int | None = None
    steps: int = 400
    min_epochs: int = 10
    multi_epochs: int = 20
    validation_fraction: float = 1 / 3
    settings: Any = None
    random_state: int = 0

    @property
    def search_settings(self) -> Any:
        """Numbers of the training."""
        return self.family.pretraining_settings() if self.settings is None else self.settings

    @property
    def seen(self) -> NetworkInput:
        """What the supernets see."""
        side = self.family.pretraining_side if self.image_side is None else self.image_side
        return self.family.input((side, side), 3, side)

    def check(self) -> None:
        """Refuse what the family has no use for, and find what it needs, before any work.

        Raises
        ------
        ValueError
            If a number has no meaning for the family, or its settings are of another.
        ImportError
            If there are no published weights to start from.
        """
        family = self.family
        family.check()
        kind = type(family.pretraining_settings())
        if not isinstance(self.search_settings, kind):
            raise ValueError(
                f"The settings of a pretraining of the family {family.name!r} are "
                f"{kind.__name__}(...); got {self.search_settings!r:.200}."
            )
        if not family.learns_labels:
            unused = ("steps", "min_epochs", "validation_fraction")
            defaults = {entry.name: entry.default for entry in fields(self)}
            for name in unused:
                if (value := getattr(self, name)) != defaults[name]:
                    raise ValueError(
                        f"{name}={value!r} has no meaning for the family {family.name!r}, which is "
                        "pretrained for multi_epochs epochs on the images of all datasets "
                        "together, without labels: leave it out."
                    )
        family.check_pretraining()

    def with_singles(self, singles: bool | None, multi: bool) -> bool:
        """Whether single sources are made; ValueError if the family has not what is asked for.

        ``singles`` is None for those that the family has.
        """
        family = self.family
        if not family.learns_labels and (singles or not multi):
            asked = "single sources are" if singles else "multi=False (--no-multi) is"
            raise ValueError(
                f"Supernets of the family {family.name!r} are pretrained on all datasets together "
                f"alone, but {asked} asked for: leave that out."
            )
        singles = family.learns_labels if singles is None else singles
        if not (singles or multi):
            raise ValueError(
                "Neither single sources nor 'multi' are asked for: nothing to pretrain."
            )
        return singles

    def source_name(self, dataset: str) -> str:
        """Name of the source of a dataset, or of `MULTI`: those of other families are told apart.

        The first family's have the name of the dataset alone.
        """
        first = self.family.name == available_families()[0]
        return dataset if first else f"{dataset}-{self.family.name}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, equal for equal pretrainings."""
        values = {name: value for name, value in vars(self).items() if name != "family"}
        values["image_side"] = self.seen.size[0]
        family = {"name": self.family.name, **self.family.get_params()}
        return plain({**values, "family": family, "settings": asdict(self.search_settings)})

    def difference(self, source: Source) -> str | None:
        """Say what the supernet of a source has that is not to be pretrained; None if it is."""
        if source.family != self.family.name:
            return f"it is of the family {source.family!r}, not {self.family.name!r}"
        wanted = self.family.pretraining_config(self.seen)
        has = self.family.adapted(source.config, self.seen, 1)
        if has == wanted:
            return None
        other = self.family.describe(has)
        for fact, value in self.family.describe(wanted).items():
            if other.get(fact) != value:
                return f"its {fact} is {other.get(fact)}, not {value}"
        return f"it is {has}, not {wanted}"
