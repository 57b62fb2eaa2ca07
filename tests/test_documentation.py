"""The pages, the examples and the benchmarks name what there is, and call it as it is called."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import supernetnas
from supernetnas import SupernetTransferClassifier

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.glob("*.rst"))
TEMPLATE = DOCS / "_templates" / "autosummary" / "class.rst"
SCRIPTS = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py")])
PACKAGE = sorted((ROOT / "supernetnas").rglob("*.py"))
TEXTS = [
    *PAGES,
    *SCRIPTS,
    *PACKAGE,
    *sorted([*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")]),
]
# Pages that Sphinx writes by itself, over a page of ours.
WRITTEN_BY_SPHINX = {"genindex", "modindex", "py-modindex", "search", "opensearch"}

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the sources of the documentation")


def short(path):
    return str(path.relative_to(ROOT))


def find(name):
    """What a dotted name stands for."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


def documented():
    """Dotted names that the reference lists."""
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. currentmodule:: (.*)$", text, re.MULTILINE)) == {"supernetnas"}
    blocks = re.findall(r"^\.\. autosummary::\n((?:(?:    .*)?\n)+)", text, re.MULTILINE)
    return [
        f"supernetnas.{line.strip()}"
        for block in blocks
        for line in block.splitlines()
        if line.strip() and not line.strip().startswith(":")
    ]


