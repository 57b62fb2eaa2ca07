"""How fast exported networks run, as floats and as integers of 8 bits, and what integers cost.

    python benchmarks/export.py flowers5.npz

For every target (``.npz`` with arrays X, y) and family a fit on at most ``--most`` images and half
of the target's, drawn with equal shares of the classes, and its network in four forms: as
``predict_proba`` runs it ("package"), ONNX and ONNX in integers under onnxruntime, and the program
for torch. Accuracy is that on as many other images, on which "same class" compares a form with the
package; integers are calibrated with the images of the fit. Images a second are those of a second
of the processor, in which other programs do not count: the best of ``--repeats`` runs over batches
of ``--batch-size``, from pixels in memory to probabilities.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_output, write_results
from sklearn.model_selection import train_test_split

from supernetnas import SupernetTransferClassifier
from supernetnas.fitting.validation import read_new_images
from supernetnas.saving.export import Deployed
from supernetnas.saving.quantising import onnx_session

Run = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+", type=Path, help=".npz files with X and y")
    parser.add_argument("--families", nargs="+", default=["cells", "elastic"])
    parser.add_argument("--zoo", default="builtin")
    parser.add_argument("--image-size", type=int, help="by default what a fit chooses")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--most", type=int, default=240, help="images of a fit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    add_output(parser, __file__)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    rows = []
    for path in arguments.targets:
        for family in arguments.families:
            for row in measured(path, family, arguments):
                rows.append({"target": path.stem, "family": family, **row})
                print(rows[-1], flush=True)
    print("\n| target | family | pixels | form | MiB | images a second | accuracy | same class |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['target']} | {row['family']} | {row['size']} | {row['form']} | "
            f"{row['mebibytes']:.2f} | {row['images_per_second']:,.0f} | {row['accuracy']:.3f} | "
            f"{row['same_class']:.3f} |"
        )
    write_results(
        arguments.out, rows=rows, batch_size=arguments.batch_size, preset=arguments.preset
    )


def measured(path: Path, family: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Fit, export, and measure every form."""
    with np.load(path, allow_pickle=False) as data:
        X, y = data["X"], data["y"]
    n = min(arguments.most, len(y) // 2)
    X, X_test, y, y_test = train_test_split(
        X, y, train_size=n, test_size=n, stratify=y, random_state=0
    )
    clf = SupernetTransferClassifier(
        *("auto",),
        family=family,
        zoo=arguments.zoo,
        image_size=arguments.image_size or "auto",
        preset=arguments.preset,
        device="cpu",
        random_state=0,
    ).fit(X, y)
    seen = clf.preprocessing_
    blocks = [block.numpy() for block in seen.pixels(read_new_images(clf, X_test))]
    pixels = np.ascontiguousarray(np.concatenate(blocks).transpose(0, 2, 3, 1))
    answers = np.searchsorted(clf.classes_, y_test)
    with tempfile.TemporaryDirectory() as folder:
        found = clf.export(Path(folder) / "model.onnx", calibration=X)
        program = clf.export(Path(folder) / "model.pt2", "torch").path
        assert found.int8_path is not None
        files = {"ONNX": found.path, "ONNX, int8": found.int8_path, "torch": program}
        forms: dict[str, tuple[Run, float]] = {"package": (packaged(clf), 0.0)}
        for form, file in files.items():
            run = loaded(file) if form == "torch" else session(file, arguments.threads)
            forms[form] = run, file.stat().st_size / 2**20
        weights = sum(p.numel() * p.element_size() for p in clf.network_.parameters()) / 2**20
        for form, (run, size) in forms.items():
            probabilities, seconds = best_of(run, pixels, arguments)
            predicted = probabilities.argmax(1)
            if form == "package":
                packaged_answers = predicted
            yield {
                "form": form,
                "size": clf.image_size_[0],
                "macs": clf.n_macs_,
                "mebibytes": size or weights,
                "images_per_second": len(pixels) / seconds,
                "n_images": len(pixels),
                "accuracy": float((predicted == answers).mean()),
                "same_class": float((predicted == packaged_answers).mean()),
            }


def best_of(
    run: Run, pixels: np.ndarray, arguments: argparse.Namespace
) -> tuple[np.ndarray, float]:
    """Probabilities of all images, and the seconds of the processor that they took at best."""
    size, best = arguments.batch_size, float("inf")
    batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    run(batches[0])
    for _ in range(arguments.repeats):
        start = time.process_time()
        found = [run(batch) for batch in batches]
        best = min(best, time.process_time() - start)
    return np.concatenate(found), best


def packaged(clf: SupernetTransferClassifier) -> Run:
    """What ``predict_proba`` computes of pixels that are of the network's size."""
    module = Deployed(clf._folded_copy(), clf.preprocessing_).eval()
    return in_torch(module.to(memory_format=torch.channels_last))


def session(path: Path, n_threads: int) -> Run:
    """What onnxruntime makes of a file."""
    model = onnx_session(path.read_bytes(), n_threads)
    return lambda pixels: model.run(None, {"pixels": pixels})[0]


def loaded(path: Path) -> Run:
    """What torch makes of a file."""
    return in_torch(torch.export.load(path).module())


def in_torch(module: torch.nn.Module) -> Run:
    """Run a module on NumPy's pixels."""

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(pixels)).numpy()

    return run


if __name__ == "__main__":
    main()
