"""The sections of a report: what there is to say of a fit."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from ..evaluation.evaluation import Evaluation
from ..families.base import get_family
from ..images.resizing import ASPECTS
from ..images.sets import ImageSet
from ..plotting import (
    CellDisplay,
    ConfusionDisplay,
    DistanceDisplay,
    FrontDisplay,
    SearchCurveDisplay,
)
from ..plotting._common import full_names, short_names
from ..plotting._tiles import tiles as shown_tiles
from ..storage.counting import counted
from ..version import __version__
from ..zoo import Zoo, ZooError
from ..zoo.provenance import described_provenance
from .page import code, details, paragraph, picture, section, table, tiles

__all__ = ["sections"]

_MOST_IMAGES = 24
_MOST_ROWS = 20
_ERROR_SIDE = 112  # pixels
_LONGEST = 24  # letters of a name below an image: two lines

_CURVES = {
    "accuracy": "Accuracy over the epochs",
    "loss": "Loss over the epochs",
    "changes": "Parts of the architecture that differ from where the search began",
    "alpha_entropy": "Entropy of the alphas: 1 is undecided, 0 is discrete",
}


def sections(
    clf: Any, evaluation: Evaluation | None, images: ImageSet | None
) -> list[tuple[str, str]]:
    """Return headings and contents.

    Parameters
    ----------
    clf : SupernetTransferClassifier
        Fitted.
    evaluation : Evaluation or None
    images : ImageSet or None
        Those that the evaluation names by their positions.
    """
    return [
        ("In short", _summary(clf, evaluation)),
        ("What the network sees", _inputs(clf, evaluation, images)),
        ("Where it started", _source(clf)),
        ("Architecture", _architecture(clf)),
        ("Training", _training(clf)),
        ("Accuracy", _evaluation(evaluation)),
        ("Mistakes", _errors(evaluation, images)),
        ("Settings", _settings(clf)),
        ("Provenance and licences", _provenance(clf)),
        ("How to use it", _use(clf)),
    ]


def _summary(clf: Any, evaluation: Evaluation | None) -> str:
    accuracy: str | None = "not measured: no images of known classes were held out or given"
    if evaluation is not None:
        low, high = evaluation.accuracy_interval
        accuracy = (
            f"{100 * evaluation.accuracy:.1f} % on {counted(len(evaluation), 'image')} that it was "
            f"not trained on (95 % interval {100 * low:.1f} % to {100 * high:.1f} %)"
        )
    return table(
        [
            ("accuracy", accuracy),
            ("classes", len(clf.classes_)),
            ("input", clf.preprocessing_.input),
            ("started from", clf.source_),
            ("search", clf.outcome_ or None),
            ("parameters", f"{clf.n_parameters_:,}"),
            ("multiply-accumulates per image", f"{clf.n_macs_:,}"),
            ("made with", f"supernetnas {__version__}"),
        ]
    )


def _inputs(clf: Any, evaluation: Evaluation | None, images: ImageSet | None) -> str:
    height, width = clf.image_size_
    said = paragraph(
        f"Images are resized to {height} x {width} pixels, those of another aspect are "
        f"{ASPECTS[clf.preprocessing_.resize]}, and each channel is standardised."
    )
    if images is None or evaluation is None:
        return section(said, paragraph("No images are shown, since none were given to the report."))
    rows = _one_of_each_class(evaluation)
    pixels = np.concatenate(
        [
            batch.float().permute(0, 2, 3, 1).numpy()
            for batch in clf.preprocessing_.pixels(images.take(evaluation.index[rows]))
        ]
    )
    names = [evaluation.classes[label] for label in evaluation.labels[rows]]
    captions = short_names(names, _LONGEST)
    return section(
        said,
        tiles(_visible(pixels, clf.preprocessing_), captions),
        details("Full names", table(full_names(captions, names).items())),
    )


def _one_of_each_class(evaluation: Evaluation) -> np.ndarray:
    first = np.unique(evaluation.labels, return_index=True)[1]
    return first[:_MOST_IMAGES]


def _visible(pixels: np.ndarray, preprocessing: Any) -> np.ndarray:
    """Values within the range of the fit as red, green and blue."""
    low, high = preprocessing.black_and_white
    scaled = ((pixels - low) / max(high - low, 1e-12) * 255).clip(0, 255).astype(np.uint8)
    if scaled.shape[-1] != 3:
        scaled = scaled[..., :3] if scaled.shape[-1] > 3 else scaled[..., :1]
    return np.broadcast_to(scaled, (*scaled.shape[:3], 3)).copy()


def _source(clf: Any) -> str:
    start = (
        "random weights"
        if clf.source_ == "scratch"
        else f"the pretrained supernet {clf.source_!r}, of the family {clf.family_!r}"
    )
    parts = [paragraph(f"The strategy {clf.strategy!r} started from {start}.")]
    if clf.scores_:
        parts.append(_scores(clf.scores_))
    if clf.distances_:
        what = "Distances from the images to the sources, the nearest first"
        drawn = dict(list(clf.distances_.items())[:_MOST_ROWS])
        parts.append(paragraph(f"{what}:"))
        parts.append(picture(lambda: DistanceDisplay(drawn, source=clf.source_).plot(), what))
        rows = [[name, float(value)] for name, value in clf.distances_.items()]
        parts.append(details("Distances as numbers", table(rows, ["source", "distance"])))
    return section(*parts)


def _scores(scores: list[dict[str, Any]]) -> str:
    """What the starts were compared by, the best first."""
    raced = any("race_accuracy" in row for row in scores)
    said = "It compared the accuracy of a linear model of the features, each image left out in turn"
    rows = [
        [
            row["source"],
            row["family"],
            " x ".join(map(str, row["image_size"])),
            *map(_rounded, (row["accuracy"], *([row.get("race_accuracy")] if raced else []))),
        ]
        for row in sorted(
            scores, key=lambda row: (row.get("race_accuracy", -1.0), row["accuracy"]), reverse=True
        )
    ]
    return section(
        paragraph(
            f"{said}; of those nearly as good as the best, brief fits:" if raced else f"{said}:"
        ),
        table(rows, ["source", "family", "pixels", "accuracy", *(["brief fit"] if raced else [])]),
    )


def _architecture(clf: Any) -> str:
    parts = [paragraph(_sentence(clf.outcome_))]
    if hasattr(clf, "genotype_"):
        for cell in ("normal", "reduce"):
            parts.append(
                picture(
                    lambda cell=cell: CellDisplay.from_estimator(clf, cell=cell),  # type: ignore[misc]
                    f"Diagram of the cell {cell}; in words below",
                )
            )
    if len(clf.front_ or ()) > 1:
        what = "Accuracy against cost of the networks that were trained together"
        parts.append(picture(lambda: FrontDisplay.from_estimator(clf), what))
    parts.append(code(str(clf.architecture_)))
    parts.append(paragraph(_inherited(clf.inherited_)))
    return section(*parts)


def _training(clf: Any) -> str:
    measured = {key for row in clf.history_ for key, value in row.items() if value is not None}
    parts = []
    for metric, what in _CURVES.items():
        values = {row[metric] for row in clf.history_ if row.get(metric) is not None}
        if len(values) == 1:
            parts.append(paragraph(f"{what}; in every epoch {_rounded(*values)}."))
        elif {metric, f"train_{metric}", f"validation_{metric}"} & measured:
            parts.append(
                picture(
                    lambda metric=metric: SearchCurveDisplay.from_estimator(  # type: ignore[misc]
                        clf, metric=metric
                    ),
                    what,
                )
            )
            parts.append(paragraph(f"{what}."))
    stages = []
    for stage, grouped in groupby(clf.history_, key=lambda row: row["stage"]):
        rows = list(grouped)
        seconds = sum(row.get("seconds") or 0.0 for row in rows)
        stages.append(
            [stage, len(rows), f"{seconds:.1f}", _rounded(rows[-1].get("validation_accuracy"))]
        )
    head = ["stage", "epochs", "seconds", "validation accuracy at its end"]
    parts.append(table(stages, head))
    parts.append(paragraph(f"On the device {clf.device_}."))
    return section(*parts)


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    per_class = ([*map(_rounded, row.values())] for row in evaluation.per_class)
    confusions = ([*map(_rounded, row.values())] for row in evaluation.confusions(_MOST_ROWS))
    what = "Which classes are taken for which"
    return section(
        table(evaluation.described().items()),
        picture(lambda: ConfusionDisplay.from_evaluation(evaluation), what),
        details(
            "The most frequent confusions",
            table(confusions, ["class", "taken for", "images", "share of the class"]),
        ),
        details("Every class", table(per_class, ["class", "images", "precision", "recall", "F1"])),
    )


def _errors(evaluation: Evaluation | None, images: ImageSet | None) -> str:
    if evaluation is None:
        return ""
    rows = evaluation.errors(_MOST_IMAGES)
    if not rows:
        return paragraph("No image was misclassified.")
    said = paragraph("Misclassified images, the most confident mistakes first.")
    listed = table(
        ([r["image"], r["class"], r["predicted"], _rounded(r["confidence"])] for r in rows),
        ["image", "class", "taken for", "confidence"],
    )
    if images is None:
        return section(said, listed)
    short = short_names([*(r["class"] for r in rows), *(r["predicted"] for r in rows)], _LONGEST)
    captions = [
        f"{true} → {taken}, {r['confidence']:.2f}"
        for true, taken, r in zip(short[: len(rows)], short[len(rows) :], rows, strict=True)
    ]
    pixels = shown_tiles(images, [row["index"] for row in rows], _ERROR_SIDE)
    return section(said, tiles(pixels, captions), details("Their files and full names", listed))


def _settings(clf: Any) -> str:
    return table([name, repr(value)] for name, value in clf.get_params(deep=False).items())


def _provenance(clf: Any) -> str:
    if clf.source_ == "scratch":
        return paragraph("The weights are of this fit alone: it started from random ones.")
    try:
        source = (clf.zoo if isinstance(clf.zoo, Zoo) else Zoo.open(clf.zoo))[clf.source_]
        if clf.source_record_ and clf.source_record_["weights_sha256"] != source.weights_sha256:
            raise ZooError(f"The zoo has another source {clf.source_!r} now.")
        provenance = described_provenance(source.provenance, source.n_images, source.n_classes)
    except (KeyError, OSError, TypeError, ValueError, ZooError):
        return paragraph(
            f"The weights come from the source {clf.source_!r} of a zoo that is not at hand; its "
            "card says what it was trained on, and under which licences."
        )
    return section(
        paragraph(
            f"The weights come from the source {clf.source_!r}, of which its zoo says what follows."
            ' "Not stated" grants nothing.'
        ),
        table([name, _plain(value)] for name, value in provenance.items()),
    )


def _use(clf: Any) -> str:
    known = ", ".join(map(repr, clf.classes_[:3].tolist()))
    return section(
        paragraph("Where MODEL is the folder that save_pretrained or supernetnas fit wrote:"),
        code(
            "from supernetnas import SupernetTransferClassifier\n\n"
            'clf = SupernetTransferClassifier.from_pretrained("MODEL")\n'
            f'clf.predict(["a.jpg", "b.jpg"])  # such as {known}\n'
            'clf.predict_proba(["a.jpg"])'
        ),
        code("supernetnas predict MODEL a.jpg b.jpg\nsupernetnas evaluate MODEL FOLDER"),
        details("The family of the network", paragraph(_described(clf))),
    )


def _described(clf: Any) -> str:
    described = get_family(clf.family_).describe(clf.supernet_config_)
    return "; ".join(f"{name}: {text}" for name, text in described.items())


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _rounded(value: Any) -> Any:
    """A share with three digits, so that those of a column stand below each other."""
    return f"{value:.3f}" if isinstance(value, float) else value


def _inherited(share: float) -> str:
    """Say how many of the weights are the supernet's; all of them only where all are."""
    said = "all" if share == 1 else f"{min(100 * share, 99.9):.1f} %"
    return f"Of its weights, {said} came from the supernet."


def _plain(value: Any) -> Any:
    """A value of a provenance, on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(str(_plain(item)) for item in value)
    return value
