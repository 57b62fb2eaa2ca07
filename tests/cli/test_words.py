"""What the command says is in the words of the command."""

import argparse

import pytest
from PIL import Image
from test_cli import (  # noqa: F401
    QUICK,
    album,
    folder,
    model,
    run,
    write_folder,
    zoo,
)

from supernetnas.cli.parser import build_parser
from supernetnas.cli.words import in_options, options_of


def options(*arguments):
    return options_of(build_parser().parse_args(arguments).parser)


FIT = options("fit", "x", "--out", "y")


def test_options_of_a_command():
    assert FIT["image_size"] == "--image-size"
    assert FIT["retraining__epochs"] == "--retrain-epochs"
    assert "image_size" not in options("zoo", "list")
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    assert options_of(parser) == {}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "The 'time_limit' parameter of SupernetTransferClassifier must be float > 0.",
            "--time-limit must be float > 0.",
        ),
        (
            "The 'epochs' parameter of Retraining must be int >= 1.",
            "--retrain-epochs must be int >= 1.",
        ),
        (
            "The 'patience' parameter of SmoothDARTS must be int >= 1.",
            "--set search__patience=... must be int >= 1.",
        ),
        ("The 'n_cells' parameter of Cells must", "--set family__n_cells=... must"),
        (
            "Try a smaller image_size or fewer images.",
            "Try a smaller --image-size or fewer images.",
        ),
        ("a smaller image_size.", "a smaller --image-size."),
        ("Use batch_size=8.", "Use --set batch_size=... 8."),
        ("resize='crop' or 'pad' keeps", "--resize crop or 'pad' keeps"),
        ("The search starts from the zoo.", "The search starts from the zoo."),
        ("no folder 'x/image_size/a.image_size.png'", "no folder 'x/image_size/a.image_size.png'"),
        (
            "2 of 9 images cannot be read. The first is X[3] = 'a.png': OSError: x",
            "2 of 9 images cannot be read. The first is 'a.png': OSError: x "
            "--skip-unreadable leaves out what cannot be read.",
        ),
    ],
)
def test_parameters_become_options(said, expected):
    assert in_options(said, FIT) == expected


def test_a_command_without_the_option_leaves_the_words():
    said = "The 'time_limit' parameter of SupernetTransferClassifier: image_size."
    assert in_options(said, options("zoo", "list")) == said


def test_errors_and_warnings_of_a_fit(run, tmp_path):  # noqa: F811
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


def test_what_cannot_be_read_is_skipped_and_listed(run, tmp_path):  # noqa: F811
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


def test_export(run, model, folder, tmp_path):  # noqa: F811
    pytest.importorskip("onnxruntime")
    path = tmp_path / "walls.onnx"
    status, out, _ = run("export", model, path, "--int8", folder)
    assert status == 0
    assert {"walls.onnx", "walls.json", "walls.int8.onnx"} == {p.name for p in tmp_path.iterdir()}
    assert "on the 12 images of" in out and "same class" in out
    assert run("export", model, tmp_path / "walls.pt")[0] == 2
    status, _, error = run("export", model, tmp_path / "walls.pt2", "--int8", folder)
    assert status == 2 and "PATH must end in .onnx" in error
    other = write_folder(tmp_path / "other", 0)
    (other / "dark").rename(other / "dusk")
    status, _, error = run("export", model, path, "--int8", other)
    assert status == 2 and "does not know: dusk" in error
