"""How supernets are pretrained, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..families.base import Family, NetworkInput, available_families, get_family
from ..storage.files import plain
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
    image_side : int
        Images are resized to a square of this side.
    steps : int
        Weight steps on a single source; the epochs follow from it, at least ``min_epochs``.
    multi_epochs : int
        Epochs on all sources together.
    validation_fraction : float
        Share of the images, in every class, by which architectures are compared.
    settings : object or None
        Numbers of the search, whose epochs are replaced; by default those of the family, see
        `Family.pretraining_settings`.
    random_state : int
    """

    family: Family = field(default_factory=_first_family)
    image_side: int = 32
    steps: int = 400
    min_epochs: int = 10
    multi_epochs: int = 20
    validation_fraction: float = 1 / 3
    settings: Any = None
    random_state: int = 0

    @property
    def search_settings(self) -> Any:
        """Numbers of the search."""
        return self.family.pretraining_settings() if self.settings is None else self.settings

    @property
    def seen(self) -> NetworkInput:
        """What the supernets see."""
        side = self.image_side
        return self.family.input((side, side), 3, side)

    def source_name(self, dataset: str) -> str:
        """Name of the source of a dataset, or of `MULTI`: those of other families are told apart.

        The first family's have the name of the dataset alone.
        """
        first = self.family.name == available_families()[0]
        return dataset if first else f"{dataset}-{self.family.name}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, equal for equal pretrainings."""
        values = {name: value for name, value in vars(self).items() if name != "family"}
        family = {"name": self.family.name, **self.family.get_params()}
        return plain({**values, "family": family, "settings": asdict(self.search_settings)})

    def difference(self, source: Source) -> str | None:
        """Say what the supernet of a source has that is not to be pretrained; None if it is."""
        if source.family != self.family.name:
            return f"it is of the family {source.family!r}, not {self.family.name!r}"
        wanted = self.family.config(self.seen, 1)
        has = self.family.adapted(source.config, self.seen, 1)
        if has == wanted:
            return None
        other = self.family.describe(has)
        for fact, value in self.family.describe(wanted).items():
            if other.get(fact) != value:
                return f"its {fact} is {other.get(fact)}, not {value}"
        return f"it is {has}, not {wanted}"
