"""What the command says is in the words of the command."""

import argparse

import pytest

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
        ("The 'width' parameter of Paths must", "--set family__width=... must"),
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
            "2 of 9 images cannot be read. The first is 'a.png': OSError: x. "
            "--skip-unreadable leaves out what cannot be read.",
        ),
        (
            "2 of 9 images cannot be read. The first is X[3] = 'a.png': OSError: It is empty.",
            "2 of 9 images cannot be read. The first is 'a.png': OSError: It is empty. "
            "--skip-unreadable leaves out what cannot be read.",
        ),
    ],
)
def test_parameters_become_options(said, expected):
    assert in_options(said, FIT) == expected


def test_a_command_without_the_option_leaves_the_words():
    said = "The 'time_limit' parameter of SupernetTransferClassifier: image_size."
    assert in_options(said, options("zoo", "list")) == said
