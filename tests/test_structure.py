"""How the files of the package depend on each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "supernetnas"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def resolve(target):
    """The module that a dotted name is in, or None."""
    while target and target not in MODULES:
        target = target.rpartition(".")[0]
    return target or None


def imported(name):
    """Modules of the package that a module imports, in annotations and functions as well."""
    path, found = MODULES[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {resolve(f"{base}.{alias.name}") for alias in node.names}
    # The face of a folder hands on names of the files in it; these may look at each other.
    faces = {n for n, p in MODULES.items() if p.name == "__init__.py" and name.startswith(f"{n}.")}
    return {n for n in found - {None, name} if n.startswith("supernetnas")} - faces


def test_there_is_no_import_circle():
    try:
        TopologicalSorter({name: imported(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_outside_of_a_family_names_one():
    """But the reader of formats that knew no other, and the picture of a cell."""
    apart = {"supernetnas", "supernetnas.plotting.cell"}
    families = {name for name, path in MODULES.items() if path.parent.parent.name == "families"}
    outside = {name for name in MODULES if not name.startswith("supernetnas.families")}
    users = {name for name in outside - apart if imported(name) & families}
    assert users == set()
