"""What an installation promises: names, version, a quick import, the content of the wheel."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import supernetnas

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "sklearn", "numpy", "scipy", "matplotlib", "PIL", "ot")


def run_python(code):
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def python_blocks(markdown):
    return re.findall(r"```python\n(.*?)```", markdown, flags=re.DOTALL)


def shell_blocks(markdown):
    return re.findall(r"```bash\n(.*?)```", markdown, flags=re.DOTALL)


def test_import_is_light():
    code = (
        "import sys, supernetnas; dir(supernetnas); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("name", supernetnas.__all__)
def test_public_name_is_found(name):
    assert name in dir(supernetnas)
    assert getattr(supernetnas, name) is not None


FILES = sorted((ROOT / "supernetnas").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_is_the_truth(path):
    """Each name is there, once, and each public function and class of the file is among them."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in body if isinstance(node, kinds)}
    public = {own for own in defined if not own.startswith("_")}
    if name == "supernetnas.__main__":  # importing it runs the command
        assert not public
        return
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert all(hasattr(module, public_name) for public_name in names)
    assert public <= set(names)


def test_type_checkers_see_the_names_that_are_imported_lazily():
    tree = ast.parse((ROOT / "supernetnas" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: statement.module.removeprefix("supernetnas.")
        for statement in block.body
        for alias in statement.names
    }
    assert seen == supernetnas._MODULE_OF
    assert sorted([*seen, "__version__"]) == sorted(supernetnas.__all__)


def test_otdd_is_the_function_whatever_was_imported_first():
    code = """
        import sys
        from supernetnas import otdd
        print(otdd.__module__, otdd.__name__)
        for name in [name for name in sys.modules if name.partition(".")[0] == "supernetnas"]:
            del sys.modules[name]
        import supernetnas.distance.otdd
        from supernetnas import otdd
        print(otdd.__module__, otdd.__name__)
    """
    assert run_python(textwrap.dedent(code)) == 2 * "supernetnas.distance.otdd otdd\n"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        supernetnas.nothing  # noqa: B018


def test_version_is_the_same_everywhere():
    version = supernetnas.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, flags=re.MULTILINE).group(1) == version
    assert f"\n## [{version}]" in changelog


def test_metadata_is_in_pyproject_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert not re.search(r"^\[(metadata|options)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)


def test_every_extra_that_an_error_names_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra
        for path in (ROOT / "supernetnas").rglob("*.py")
        for extra in re.findall(r"supernetnas\[(\w+)\]", path.read_text(encoding="utf-8"))
    }
    assert named <= set(project["optional-dependencies"])


def test_readme_example_is_the_one_that_its_command_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert script.endswith("\n\n" + python_blocks(readme)[0])


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = (block for block in shell_blocks(readme) if "pytest" in block)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.endswith("\n" + command)


def test_command_is_importable():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["supernetnas"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_wheel_has_what_it_needs_and_nothing_else(tmp_path):
    # From a copy: setuptools builds beside the sources, and packs what an older build left there.
    source = tmp_path / "source"
    shutil.copytree(ROOT / "supernetnas", source / "supernetnas")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    package = ROOT / "supernetnas"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".lock"
    }
    assert {name for name in files if ".dist-info/" not in name} == expected
    assert "supernetnas/py.typed" in expected
    assert any(name.endswith("licenses/LICENSE") for name in files)
    assert wheel.stat().st_size < 22e6
