"""The arguments of the command, and its help."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from ..selection.strategies import STRATEGIES
from ..version import __version__

__all__ = ["build_parser"]

_DESCRIPTION = """\
Find a small convolutional network for your images: the search for its
architecture starts from a supernet that was pretrained on other images.
"""

_EPILOG = """\
Begin with a folder that holds one folder of images per class
(flowers/rose/1.jpg, flowers/tulip/1.jpg, ...):

  supernetnas fit flowers --out flower-model
  supernetnas predict flower-model unknown.jpg

What the search can start from, and how near your images are to each of it:

  supernetnas zoo list
  supernetnas distance flowers

`supernetnas COMMAND --help` explains a command and shows examples.
Exit status: 0 success, 2 wrong usage or input, 130 interrupted, 1 other errors.
"""

_FIT = """\
Search an architecture for the images of a folder, train it, and save it.

DATA is a folder of class folders, or an .npz file with the arrays X (uint8;
n, height, width, channels), y (integers) and classes (names). A fifth of the
images is held out of the whole fit to measure the network; --test-fraction 0
uses all. MODEL/held_out.csv lists them, with what was predicted, and the card
MODEL/README.md has the accuracy.
"""

_FIT_EPILOG = """\
strategies (what the search starts from):
{strategies}
  NAME     start from the source of this name, see `supernetnas zoo list`

examples:
  supernetnas fit flowers --out flower-model
  supernetnas fit flowers --out flower-model --strategy ot --time-limit 120
  supernetnas fit flowers --out flower-model --zoo my-zoo --image-size 64
  supernetnas fit flowers --out quick --search-epochs 3 --retrain-epochs 5
  supernetnas fit flowers --out other --search drnas --set search__patience=2
"""

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

_ZOO = """\
Look at zoos, check them, make your own, and share them.

A zoo is a folder of pretrained supernets, or a repository of them on the
Hugging Face Hub: org/name, or org/name@revision. A folder of that name comes
first; hf://org/name always is the repository. "builtin" is the zoo that comes
with the package.
"""

_LIST_EPILOG = """\
examples:
  supernetnas zoo list
  supernetnas zoo list my-zoo
"""

_SHOW_EPILOG = """\
One name alone is a zoo if it is "builtin" or a folder, and else a source of the
builtin zoo.

examples:
  supernetnas zoo show cifar10
  supernetnas zoo show builtin
  supernetnas zoo show my-zoo my-flowers
"""

_VERIFY_EPILOG = """\
Exit status: 0 if every file is as the zoo's index says, else 1.

examples:
  supernetnas zoo verify
  supernetnas zoo verify my-zoo
"""

_PULL = """\
Fetch a zoo from the Hugging Face Hub: its index and the signatures of its
sources into the cache that all commands use, and the supernets of the SOURCEs
or, with --all, of every source.

With --out they are also written to a folder, a zoo that needs neither cache nor
network: carry it wherever there is none. Interrupt it whenever you like; the
same command goes on where it stopped.

HF_HUB_OFFLINE=1 makes every command use the cache alone. HF_TOKEN or `hf auth
login` gives access to private zoos, HF_ENDPOINT names another Hub or a mirror.
"""

_PULL_EPILOG = """\
examples:
  supernetnas zoo pull org/zoo                       # enough to list and rank
  supernetnas zoo pull org/zoo@v1 flowers            # and one supernet
  supernetnas zoo pull org/zoo --all --out zoo       # a folder for anywhere
"""

_PUSH = """\
Add the sources of a zoo to one on the Hugging Face Hub, in one commit. The
repository is made if need be; what others have put there stays. Files are
checked first. If the upload breaks off, the same command goes on.

It needs a token that may write: HF_TOKEN, or `hf auth login`.
"""

_PUSH_EPILOG = """\
examples:
  supernetnas zoo push my-zoo org/zoo
  supernetnas zoo push my-zoo org/zoo --create-pr    # somebody else's zoo
  supernetnas zoo push my-zoo org/zoo --overwrite --prune   # make it the same
