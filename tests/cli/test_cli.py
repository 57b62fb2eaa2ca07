"""The command teaches, refuses early, and never shows a traceback unasked."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import supernetnas
from supernetnas import cli, get_embedder
from supernetnas.cli.evaluating import known_labels
from supernetnas.cli.parser import build_parser
from supernetnas.cli.printing import fields, table
from supernetnas.selection.strategies import STRATEGIES
from supernetnas.zoo import Zoo

SMALL = ["--set", "init_channels=4", "--set", "n_cells=3", "--image-size", "8"]
SMALL += ["--batch-size", "8", "--steps", "2", "--min-epochs", "1", "--multi-epochs", "1"]
QUICK = ["--search-epochs", "1", "--retrain-epochs", "1", "--image-size", "8"]
COMMANDS = ["", "fit", "predict", "evaluate", "report", "zoo", "zoo list", "zoo show"]
COMMANDS += ["zoo verify", "zoo pretrain"]
COMMANDS += ["zoo vectors", "distance", "export", "benchmark"]


def pictures(shade, n_classes=2, n=6, seed=0):
    """Noisy 12 x 12 images whose classes differ in brightness."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), n)
    pixels = random.integers(0, 60, (n_classes * n, 12, 12, 3)) + 90 * labels[:, None, None, None]
    pixels[..., shade] += 40
    return pixels.astype(np.uint8), labels


