"""The help teaches, says the defaults, and waits for nothing."""

import re
import subprocess
import sys
import time

import pytest

import supernetnas
from supernetnas.cli.parser import build_parser
from supernetnas.selection.strategies import STRATEGIES

COMMANDS = ["", "fit", "predict", "evaluate", "report", "zoo", "zoo list", "zoo show"]
COMMANDS += ["zoo verify", "zoo pretrain"]
COMMANDS += ["zoo vectors", "distance", "export", "benchmark"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(run, command):
    status, text, _ = run(*command.split(), "--help")
    assert status == 0
    assert max(map(len, text.splitlines())) <= 90
    if command != "zoo":
        assert f"  supernetnas {command}".rstrip() in text.partition("messages:")[2]


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from supernetnas.cli import main\n"
        "try: main(['zoo', 'pretrain', '--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    )
    start = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "[]"
    assert time.perf_counter() - start < 3  # some 0.15 s where nothing else runs


def test_every_example_of_the_help_parses(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    examples = set()
    for command in COMMANDS:
        parser = build_parser()
        args = parser.parse_args(command.split()) if command in ("", "zoo") else None
        if args is None:
            required = {"fit": ["x", "--out", "y"], "predict": ["x", "y"], "zoo show": ["x"]}
            required |= {
                "zoo pretrain": ["x", "--out", "y"],
                "zoo vectors": ["x"],
                "distance": ["x"],
                "export": ["x", "y"],
                "evaluate": ["x", "y"],
                "report": ["x"],
                "benchmark": ["x"],
            }
            args = parser.parse_args([*command.split(), *required.get(command, [])])
        text = args.parser.format_help()
        examples |= set(re.findall(r"^  supernetnas (.+?)(?: +#.*| \|.*)?$", text, re.MULTILINE))
    assert len(examples) > 20
    for example in examples:
        assert build_parser().parse_args(example.split()).handler


def test_help_of_fit_names_every_strategy(run):
    text = run("fit", "--help")[1]
    assert [name for name in STRATEGIES if f"\n  {name} " not in text] == []


def test_help_of_fit_names_every_search_method(run):
    from supernetnas.families.base import available_families, get_family

    text = run("fit", "--help")[1].replace(",", " ").replace(";", " ").split()
    for family in map(get_family, available_families()):
        assert set(family.searches) <= set(text)


def test_help_of_fit_says_the_epochs_and_the_sizes_of_every_family(run, monkeypatch):
    from supernetnas.families.base import available_families, get_family

    monkeypatch.setenv("COLUMNS", "300")
    text = run("fit", "--help")[1]
    said = []
    for family in map(get_family, available_families()):
        warm, cold = (family.retraining(pretrained)["epochs"] for pretrained in (True, False))
        said.append(f"{family.name}: {warm}" + f", {cold} from random weights" * (warm != cold))
    assert f"(default: {'; '.join(said)})" in text

    def side(family, side):
        config = family.config(family.input((64, 64), 3, 64), 2)
        return family.input((side, side), 3, "auto", config).size[0]

    sides = re.search(
        r"of cells the size of the images within (\d+) to (\d+); of elastic networks (\d+); "
        r"of paths within (\d+) to (\d+)\)",
        text,
    )
    cells, elastic, paths = map(get_family, ("cells", "elastic", "paths"))
    found = [side(cells, 1), side(cells, 500), side(elastic, 500), side(paths, 1), side(paths, 500)]
    assert [int(one) for one in sides.groups()] == found


def test_defaults_are_those_of_the_estimator():
    args = build_parser().parse_args(["fit", "x", "--out", "y"])
    defaults = supernetnas.SupernetTransferClassifier().get_params()
    names = ("strategy", "zoo", "embedder", "image_size", "resize", "search", "preset")
    names += ("max_macs", "max_parameters", "max_latency", "checkpoint_dir")
    assert {n: getattr(args, n) for n in names} == {n: defaults[n] for n in names}
    assert (args.time_limit, args.device) == (defaults["time_limit"], defaults["device"])


def test_defaults_are_those_of_the_pretraining():
    from supernetnas.pretraining.whole_zoo import Pretraining

    args, default = build_parser().parse_args(["zoo", "pretrain", "x", "--out", "y"]), Pretraining()
    assert (args.family, args.set, args.image_size) == (None, [], default.image_side)
    assert (args.steps, args.min_epochs, args.multi_epochs, args.seed) == (
        (default.steps, default.min_epochs, default.multi_epochs, 0)
    )
    assert (args.batch_size, args.learning_rate) == (None, None)


def test_help_of_pretrain_says_the_defaults_of_every_family(run, monkeypatch):
    from supernetnas.families.base import available_families, get_family

    monkeypatch.setenv("COLUMNS", "200")
    text = run("zoo", "pretrain", "--help")[1]
    families = [get_family(name) for name in available_families()]
    settings = [family.pretraining_settings() for family in families]
    for option, values in (
        ("--batch-size", [each.batch_size for each in settings]),
        ("--learning-rate", [each.learning_rate for each in settings]),
        ("--image-size", [family.pretraining_side for family in families]),
    ):
        others = [f"{f.name}: {v}" for f, v in zip(families[1:], values[1:], strict=True)]
        said = re.search(rf"^ *{option} .*\(default: (.*)\)$", text, re.MULTILINE)[1]
        assert said == "; ".join([f"{values[0]}", *others])
    assert all(family.name in text for family in families)


def test_version(run):
    assert run("--version")[:2] == (0, f"supernetnas {supernetnas.__version__}\n")


@pytest.mark.parametrize("command", ["", "zoo"])
def test_a_missing_command_shows_the_help(run, command):
    status, output, error = run(*command.split())
    assert (status, output) == (2, "")
    assert error.startswith("usage: ")


def test_common_options_go_before_and_after_the_command():
    for arguments in (["-vv", "--debug", "zoo", "list"], ["zoo", "list", "--debug", "-vv"]):
        args = build_parser().parse_args(arguments)
        assert (args.verbose, args.debug, args.quiet) == (2, True, False)
