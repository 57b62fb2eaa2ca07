"""`supernetnas fit` prints what it found, and refuses before the fit."""

import csv
import re
import tempfile
from pathlib import Path

import pytest
from command_line import QUICK, refused, write_folder
from PIL import Image

import supernetnas

# What a fit makes


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


# Where the model goes


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


# What is refused


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


def test_fit_names_the_image_that_cannot_be_read(run, zoo, tmp_path):
    data = write_folder(tmp_path / "data", 0)
    (data / "light" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    result = run("fit", data, "--out", tmp_path / "m", "--zoo", zoo, *QUICK)
    assert refused(result, "broken.png")
    assert not (tmp_path / "m").exists()


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