"""

_VECTORS = """\
Give every source of a zoo a short vector, which finds the nearest among many
sources in milliseconds. Sources that are added later get theirs at once.
"""

_VECTORS_EPILOG = """\
examples:
  supernetnas zoo vectors my-zoo
"""

_PRETRAIN = """\
Pretrain a supernet on each dataset and one on all together, and write a zoo.

DATA is a folder of class folders; an .npz file with the arrays X (uint8; n,
height, width, channels), y (integers) and classes (names); or a folder of such
files. An album.json beside .npz files says where their images come from:

  {"datasets": [{"file": "flowers.npz", "upstream": "name of the collection",
                 "licence": "as its source states it", "source": "URL"}]}

Of the family elastic there is one supernet alone: EfficientNet-Lite0 with its
ImageNet weights, which teaches smaller networks on the images of all datasets
together, without labels. --steps and --min-epochs are not for it. Of the family
paths a step trains one random path of the supernet.

Interrupt it whenever you like: the same command goes on where it stopped, and
every finished source is in the zoo already.
"""

_PRETRAIN_EPILOG = """\
examples:
  supernetnas zoo pretrain flowers butterflies --out my-zoo
  supernetnas zoo pretrain album/ --out my-zoo --dtype float16 --compact
  supernetnas zoo pretrain album/ --out quick-zoo --steps 50 --no-multi
  supernetnas zoo pretrain album/ --out better-zoo --warm-start quick-zoo
  supernetnas zoo pretrain album/ --out my-zoo --family elastic --dtype float16
  supernetnas zoo pretrain album/ --out my-zoo --family paths --no-singles
  supernetnas zoo pretrain album/ --out my-zoo --jobs 4 --threads 1
  supernetnas fit mushrooms --out model --zoo my-zoo --strategy ot
"""

_DISTANCE = """\
Measure how far datasets are from each other, labels included (optimal transport
dataset distance of the features of a frozen network), and rank them.

A and B are folders of class folders, .npz files, or names of sources of the
zoo. Without B, A is compared with every source of the zoo, or, in a zoo of more
than 50, with the 20 that are likely to be nearest.
"""

_DISTANCE_EPILOG = """\
examples:
  supernetnas distance flowers                      # which source is nearest?
  supernetnas distance flowers --plot distances.png
  supernetnas distance flowers --coupling classes.png --heatmap zoo.png
  supernetnas distance flowers butterflies birds    # your own datasets
  supernetnas distance flowers cifar10              # a source of the builtin zoo
