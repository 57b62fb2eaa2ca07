"""A second family of supernets, the cells under another name, for what tells families apart."""

from supernetnas.families import base
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.family import Cells


class TwinConfig(SupernetConfig):
    """Of a supernet of cells that says it is something else."""

    family = "twins"


class Twins(Cells):
    """Supernets of cells under another name."""

    name = "twins"

    def config(self, seen, n_classes):
        return TwinConfig(**super().config(seen, n_classes).to_dict())

    def read_config(self, data):
        return TwinConfig.from_dict(dict(data))


def register(monkeypatch):
    """Make the family known for a test."""
    monkeypatch.setitem(base._MODULES, "twins", ("twins", "Twins"))