def write_folder(folder, shade):
    pixels, labels = pictures(shade)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / ("dark", "light")[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def write_npz(path, shade, **arrays):
    pixels, labels = pictures(shade)
    content = {"X": pixels, "y": labels, "classes": np.array(["dark", "light"]), **arrays}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


def flat(batch):
    """Embed images as their pixels."""
    return batch.flatten(1).float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of class folders."""
    return write_folder(tmp_path_factory.mktemp("data") / "walls", 0)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of .npz files that an album.json describes."""
    path = tmp_path_factory.mktemp("data") / "album"
    path.mkdir()
    for shade, name in enumerate(("sky", "grass")):
        write_npz(path / f"{name}.npz", shade)
    origin = {"kind": "github", "repo": "a/b", "commit": "0123abc", "path": "images/"}
    entry = {"file": "sky.npz", "upstream": "Skies\x1b[31m", "licence": "CC0", "source": [origin]}
    (path / "album.json").write_text(json.dumps({"datasets": [entry]}))
    return path


@pytest.fixture(scope="module")
def zoo(album, tmp_path_factory):
    """A zoo that the command made."""
    path = tmp_path_factory.mktemp("zoos") / "zoo"
    assert cli.main(["zoo", "pretrain", str(album), "--out", str(path), *SMALL, "--compact"]) == 0
    return path


@pytest.fixture(scope="module")
def model(folder, zoo, tmp_path_factory):
    """A model that the command made."""
    path = tmp_path_factory.mktemp("models") / "model"
    arguments = ["fit", folder, "--out", path, "--zoo", zoo, *QUICK, "--test-fraction", "0"]
    assert cli.main(list(map(str, arguments))) == 0
    return path


@pytest.fixture
def run(capsys):
    """Run the command; returns its status, its output and its messages."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def refused(result, *parts, status=2):
    """Whether a command ended with this status and one message that says all of this."""
    found, _, error = result
    assert found == status, error
    assert "Traceback" not in error
    for part in parts:
        assert part in error
    return True


# ---------------------------------------------------------------------------------------- help


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


# --------------------------------------------------------------------------------- fit, predict


def test_fit_prints_what_was_found(run, folder, zoo, tmp_path):
    path = tmp_path / "new" / "model"
    arguments = ["fit", folder, "--out", path, "--zoo", zoo, "--strategy", "ot", *QUICK]
    status, output, error = run(*arguments)
    assert status == 0, error
    lines = dict(line.split("  ", 1) for line in output.splitlines())
    assert lines.keys() == {
        *("data", "source", "distances", "genotype", "search", "parameters", "MACs"),
        *("accuracy", "time", "model"),
    }
    assert lines["source"].strip() in ("sky", "grass")
    assert lines["distances"].strip().startswith(lines["source"].strip())
    assert re.search(r"\d\.\d{3} on 2 images held out", lines["accuracy"])
    assert lines["data"].strip() == "10 images of 2 classes"
    assert lines["genotype"].strip().startswith("s1 [normal: ")
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(path)
    assert list(classifier.classes_) == ["dark", "light"]
    assert f"{classifier.n_parameters_:,}" == lines["parameters"].strip()
    assert lines["search"].strip() == classifier.outcome_
    held = list(csv.DictReader((path / "held_out.csv").read_text().splitlines()))
    assert [row["class"] for row in held] == ["dark", "light"]
    assert all(Path(row["image"]).is_relative_to(folder) for row in held)
    assert "on 2 images held out" in (path / "README.md").read_text()


def test_fit_reads_npz_and_keeps_its_class_names(run, album, zoo, tmp_path):
    arguments = [album / "sky.npz", "--out", tmp_path / "m", "--zoo", zoo, "--strategy", "sky"]
    assert run("fit", *arguments, *QUICK, "--seed", 3)[0] == 0
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(tmp_path / "m")
    assert list(classifier.classes_) == ["dark", "light"]
    assert classifier.get_params()["random_state"] == 3


@pytest.mark.parametrize("what", ["file", "foreign", "below a file"])
def test_fit_refuses_a_place_for_the_model_before_the_fit(run, folder, tmp_path, monkeypatch, what):
    def never(*_):
        raise AssertionError("fit was called")

    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "fit", never)
    (tmp_path / "diary.txt").write_text("dear diary")
    out = {"file": "diary.txt", "foreign": "", "below a file": "diary.txt/model"}[what]
    assert refused(run("fit", folder, "--out", tmp_path / out), "diary.txt", "another folder")
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


def test_fit_refuses_a_folder_with_the_files_of_another_library_before_the_fit(
    run, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "fit", None)
    (tmp_path / "config.json").write_text('{"library_name": "another"}')
    assert refused(run("fit", folder, "--out", tmp_path), "config.json", "another folder")


def test_fit_keeps_the_model_where_its_folder_refuses(run, folder, zoo, tmp_path, monkeypatch):
    from supernetnas.storage import folders

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real, out = folders.write_new, tmp_path / "model"

    def full(path, data):
        if out in path.parents:
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(folders, "write_new", full)
    arguments = ["fit", folder, "--out", out, "--zoo", zoo, *QUICK, "--test-fraction", "0"]
    result = run(*arguments)
    assert refused(result, "The disk is full", "Until then, it is in", status=1)
    (rescued,) = tmp_path.glob("supernetnas-*")
    assert str(rescued) in result[2]
    supernetnas.SupernetTransferClassifier.from_pretrained(rescued)
    assert not out.exists()


def test_predictions_are_printed_where_the_file_refuses(run, folder, model, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    assert run("predict", model, folder, "--csv", tmp_path / "good.csv")[0] == 0
    monkeypatch.setattr("supernetnas.storage.destinations.write_new", full)
    monkeypatch.setattr("supernetnas.cli.fitting.check_file", lambda *_: None)
    result = run("predict", model, folder, "--csv", tmp_path / "p.csv")
    assert refused(result, "p.csv", "the rows were printed", "The disk is full", status=1)
    assert result[1] == (tmp_path / "good.csv").read_text()


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
def test_names_that_are_not_utf8_are_found_early(run, folder, model, tmp_path, monkeypatch):
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    os.rename(os.fsencode(data / "dark"), os.fsencode(data) + b"/caf\xe9")
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "predict_proba", None)
    monkeypatch.setattr("supernetnas.classifier.search_best", None)
    monkeypatch.setattr("supernetnas.pretraining.whole_zoo.pretrain", None)
    assert refused(run("fit", data, "--out", tmp_path / "m"), "caf\\udce9", "valid Unicode")
    assert refused(run("predict", model, data, "--csv", tmp_path / "p"), "6 of 12", "caf\\xe9")
    result = run("zoo", "pretrain", data, "--out", tmp_path / "zoo", *SMALL)
    assert refused(result, "caf\\udce9", "Rename folders")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_fit_replaces_a_saved_model(run, folder, zoo, model, tmp_path):
    import shutil

    out = shutil.copytree(model, tmp_path / "model")
    assert run("fit", folder, "--out", out, "--zoo", zoo, *QUICK, "--seed", "7")[0] == 0
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(out)
    assert classifier.get_params()["random_state"] == 7


def test_fit_keeps_a_budget_and_checkpoints(run, folder, zoo, model, tmp_path):
    free = supernetnas.SupernetTransferClassifier.from_pretrained(model)
    work, limit = tmp_path / "work", free.n_macs_ - 1
    arguments = [folder, "--zoo", zoo, *QUICK, "--test-fraction", "0", "--checkpoint-dir", work]
    out = ["--out", tmp_path / "m", "--max-macs", limit]
    assert run("fit", *arguments, *out)[0] == 0
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(tmp_path / "m")
    assert classifier.n_macs_ <= limit
    assert work.is_dir() and not any(work.iterdir())
    result = run("fit", *arguments, "--out", tmp_path / "n", "--max-parameters", "10")
    assert refused(result, "--max-parameters 10 cannot be met: the smallest network")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--test-fraction", "1"],
        ["--image-size", "big"],
        ["--search-epochs", "-1"],
        ["--retrain-epochs", "0"],
        ["--no-such-option"],
        ["--strateg", "ot"],  # abbreviations change their meaning when options are added
    ],
)
def test_fit_refuses_options(run, folder, tmp_path, arguments):
    assert refused(run("fit", folder, "--out", tmp_path / "m", *arguments), arguments[0])


def test_predict_finds_a_wrong_folder_first(run, tmp_path):
    result = run("predict", tmp_path / "no model", "a.jpg", "--csv", tmp_path / "none" / "p.csv")
    assert refused(result, "--csv", "none")


def test_fit_refuses_bad_input(run, folder, zoo, tmp_path):
    out = ["--out", tmp_path / "model", "--zoo", zoo]
    assert refused(run("fit", tmp_path / "nowhere", *out), "no file or folder", "nowhere")
    assert refused(run("fit", folder / "dark", *out), "no class folders")
    assert refused(run("fit", folder, *out, "--strategy", "skies"), "skies", "grass")
    assert refused(run("fit", folder, "--out", tmp_path / "m", "--zoo", tmp_path), "no zoo in")
    assert refused(run("fit", folder, *out, "--device", "cuda:99"), "--device cuda:99")
    assert not (tmp_path / "model").exists()


def test_fit_says_that_holding_out_needs_three_images(run, zoo, tmp_path):
    data = write_folder(tmp_path / "few", 0)
    for path in sorted((data / "dark").iterdir())[2:]:
        path.unlink()
    result = run("fit", data, "--out", tmp_path / "m", "--zoo", zoo)
    assert refused(result, "'dark' has 2 images", "--test-fraction 0")
    assert (
        run("fit", data, "--out", tmp_path / "m", "--zoo", zoo, *QUICK, "--test-fraction", 0)[0]
        == 0
    )


def test_fit_reads_what_it_holds_out_before_it_starts(run, zoo, tmp_path, monkeypatch):
    data = write_folder(tmp_path / "data", 0)
    arguments = ["fit", data, "--out", tmp_path / "m", "--zoo", zoo, *QUICK]
    assert run(*arguments)[0] == 0
    listed = (tmp_path / "m" / "held_out.csv").read_text()
    for row in csv.DictReader(listed.splitlines()):
        Path(row["image"]).write_bytes(Path(row["image"]).read_bytes()[:60])
    monkeypatch.setattr("supernetnas.classifier.search_best", lambda *_: pytest.fail("started"))
    assert refused(run(*arguments), "cannot be read")


def test_fit_compares_what_it_holds_out_before_it_starts(run, zoo, tmp_path):
    data = write_folder(tmp_path / "data", 0)
    for path in (data / "dark").iterdir():
        Image.new("I;16", (8, 8), 9000).save(path)
    result = run("fit", data, "--out", tmp_path / "m", "--zoo", zoo, *QUICK)
    assert refused(result, "X mixes images whose scales may differ", "8 bits", "16 or 32 bits")
    assert not (tmp_path / "m").exists()


def test_evaluate_prints_and_writes_what_a_model_is_worth(run, folder, model, tmp_path):
    files = {
        option: tmp_path / f"{option}.{ending}"
        for option, ending in (
            *(("csv", "csv"), ("json", "json")),
            *(("confusion", "png"), ("errors", "svg")),
        )
    }
    options = [part for option, path in files.items() for part in (f"--{option}", path)]
    status, output, error = run("evaluate", model, folder, *options)
    assert status == 0, error
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(model)
    X, y = supernetnas.load_images(folder)
    expected = classifier.evaluate(X, y)
    assert json.loads(files["json"].read_text()) == json.loads(expected.to_json())
    assert files["csv"].read_text() == expected.to_csv()
    assert all(path.stat().st_size > 500 for path in files.values())
    assert re.search(rf"accuracy +{expected.accuracy:.3f} ", output)
    assert all(row["image"] in output for row in expected.errors(12))
    assert re.search(r"^dark +6 ", output, re.MULTILINE)


def test_report_writes_one_page(run, folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output, error = run("report", model, folder, "--title", "Walls <b>")
    assert status == 0, error
    assert output.strip() == "model.html"
    page = (tmp_path / "model.html").read_text()
    assert "<h1>Walls &lt;b&gt;</h1>" in page
    assert "on 12 images that it was not trained on" in page
    assert run("report", model, "--out", "other.html")[0] == 0
    assert "not measured" in (tmp_path / "other.html").read_text()
    assert refused(run("report", model, "--out", tmp_path), "--out", "folder")


def test_evaluate_reads_names_of_folders_as_the_numbers_of_a_fit(folder):
    clf = supernetnas.SupernetTransferClassifier()
    clf.classes_ = np.array([3, 7])
    names, labels = np.array(["3", "7"]), np.array([0, 1, 1])
    assert known_labels(clf, names, labels).tolist() == [3, 7, 7]
    assert known_labels(clf, np.array(["3", "x"]), labels).tolist() == [3, "x", "x"]


def test_evaluate_refuses_bad_input_first(run, folder, model, tmp_path, monkeypatch):
    (tmp_path / "data" / "grey").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "grey" / "1.png")
    assert refused(run("evaluate", model, tmp_path / "data"), "not seen: grey", "2: dark, light")
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "evaluate", None)
    assert refused(run("evaluate", model, folder, "--errors", "x.mp3"), "--errors", "ending")
    assert refused(run("evaluate", model, folder, "--csv", tmp_path), "--csv", "folder")


def test_fit_names_the_image_that_cannot_be_read(run, zoo, tmp_path):
    data = write_folder(tmp_path / "data", 0)
    (data / "light" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    result = run("fit", data, "--out", tmp_path / "m", "--zoo", zoo, *QUICK)
    assert refused(result, "broken.png")
    assert not (tmp_path / "m").exists()


def test_predict_prints_a_line_for_each_image(run, folder, model):
    image = sorted((folder / "dark").iterdir())[0]
    status, output, _ = run("predict", model, image, folder / "light")
    assert status == 0
    head, *lines = (line.split() for line in output.splitlines())
    assert head == ["path", "class", "probability"]
    assert [line[0] for line in lines] == [
        str(image),
        *map(str, sorted((folder / "light").iterdir())),
    ]
    assert all(line[1] in ("dark", "light") and 0.5 <= float(line[2]) <= 1 for line in lines)


def test_predict_writes_csv_and_json_that_agree(run, folder, model, tmp_path):
    path = tmp_path / "predictions.csv"
    assert run("predict", model, folder, "--proba", "--csv", path)[:2] == (0, "")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    status, output, _ = run("predict", model, folder, "--proba", "--json")
    data = json.loads(output)
    assert status == 0 and len(rows) == len(data) == 12
    for row, item in zip(rows, data, strict=True):
        assert (row["path"], row["class"]) == (item["path"], item["class"])
        both = item["probabilities"]
        assert {n: float(row[f"p({n})"]) for n in ("dark", "light")} == both
        assert float(row["probability"]) == both[item["class"]] == max(both.values())
        assert sum(both.values()) == pytest.approx(1, abs=1e-5)


def test_predict_agrees_with_the_estimator(run, folder, model):
    files, _ = supernetnas.load_images(folder)
    expected = supernetnas.SupernetTransferClassifier.from_pretrained(model).predict(files)
    data = json.loads(run("predict", model, folder, "--json")[1])
    assert [item["class"] for item in data] == list(expected)


def test_predict_refuses_bad_input(run, folder, model, tmp_path):
    assert refused(run("predict", tmp_path, folder), "not a saved classifier")
    assert refused(run("predict", model, "nowhere.jpg"), "nowhere.jpg")
    assert refused(run("predict", model, tmp_path), "has no images")
    (tmp_path / "text.png").write_text("no picture")
    assert refused(run("predict", model, tmp_path / "text.png"), "text.png")
    assert refused(run("predict", model, folder, "--csv", "x", "--json"), "not allowed with")


def test_predict_counts_the_images_that_cannot_be_read(run, folder, model, tmp_path):
    image, damaged = sorted((folder / "dark").iterdir())[0], tmp_path / "damaged.png"
    damaged.write_text("no picture")
    images = [image] * 300 + [damaged] + [image] * 300 + [damaged]
    assert refused(run("predict", model, *images), "2 of 602 images cannot be read", "damaged.png")


# ------------------------------------------------------------------------------------------ zoo


def test_benchmark_measures_a_model(run, model):
    status, output, _ = run("benchmark", model, "--repeats", 3, "--device", "cpu")
    assert status == 0
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(model)
    assert f"{classifier.n_macs_:,} per image" in output
    assert "ms for 1 image\n" in output and "ms for 32 images\n" in output
    assert "images per second, by 32" in output
    threads = torch.get_num_threads()
    assert f"on cpu, {threads} thread{'s' * (threads > 1)}; medians of 3 runs" in output
    found = json.loads(run("benchmark", model, "--repeats", 3, "--json")[1])
    assert found["macs"] == classifier.n_macs_
    assert found["parameters"] == classifier.n_parameters_
    assert 0 < found["latency_1"] < found["latency_32"]
    assert found["images_per_second"] == pytest.approx(32 / found["latency_32"])
    tensors = classifier.network_.state_dict().values()
    assert found["bytes"] == sum(t.numel() * t.element_size() for t in tensors)


def test_benchmark_refuses_bad_input(run, model, tmp_path):
    assert refused(run("benchmark", tmp_path), "not a saved classifier")
    assert refused(run("benchmark", model, "--repeats", 0), "not at least 1")
    assert refused(run("benchmark", model, "--device", "tpu"), "device must be")


def test_zoo_list(run, zoo):
    status, output, _ = run("zoo", "list", zoo)
    assert status == 0
    lines = output.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["grass", "single"],
        ["multi", "multi"],
        ["sky", "single"],
    ]
    assert lines[0].endswith("not stated") and lines[2].endswith("CC0")


def test_zoo_show_prints_the_card_of_a_source(run, zoo):
    status, output, _ = run("zoo", "show", zoo, "sky")
    assert status == 0
    for part in ("CC0", "github a/b @ 0123abc: images/", "dark, light", "4 channels, 3 cells"):
        assert part in output
    for metric in ("validation accuracy", "chance accuracy      0.5", "epochs "):
        assert metric in output
    assert "\x1b" not in output


def test_zoo_show_prints_a_zoo(run, zoo):
    status, output, _ = run("zoo", "show", zoo)
    assert status == 0
    assert re.search(r"^signatures +compact$", output, re.MULTILINE)
    assert re.search(r"^embedder +efficientnet_lite0:", output, re.MULTILINE)


def test_zoo_show_takes_a_name_alone_for_a_source_of_the_builtin_zoo(run, zoo, monkeypatch):
    opened = []

    def open_(where):
        opened.append(str(where))
        return Zoo(zoo)

    monkeypatch.setattr(Zoo, "open", open_)
    assert "CC0" in run("zoo", "show", "sky")[1]
    assert refused(run("zoo", "show", "skyy"), "'skyy'", "Did you mean 'sky'?")
    assert run("zoo", "show", "builtin")[0] == run("zoo", "show", zoo)[0] == 0
    assert opened == ["builtin", "builtin", "builtin", str(zoo)]


def test_zoo_verify(run, zoo, tmp_path):
    import shutil

    status, output, _ = run("zoo", "verify", zoo)
    assert (status, output.count("\n")) == (0, 1)
    assert "3 sources" in output
    copy = shutil.copytree(zoo, tmp_path / "zoo")
    with (copy / "sky" / "supernet.safetensors").open("ab") as file:
        file.write(b"!")
    status, output, _ = run("zoo", "verify", copy)
    assert status == 1
    assert "supernet.safetensors" in output and output.count("\n") == 1


def test_zoo_errors(run, zoo, tmp_path):
    assert refused(run("zoo", "list", tmp_path), "no zoo in")
    assert refused(run("zoo", "show", zoo, "skyy"), "Did you mean 'sky'?")


def test_pretrain_refuses_before_any_work(run, folder, zoo, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    assert refused(run("zoo", "pretrain", folder, "--out", tmp_path), "'diary.txt'")
    assert refused(run("zoo", "pretrain", folder, folder, "--out", tmp_path / "z"), "name 'walls'")
    assert refused(run("zoo", "pretrain", folder, "--out", zoo), "go on with --compact.")
    assert refused(run("zoo", "pretrain", folder, "--out", zoo, "--compact"), "--no-multi")
    assert refused(run("zoo", "pretrain", tmp_path / "diary.txt", "--out", "z"), "not a dataset")
    assert list(tmp_path.iterdir()) == [tmp_path / "diary.txt"]


def test_pretrain_says_how_to_go_on_when_it_is_interrupted(run, folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("supernetnas.pretraining.whole_zoo.pretrain_zoo", interrupt)
    result = run("zoo", "pretrain", folder, "--out", tmp_path / "zoo")
    assert refused(result, "interrupted; run the same command again", status=130)
    assert result[2].count("\n") == 2  # the first ends the line with the terminal's ^C


# ------------------------------------------------------------------------------------- distance


def test_distance_ranks_the_sources_of_a_zoo(run, album, zoo):
    status, output, _ = run("distance", album / "sky.npz", "--zoo", zoo)
    assert status == 0
    rows = [line.split() for line in output.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["sky", "grass"]
    assert float(rows[0][1]) < float(rows[1][1])
    assert float(rows[0][2]) > float(rows[1][2])


def test_distance_between_datasets_needs_no_zoo(run, folder, album):
    arguments = [folder, album / "sky.npz", album / "grass.npz", "--zoo", "nowhere"]
    status, output, error = run("distance", *arguments)
    assert status == 0, error
    assert output.splitlines()[-2].startswith(str(album / "sky.npz"))
    assert float(output.splitlines()[-2].split()[1]) == pytest.approx(0, abs=1e-3)


def test_distance_between_sources_reads_no_image(run, zoo, monkeypatch):
    monkeypatch.setattr("supernetnas.cli.distances.get_embedder", None)
    status, output, _ = run("distance", "sky", "grass", "--zoo", zoo)
    assert status == 0
    assert output.splitlines()[-1].startswith("grass")
    assert run("distance", "sky", "--zoo", zoo)[1] == output


def test_distance_draws(run, zoo, tmp_path):
    path = tmp_path / "ranking.svg"
    assert run("distance", "sky", "--zoo", zoo, "--plot", path)[0] == 0
    assert "<svg" in path.read_text()
    assert refused(run("distance", "sky", "--zoo", zoo, "--plot", "x.doc"), "x.doc", "png, ")


def test_distance_draws_pairs_and_classes(run, zoo, folder, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "supernetnas.cli.distances.save_picture",
        lambda display, path: drawn.update({path: display}),
    )
    one, two = (str(tmp_path / name) for name in ("one.png", "two.png"))
    arguments = ["--zoo", zoo, "--heatmap", one, "--coupling", two, "--classes"]
    status, output, error = run("distance", folder, *arguments)
    assert status == 0, error
    assert "of sky  share" in output or "of grass  share" in output
    heatmap, coupling = drawn[one], drawn[two]
    assert sorted(heatmap.names) == sorted([folder.name, "sky", "grass"])
    matrix = np.asarray(heatmap.distances)
    off = ~np.eye(3, dtype=bool)
    assert np.isnan(matrix[~off]).all()
    np.testing.assert_array_equal(matrix[off], matrix.T[off])
    printed = {row.split()[0]: float(row.split()[1]) for row in output.splitlines()[4:6]}
    row = matrix[heatmap.names.index(folder.name)]
    for name, value in printed.items():
        assert row[heatmap.names.index(name)] == pytest.approx(value, rel=1e-3)
    assert coupling.names[0] == folder.name
    assert refused(run("distance", "sky", "sky", "--zoo", zoo, "--heatmap", one), "itself")
    assert refused(run("distance", "sky", "--zoo", zoo, "--coupling", "x.doc"), "--coupling x.doc")


def test_zoo_vectors(run, zoo, tmp_path):
    shutil.copytree(zoo, tmp_path / "zoo")
    status, output, error = run("zoo", "vectors", tmp_path / "zoo")
    assert status == 0, error
    assert output.startswith("2 sources have vectors of ")
    assert run("zoo", "verify", tmp_path / "zoo")[0] == 0
    assert refused(run("zoo", "vectors", "builtin"), "part of the installation")


def test_distance_errors(run, folder, zoo, tmp_path, monkeypatch):
    assert refused(run("distance", "skyy", "--zoo", zoo), "Did you mean 'sky'?")
    monkeypatch.setattr("supernetnas.cli.distances.get_embedder", lambda _: get_embedder(flat))
    assert refused(run("distance", folder, "--zoo", zoo), "flat", "efficientnet_lite0:", "compared")
    assert refused(run("distance", folder, tmp_path), "no class folders")


# ----------------------------------------------------------------------------------------- errors


def test_unexpected_errors_hide_their_traceback_until_it_is_asked_for(run, monkeypatch):
    def fail(_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("supernetnas.cli.zoos.list_", fail)
    result = run("zoo", "list")
    assert refused(result, "RuntimeError: out of luck (--debug", status=1)
    assert result[2].count("\n") == 1
    with pytest.raises(RuntimeError, match="out of luck"):
        run("zoo", "list", "--debug")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(28, "No space left on device"), 1),
        (ImportError("Drawing needs matplotlib"), 1),
        (MemoryError(), 1),
        (PermissionError(13, "Permission denied", "x"), 2),
        (supernetnas.ZooError("damaged"), 2),
        (ValueError("one class only"), 2),
    ],
)
def test_statuses(run, monkeypatch, error, status):
    def fail(_):
        raise error

    monkeypatch.setattr("supernetnas.cli.zoos.list_", fail)
    assert refused(run("zoo", "list"), "supernetnas: error: ", status=status)


def test_warnings_are_one_line(run, monkeypatch):
    import warnings

    def warn(_):
        warnings.simplefilter("always")
        warnings.warn("mind the gap", UserWarning, stacklevel=1)

    monkeypatch.setattr("supernetnas.cli.zoos.list_", warn)
    assert run("zoo", "list") == (0, "", "supernetnas: warning: mind the gap\n")


def test_verbose_logs(run, folder, zoo, tmp_path):
    error = run("-v", "fit", folder, "--out", tmp_path / "m", "--zoo", zoo, *QUICK)[2]
    assert "supernetnas: search epoch 1" in error


def test_a_closed_pipe_is_no_error(zoo):
    code = (
        f"from supernetnas.cli import main; raise SystemExit(main(['zoo', 'list', {str(zoo)!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert error == b""


def test_a_list_cuts_licences_that_show_prints_whole(run, zoo, tmp_path):
    copy = Zoo.open(zoo).save(tmp_path / "zoo")
    source = copy["sky"]
    licence = "free for research, " * 20 + "not for sale"
    copy.add(
        "sky",
        config=source.config,
        state_dict=source.state_dict(),
        signature=source.signature(),
        provenance={**source.provenance, "licence": licence, "warm_start": "multi"},
        overwrite=True,
    )
    listed = run("zoo", "list", tmp_path / "zoo")[1]
    assert "free for research, " in listed and "not for sale" not in listed
    assert max(map(len, listed.splitlines())) < 160
    shown = run("zoo", "show", tmp_path / "zoo", "sky")[1]
    assert licence in shown
    assert re.search(r"^started from +multi$", shown, re.MULTILINE)
    assert re.search(r"^trained on +12 images of 2 classes$", shown, re.MULTILINE)
    assert "warm_start" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "MODEL", "missing.jpg"],
        ["evaluate", "MODEL", "missing"],
        ["report", "MODEL", "missing"],
        ["export", "MODEL", "a.onnx", "--int8", "missing"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_images_that_are_not_there_are_missed_before_the_model_is_loaded(
    arguments, run, tmp_path, monkeypatch
):
    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "from_pretrained", loaded)
    assert refused(run(*arguments), "missing")


# --------------------------------------------------------------------------------------- printing


def test_tables_align_and_are_harmless():
    assert table(["name", "n"], [["a\x1b[2J", 5], ["bcdef", None]]) == (
        "name   n\na [2J  5\nbcdef  -"
    )
    assert (
        fields([("a", 0.123456), ("long", ["x", "y"]), ("no", None)]) == "a     0.1235\nlong  x, y"
    )


def test_long_values_are_continued_under_their_column_on_a_terminal(monkeypatch):
    folder = Path("a folder", "b" * 40)
    pairs = [("genotype", "s1 " + "dil_conv_3x3(0) + " * 3 + "x"), ("model", folder)]
    assert fields(pairs).count("\n") == 1  # in a file, a line each
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = fields(pairs).split("\n")
    assert lines[:2] == ["genotype  s1 dil_conv_3x3(0) +", "          dil_conv_3x3(0) +"]
    assert lines[-1] == f"model     {folder}"  # to be copied


def test_folders_of_one_name_are_told_apart():
    from supernetnas.cli.distances import _short_names

    names = ["cats", "a/train", "b/train", "c/test"]
    assert _short_names(names) == ["cats", names[1], names[2], "test"]


# Options of a fit and an export


def test_errors_and_warnings_of_a_fit(run, tmp_path):
    data = tmp_path / "data"
    for split in ("train", "test"):
        write_folder(data / split, 0)
    status, _, error = run("fit", data, "--out", tmp_path / "m")
    assert status == 2 and f"Take one of them instead: '{data / 'train'}'." in error
    status, _, error = run("fit", data / "train", "--out", tmp_path / "m", "--image-size", "500")
    assert status == 2 and "--image-size must be 'auto', or one or two" in error
    for path in (data / "train").rglob("*.png"):
        Image.open(path).resize((24, 12)).save(path)
    arguments = ("fit", data / "train", "--out", tmp_path / "m", *QUICK, "--strategy", "scratch")
    status, _, error = run(*arguments, "--search", "none", "--set", "family__n_cells=3")
    assert status != 0 or "--resize" in error


def test_what_cannot_be_read_is_skipped_and_listed(run, tmp_path):
    data = write_folder(tmp_path / "walls", 0)
    whole = (data / "dark" / "0.png").read_bytes()
    (data / "dark" / "0.png").write_bytes(whole[: len(whole) // 2])
    (data / "light" / "7.png").write_text("no image")
    small = ("--strategy", "scratch", "--image-size", "8", "--set", "family__n_cells=3")
    small += ("--retrain-epochs", "1", "--search-epochs", "1", "--set", "family__init_channels=4")
    status, _, error = run("fit", data, "--out", tmp_path / "m", *small)
    assert status == 2 and "--skip-unreadable leaves out" in error and "X[" not in error
    status, out, error = run("fit", data, "--out", tmp_path / "m", *small, "--skip-unreadable")
    assert status == 0, error
    assert f"skipped {data / 'dark' / '0.png'}: " in error
    assert f"skipped {data / 'light' / '7.png'}: " in error
    assert "skipped 2 of 12 images" in error
    assert "8 images of 2 classes" in out
    status, out, error = run("predict", tmp_path / "m", data, "--skip-unreadable")
    assert status == 0 and "skipped 2 of 12 images" in error
    assert len(out.splitlines()) == 11
    bad = data / "light" / "7.png"
    status, _, error = run("predict", tmp_path / "m", bad, "--skip-unreadable")
    assert status == 2 and "None of the 1 images can be read" in error
    for path in (data / "dark").iterdir():
        path.write_text("no image")
    arguments = ("--skip-unreadable", "--test-fraction", "0")
    status, _, error = run("fit", data, "--out", tmp_path / "m", *small, *arguments)
    assert status == 2 and "one class only: light" in error


def test_export(run, model, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "walls.onnx"
    status, out, _ = run("export", model, path, "--int8", folder)
    assert status == 0
    assert {"walls.onnx", "walls.json", "walls.int8.onnx"} == {p.name for p in tmp_path.iterdir()}
    assert "on 12 images of" in out and "same class" in out
    assert run("export", model, tmp_path / "walls.pt")[0] == 2
    status, _, error = run("export", model, tmp_path / "walls.pt2", "--int8", folder)
    assert status == 2 and "PATH must end in .onnx" in error
    other = write_folder(tmp_path / "other", 0)
    (other / "dark").rename(other / "dusk")
    status, _, error = run("export", model, path, "--int8", other)
    assert status == 2 and "does not know: dusk" in error


def test_points_stand_below_each_other():
    rows = [["a", 0.548, 12.3], ["b", 0.91836, 7.0], ["c", None, None]]
    assert table(["name", "share", "far"], rows).splitlines() == [
        "name   share    far",
        "a     0.5480  12.30",
        "b     0.9184   7.00",
        "c          -      -",
    ]
    assert table(["n"], [[12345.6], [20.0]]).splitlines() == ["    n", "12346", "   20"]
    assert table(["n"], [[0.5], [0.00021566]]).splitlines() == [
        "        n",
        "      0.5",
        "0.0002157",
    ]
    assert table(["n"], [[float("inf")], [1.0]]).splitlines() == ["    n", "  inf", "1.000"]