"""

_EMBEDDER_HELP = "frozen network whose features are compared; the zoo's must be the same"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser.

    What it parses has ``handler``, "module:function" of what runs the command, or None where a
    command is missing.
    """
    common = _common()
    parser = _Parser(prog="supernetnas", description=_DESCRIPTION, epilog=_EPILOG, parents=[common])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(
        handler=None,
        parser=parser,
        debug=False,
        quiet=False,
        verbose=0,
        interrupted="nothing was written.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(to: Any, name: str, summary: str, handler: str | None, **kwargs: Any) -> _Parser:
        kwargs = {"description": f"{summary[0].upper()}{summary[1:]}.", **kwargs}
        command = to.add_parser(name, help=summary, parents=[_common()], **kwargs)
        command.set_defaults(handler=handler, parser=command)
        return command

    _add_fit(
        add(
            commands,
            "fit",
            "search and train a network for the images of a folder",
            "fitting:fit",
            description=_FIT,
            epilog=_FIT_EPILOG.format(strategies=_strategies()),
        )
    )
    _add_predict(
        add(
            commands,
            "predict",
            "predict the classes of images",
            "fitting:predict",
            description=_PREDICT,
            epilog=_PREDICT_EPILOG,
        )
    )
    _add_export(
        add(
            commands,
            "export",
            "write a model as a file for ONNX or torch",
            "exporting:export",
            description=_EXPORT,
            epilog=_EXPORT_EPILOG,
        )
    )
    _add_evaluate(
        add(
            commands,
            "evaluate",
            "measure a model on images of known classes",
            "evaluating:evaluate",
            description=_EVALUATE,
            epilog=_EVALUATE_EPILOG,
        )
    )
    _add_report(
        add(
            commands,
            "report",
            "write what there is to say of a model as one page",
            "evaluating:report",
            description=_REPORT,
            epilog=_REPORT_EPILOG,
        )
    )
    _add_benchmark(
        add(
            commands,
            "benchmark",
            "measure how fast and how large the network of a model is",
            "benchmarking:benchmark",
            description=_BENCHMARK,
            epilog=_BENCHMARK_EPILOG,
        )
    )
    zoo = add(
        commands,
        "zoo",
        "list, show, verify, share and make pretrained supernets",
        None,
        description=_ZOO,
    ).add_subparsers(title="commands", metavar="COMMAND")
    command = add(zoo, "list", "list the sources of a zoo", "zoos:list_", epilog=_LIST_EPILOG)
    _add_zoo(command)
    command = add(
        zoo, "show", "show what is known about a source", "zoos:show", epilog=_SHOW_EPILOG
    )
    command.add_argument(
        "zoo", metavar="ZOO", help='folder of a zoo, org/name, "builtin", or SOURCE alone'
    )
    command.add_argument("source", metavar="SOURCE", nargs="?", help="name of a source of the zoo")
    _add_pull(
        add(
            zoo,
            "pull",
            "fetch a zoo from the Hugging Face Hub",
            "zoos:pull",
            description=_PULL,
            epilog=_PULL_EPILOG,
        )
    )
    _add_push(
        add(
            zoo,
            "push",
            "publish a zoo on the Hugging Face Hub",
            "zoos:push",
            description=_PUSH,
            epilog=_PUSH_EPILOG,
        )
    )
    command = add(zoo, "verify", "check every file of a zoo", "zoos:verify", epilog=_VERIFY_EPILOG)
    _add_zoo(command)
    command = add(
        zoo,
        "vectors",
        "give the sources of a zoo vectors to search",
        "zoos:vectors",
        description=_VECTORS,
        epilog=_VECTORS_EPILOG,
    )
    command.add_argument("zoo", metavar="ZOO", help="folder of a zoo")
    _add_pretrain(
        add(
            zoo,
            "pretrain",
            "pretrain supernets on your own datasets",
            "zoos:pretrain",
            description=_PRETRAIN,
            epilog=_PRETRAIN_EPILOG,
        )
    )
    _add_distance(
        add(
            commands,
            "distance",
            "rank datasets by their distance",
            "distances:distance",
            description=_DISTANCE,
            epilog=_DISTANCE_EPILOG,
        )
    )
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that keeps the line breaks of its texts and takes no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs}
        super().__init__(allow_abbrev=False, **kwargs)