def programs(path):
    """The Python of a file: its own, or the blocks of a page one after the other."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return ast.parse(text)
    if path.suffix == ".md":
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    else:
        blocks = re.findall(r"^\.\. code-block:: python\n((?:(?: .*)?\n)+)", text, re.MULTILINE)
    return ast.parse("\n".join(map(textwrap.dedent, blocks)))


def imported(program):
    """What a program imports from the package, by the names that it uses."""
    return {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(program)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("supernetnas")
        for alias in node.names
    }


def calls(program):
    """Calls of what a program imports from the package, or of methods of its classes."""
    known = imported(program)
    for node in ast.walk(program):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) if name in known:
                    yield node, known[name]
                case ast.Attribute(value=ast.Name(id=name), attr=method) if name in known:
                    yield node, getattr(known[name], method)


def settings(program):
    """Dictionaries of one parameter and a value, from ``set_params`` and grids."""
    for node in ast.walk(program):
        match node:
            case ast.Call(func=ast.Attribute(attr="set_params"), keywords=keywords):
                for keyword in keywords:
                    if keyword.arg and isinstance(keyword.value, ast.Constant):
                        yield {keyword.arg: keyword.value.value}
            case ast.Call(func=ast.Name(id="GridSearchCV"), args=[_, ast.Dict() as grid, *_]):
                for name, values in ast.literal_eval(grid).items():
                    yield from ({name: value} for value in values)


# A paragraph of one line that begins like this is read as an item of a list, "H. Liu" as number 8.
INITIAL = re.compile(
    r"^ *(?:- |\.\. \[\d+\] )?[A-Z]\.(?:$| .*\n *(?:$|- |\.\. |\"\"\"))", re.MULTILINE
)


@pytest.mark.parametrize("path", [*PAGES, *PACKAGE], ids=short)
def test_initials_are_no_numbers_of_a_list(path):
    assert not INITIAL.findall(path.read_text(encoding="utf-8"))


def test_no_page_has_the_name_of_one_that_sphinx_writes():
    assert not WRITTEN_BY_SPHINX & {path.stem.lower() for path in DOCS.glob("*.rst")}


def test_the_index_leads_to_every_page():
    text = (DOCS / "index.rst").read_text(encoding="utf-8")
    shown = set(re.findall(r"^    (\w+)$", text, re.MULTILINE))
    pages = {path.stem for path in [*DOCS.glob("*.rst"), *DOCS.glob("*.md")]}
    assert pages - {"index"} <= shown
    assert all(re.search(rf":doc:`(?:.*<)?{page}\b", text) for page in pages - {"index"})


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_lines_of_code_fit_the_page(path):
    """The style sheet makes pages as wide as 100 characters of code."""
    assert "width: 51em" in (DOCS / "_static" / "pages.css").read_text(encoding="utf-8")
    blocks = re.findall(
        r"(?:code-block.*|::)\n\n((?:(?: .*)?\n)+)", path.read_text(encoding="utf-8")
    )
    lines = [line for block in blocks for line in textwrap.dedent(block).splitlines()]
    assert max(map(len, lines), default=0) <= 100


def test_nothing_is_installed_from_an_index_that_may_not_have_it():
    for path in [README, *PAGES, *sorted(ROOT.glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install [^\n]*\bsupernetnas\b", text), path


def test_the_page_of_the_zoo_names_what_its_sources_have_seen():
    text = (DOCS / "zoo.rst").read_text(encoding="utf-8")
    zoo = supernetnas.Zoo.open("builtin")
    names = {source.name for source in zoo.singles()}
    named = re.search("They have not seen(.*?), nor has any single", text, re.DOTALL)
    unseen = set(re.findall(r"``(\w+)``", named[1]))
    assert all(unseen == names - set(multi.provenance["datasets"]) for multi in zoo.multis())
    assert len(zoo.multis()) == 3
    assert all(unseen.isdisjoint(s.provenance["warm_start_datasets"]) for s in zoo.singles())


def listed(heading):
    """What stands in the second column of the table after a line of the reference."""
    table = (DOCS / "api.rst").read_text(encoding="utf-8").split(heading)[1].split("\n\n")[2]
    return re.findall(r"``(\w+)``", table)


def test_every_parameter_is_in_one_group_of_the_reference():
    found = listed("Its parameters, by what they are about:")
    assert sorted(found) == sorted(inspect.signature(SupernetTransferClassifier).parameters)


def test_every_method_is_in_one_group_of_the_reference():
    ours = {
        name
        for name, member in inspect.getmembers(SupernetTransferClassifier, callable)
        if not name.startswith("_") and name not in dir(BaseEstimator)
    }
    found = listed("And its methods, by what they are for:")
    assert sorted(found) == sorted(ours - {"set_score_request"} | {"set_params"})


def test_the_reference_shows_what_a_class_inherits_from_a_class_of_ours():
    """Autodoc leaves out what comes from the classes named, and all before them."""
    line = re.search(r":inherited-members: (.*)", TEMPLATE.read_text(encoding="utf-8"))[1]
    foreign = set(line.split(", "))
    order = SupernetTransferClassifier.__mro__
    shown = next(i for i, cls in enumerate(order) if cls.__name__ in foreign)
    members = {name for cls in order[:shown] for name in vars(cls)}
    assert {"save_pretrained", "from_pretrained", "push_to_hub", "as_source", "score"} <= members


def test_every_deviation_from_a_paper_is_on_the_page_of_deviations():
    text = (DOCS / "deviations.rst").read_text(encoding="utf-8")
    stated = [
        path
        for path in PACKAGE
        if re.search(
            r"\b[Dd]eviations?( from|:|s:|\.)|authors' code|differ from the",
            ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "",
        )
    ]
    assert len(stated) > 10
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in stated}
    assert names <= set(re.findall(r":mod:`(supernetnas[\w.]+)`", text))


def test_addresses_of_repositories_are_no_addresses_of_mail():
    for path in [*PAGES, *PACKAGE]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))
            text = "\n\n".join(ast.get_docstring(node) or "" for node in nodes)
        literal = r"``.*?``|`[^`\n]*`_?|^\.\. code-block::.*\n(?:(?: .*)?\n)+|::\n\n(?:(?: .*)?\n)+"
        plain = re.sub(literal, "", text, flags=re.MULTILINE)
        assert not re.findall(r"[\w/.]+@[\w.]*\w", plain), path


def test_pictures_of_the_gallery_suit_the_dark_page():
    """Without a rule they would be white there; what the rule leaves out are photographs."""
    style = (DOCS / "_static" / "pages.css").read_text(encoding="utf-8")
    assert "pages.css" in (DOCS / "conf.py").read_text(encoding="utf-8")
    assert style.count(".sphx-glr-single-img") == style.count(".sphx-glr-thumbcontainer img") == 2
    assert style.count("filter: invert(") == 2
    left_out = {re.match(r"plot_[a-z]+", name)[0] for name in re.findall(r'src\*="(\w+)"', style)}
    assert left_out <= {path.stem for path in SCRIPTS}
    for name in left_out:
        assert "imshow" in (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


def test_the_reference_has_what_there_is_and_every_public_name():
    names = documented()
    assert len(names) == len(set(names))
    found = [find(name) for name in names]
    assert len(found) == len({id(one) for one in found})
    public = {f"supernetnas.{name}" for name in supernetnas.__all__}
    assert public - {"supernetnas.__version__"} <= set(names)


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_classes_and_functions_lead_to_the_reference(path):
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r":(?:class|func):`~?(supernetnas\.[\w.]+)`", text))
    assert named <= set(documented())


@pytest.mark.parametrize("path", TEXTS, ids=short)
def test_dotted_names_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"\bsupernetnas(?:\.[A-Za-z_]\w*)+", text))):
        find(name)


@pytest.mark.parametrize("path", [README, *PAGES, *SCRIPTS], ids=short)
def test_calls_have_the_parameters_that_they_give(path):
    for call, function in calls(programs(path)):
        given = [None for one in call.args if not isinstance(one, ast.Starred)]
        named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        complete = len(given) == len(call.args) and len(named) == len(call.keywords)
        signature = inspect.signature(function)
        try:
            (signature.bind if complete else signature.bind_partial)(*given, **named)
        except TypeError as error:
            pytest.fail(f"{ast.unparse(call)}: {error}")


@pytest.mark.parametrize("path", [README, *PAGES, *SCRIPTS], ids=short)
def test_parameters_that_are_set_exist(path):
    for setting in settings(programs(path)):
        SupernetTransferClassifier().set_params(**setting)
