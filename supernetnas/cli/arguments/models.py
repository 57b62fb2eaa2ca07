"""The arguments of the commands that are about a model."""

from __future__ import annotations

import argparse
from typing import Any

from .kinds import positive
from .shared import add_command, add_device, add_model, add_skipping

__all__ = ["add_model_commands"]

_PREDICT = """\
Predict the classes of images with a model that `supernetnas fit` saved.

Prints the path, the class and its probability for each image.
"""

_PREDICT_EPILOG = """\
examples:
  supernetnas predict flower-model a.jpg b.jpg
  supernetnas predict flower-model new-photos/
  supernetnas predict org/flower-model a.jpg        # from the Hugging Face Hub
  supernetnas predict flower-model new-photos/ --proba --csv predictions.csv
  supernetnas predict flower-model new-photos/ --json | jq '.[].class'
"""

_EXPORT = """\
Write a model as one file that predicts without this package: PATH ends in .onnx,
or in .pt2 for torch. A .json file beside it says how images become its input,
and names the classes.

With --int8 a second file, .int8.onnx, computes in integers of 8 bits. DATA, a
folder of class folders or an .npz file, calibrates it; the accuracy of both on
these images is printed.
"""

_EXPORT_EPILOG = """\
examples:
  supernetnas export flower-model flowers.onnx
  supernetnas export flower-model flowers.onnx --int8 flowers
  supernetnas export flower-model flowers.pt2
"""

_EVALUATE = """\
Measure a model on images of known classes: accuracy and its interval, precision
and recall of each class, log loss, calibration error, and the worst mistakes.

DATA is as for `supernetnas fit`, and holds images that the fit has not seen.
"""

_EVALUATE_EPILOG = """\
examples:
  supernetnas evaluate flower-model new-flowers
  supernetnas evaluate flower-model new-flowers --confusion confusion.png
  supernetnas evaluate flower-model new-flowers --errors errors.png --worst 24
  supernetnas evaluate flower-model new-flowers --csv images.csv --json all.json
"""

_REPORT = """\
Write what there is to say of a model as one page of HTML, which needs neither
network nor other files: source, architecture, curves, cost, accuracy, mistakes,
settings, provenance and licences.

The accuracy is that on DATA, or else on the images that the fit has held out;
only with DATA, images that the fit has not seen, does the page show images.
"""

_REPORT_EPILOG = """\
examples:
  supernetnas report flower-model
  supernetnas report flower-model new-flowers --out flowers.html
"""

_BENCHMARK = """\
Measure how fast the network of a saved model is on this machine, and how large.

Latency is the median time of a batch of images that are there already, after a
warm-up: neither reading nor resizing is in it. The number of threads is that of
torch, which OMP_NUM_THREADS sets.
"""

_BENCHMARK_EPILOG = """\
examples:
  supernetnas benchmark flower-model
  OMP_NUM_THREADS=1 supernetnas benchmark flower-model --device cpu
  supernetnas benchmark flower-model --json | jq .latency_1
"""


def add_model_commands(commands: Any) -> None:
    """Add the commands."""
    _add_predict(
        add_command(
            commands,
            "predict",
            "predict the classes of images",
            "fitting:predict",
            description=_PREDICT,
            epilog=_PREDICT_EPILOG,
        )
    )
    _add_export(
        add_command(
            commands,
            "export",
            "write a model as a file for ONNX or torch",
            "exporting:export",
            description=_EXPORT,
            epilog=_EXPORT_EPILOG,
        )
    )
    _add_evaluate(
        add_command(
            commands,
            "evaluate",
            "measure a model on images of known classes",
            "evaluating:evaluate",
            description=_EVALUATE,
            epilog=_EVALUATE_EPILOG,
        )
    )
    _add_report(
        add_command(
            commands,
            "report",
            "write what there is to say of a model as one page",
            "evaluating:report",
            description=_REPORT,
            epilog=_REPORT_EPILOG,
        )
    )
    _add_benchmark(
        add_command(
            commands,
            "benchmark",
            "measure how fast and how large the network of a model is",
            "benchmarking:benchmark",
            description=_BENCHMARK,
            epilog=_BENCHMARK_EPILOG,
        )
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, and folders searched for images"
    )
    parser.add_argument("--proba", action="store_true", help="the probabilities of all classes")
    add_skipping(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", metavar="FILE", help="write a CSV file instead of printing")
    output.add_argument("--json", action="store_true", help="print JSON")
    add_device(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("path", metavar="PATH", help="file to write, ending in .onnx or .pt2")
    parser.add_argument(
        "--int8", metavar="DATA", help="images to calibrate a file in integers of 8 bits with"
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("data", metavar="DATA", help="folder of class folders, or an .npz file")
    parser.add_argument("--csv", metavar="FILE", help="write a row for each image")
    parser.add_argument("--json", metavar="FILE", help="write all figures, and the mistakes")
    parser.add_argument(
        "--confusion", metavar="FILE", help="draw what is taken for what (.png, .svg, .pdf, ...)"
    )
    parser.add_argument("--errors", metavar="FILE", help="draw the worst mistakes")
    parser.add_argument(
        "--worst",
        metavar="N",
        type=positive,
        default=12,
        help="mistakes that are drawn and printed (default: %(default)s)",
    )
    add_device(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="folder of class folders, or an .npz file"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: the name of MODEL with .html, here)"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page")
    add_device(parser)


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=positive,
        default=50,
        help="runs, of which the median counts (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, latencies in seconds")
    add_device(parser)