def _common() -> argparse.ArgumentParser:
    """Options of every command, before or after its name; a new parser for each that takes them.

    Without defaults, for those of the inner parser would replace what the outer one has read.
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("messages")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    group.add_argument("-v", "--verbose", action="count", help="log what is done; -vv logs more")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder of class folders, or an .npz file")
    parser.add_argument(
        "--out",
        metavar="MODEL",
        required=True,
        help="folder to save the model in; replaced if it holds a saved model",
    )
    parser.add_argument(
        "--strategy",
        default="auto",
        help="what the search starts from, see below (default: %(default)s)",
    )
    parser.add_argument(
        "--zoo",
        default="builtin",
        help="folder of a zoo, or org/name on the Hub (default: %(default)s)",
    )
    _add_embedder(parser)
    parser.add_argument(
        "--image-size",
        metavar="SIZE",
        type=_image_size,
        default="auto",
        help="N or HxW pixels that the network sees (default: that of the images in 8 to 32)",
    )
    parser.add_argument(
        "--resize",
        choices=("squeeze", "crop", "pad"),
        default="squeeze",
        help="what becomes of images of another aspect (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=("quick", "default", "best"),
        default="default",
        help="quick: a third of the epochs of the final training; best: three times as many "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--search",
        metavar="METHOD",
        default="auto",
        help="of cells none, sdarts, darts, darts2, pc_darts, drnas, gdas, evolution, shifting, "
        "random, random_search; of elastic networks probe, front, random or evolution; of paths "
        "evolution, shifting or random (default: %(default)s, the first of these; sdarts with "
        "scratch and oracle of cells)",
    )
    parser.add_argument(
        "--search-epochs",
        metavar="N",
        dest="search__epochs",
        type=int,
        help="most epochs of a search of cells, by default of sdarts (default: 6)",
    )
    parser.add_argument(
        "--retrain-epochs",
        metavar="N",
        dest="retraining__epochs",
        type=int,
        help="epochs of the final training (default: 30 of cells, 15 from random weights; 12 of "
        "elastic networks)",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_setting,
        help="any parameter of SupernetTransferClassifier, such as search__patience=2, "
        "family__network_cells=8 or batch_size=32; repeat it for several",
    )
    parser.add_argument(
        "--time-limit", metavar="SECONDS", type=float, help="most seconds that the fit may take"
    )
    parser.add_argument(
        "--max-macs",
        metavar="N",
        type=_positive,
        help="most multiply-accumulates that the network may need for one image",
    )
    parser.add_argument(
        "--max-parameters", metavar="N", type=_positive, help="most parameters of the network"
    )
    parser.add_argument(
        "--max-latency",
        metavar="SECONDS",
        type=_positive_float,
        help="most seconds that the network takes here for one image",
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="FOLDER",
        help="keep checkpoints there, and go on from them when the same command is run again",
    )
    parser.add_argument(
        "--class-weight",
        choices=("none", "balanced"),
        default="none",
        help="balanced: rare classes count as much as frequent ones (default: %(default)s)",
    )
    _add_skipping(parser)
    parser.add_argument(
        "--test-fraction",
        metavar="SHARE",
        type=_share,
        default=0.2,
        help="share of each class that is held out to measure accuracy (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )
    parser.add_argument(
        "--seed", type=_count, default=0, help="of everything random (default: %(default)s)"
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="what `supernetnas fit` wrote, or org/name")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, and folders searched for images"
    )
    parser.add_argument("--proba", action="store_true", help="the probabilities of all classes")
    _add_skipping(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", metavar="FILE", help="write a CSV file instead of printing")
    output.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="what `supernetnas fit` wrote, or org/name")
    parser.add_argument("path", metavar="PATH", help="file to write, ending in .onnx or .pt2")
    parser.add_argument(
        "--int8", metavar="DATA", help="images to calibrate a file in integers of 8 bits with"
    )


def _add_skipping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read, and list them",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="what `supernetnas fit` wrote, or org/name")
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
        type=_positive,
        default=12,
        help="mistakes that are drawn and printed (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="what `supernetnas fit` wrote, or org/name")
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="folder of class folders, or an .npz file"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: the name of MODEL with .html, here)"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="what `supernetnas fit` wrote, or org/name")
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=_positive,
        default=50,
        help="runs, of which the median counts (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, latencies in seconds")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )


def _add_zoo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "zoo",
        metavar="ZOO",
        nargs="?",
        default="builtin",
        help='folder of a zoo, or org/name on the Hub (default: "%(default)s")',
    )


def _add_embedder(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--embedder",
        metavar="NAME",
        default="efficientnet_lite0",
        help=f"{_EMBEDDER_HELP} (default: %(default)s)",
    )


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("zoo", metavar="ORG/ZOO", help="repository, perhaps with @revision")
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="whose supernets to fetch")
    parser.add_argument("--all", action="store_true", help="fetch all supernets")
    parser.add_argument("--out", metavar="FOLDER", help="write what was fetched to a folder, too")
    parser.set_defaults(interrupted="run the same command again to go on.")


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("zoo", metavar="ZOO", help="folder of a zoo")
    parser.add_argument("repository", metavar="ORG/NAME", help="where to")
    parser.add_argument("--revision", metavar="BRANCH", help='by default "main"')
    parser.add_argument("--create-pr", action="store_true", help="propose it in a pull request")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace sources of the same name that differ"
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove the sources there that ZOO has not"
    )
    parser.add_argument(
        "--private", action="store_true", help="keep a repository that is made now private"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.set_defaults(interrupted="nothing was changed; run the same command again to go on.")


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", nargs="+", help="datasets, see above")
    parser.add_argument("--out", metavar="ZOO", required=True, help="folder of the zoo")
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="where checkpoints are kept (default: ZOO/.pretraining, deleted at the end)",
    )
    training = parser.add_argument_group("pretraining")
    for option, default, text in (
        ("--steps", 400, "weight steps on a single dataset"),
        ("--min-epochs", 10, "least epochs on a single dataset"),
        ("--multi-epochs", 20, "epochs on all datasets together"),
        ("--batch-size", None, "images in a step"),
    ):
        default_text = "64; elastic: 96; paths: 64" if default is None else "%(default)s"
        text += f" (default: {default_text})"
        training.add_argument(option, metavar="N", type=_positive, default=default, help=text)
    training.add_argument(
        "--learning-rate",
        metavar="RATE",
        type=_positive_float,
        help="peak learning rate of the weights (default: 0.1; elastic: 0.001; paths: 0.002)",
    )
    training.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )
    training.add_argument(
        "--jobs",
        metavar="N",
        type=_positive,
        default=1,
        help="sources to pretrain at the same time (default: %(default)s)",
    )
    training.add_argument(
        "--threads",
        metavar="N",
        type=_positive,
        help="threads for each of them; decides the rounding (default: those of torch)",
    )
    training.add_argument(
        "--no-singles",
        dest="singles",
        action="store_const",
        const=False,
        help='make only "multi", not a source for each dataset; elastic never has those',
    )
    training.add_argument(
        "--no-multi",
        dest="multi",
        action="store_false",
        help='leave out "multi", the supernet on all datasets together',
    )
    training.add_argument(
        "--warm-start",
        metavar="ZOO",
        help="start from the sources of the same names in this zoo, to pretrain it further",
    )
    training.add_argument(
        "--warm-start-source",
        metavar="SOURCE",
        help="start every supernet from this one source of that zoo, such as multi",
    )
    training.add_argument(
        "--seed", type=_count, default=0, help="of everything random (default: %(default)s)"
    )
    supernet = parser.add_argument_group("supernet")
    supernet.add_argument(
        "--family",
        metavar="NAME",
        help="kind of supernet: cells, which is the default, elastic or paths",
    )
    supernet.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_setting,
        help="a size of the family's supernets, such as space=s2, init_channels=8 or n_cells=3, or "
        "width=1 or depth=1 of paths; repeat it for several",
    )
    supernet.add_argument(
        "--image-size",
        metavar="N",
        type=_positive,
        help="side of the images in pixels (default: 32; elastic: 64; paths: 32)",
    )
    storage = parser.add_argument_group("storage")
    _add_embedder(storage)
    storage.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="precision that weights are stored in (default: %(default)s)",
    )
    storage.add_argument(
        "--compact",
        action="store_true",
        help="compact signatures, a twentieth of the size, with a basis that they share",
    )
    parser.set_defaults(interrupted="run the same command again to go on.")


def _add_distance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="dataset or source")
    parser.add_argument("b", metavar="B", nargs="*", help="what to compare it with")
    parser.add_argument(
        "--zoo", default="builtin", help="whose sources are meant (default: %(default)s)"
    )
    _add_embedder(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the ranking (.png, .svg, .pdf, ...)")
    parser.add_argument(
        "--heatmap", metavar="FILE", help="draw the distances between all of them, in pairs"
    )
    parser.add_argument(
        "--coupling", metavar="FILE", help="draw which classes of A go to which of the nearest B"
    )
    parser.add_argument(
        "--classes", action="store_true", help="print that for the largest share of each class"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )


def _strategies() -> str:
    return "\n".join(f"  {s.name:<8} {s.meaning}" for s in STRATEGIES.values())


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and less than 1")
    return value


def _setting(text: str) -> tuple[str, Any]:
    """Read a parameter's name and value; what is no number, tuple or such is a text."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _image_size(text: str) -> str | int | tuple[int, int]:
    if text == "auto":
        return text
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, N or HxW")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


# What argparse calls a type in "invalid ... value: 'x'".
_count.__name__ = _positive.__name__ = "int"
_share.__name__ = _positive_float.__name__ = "float"
