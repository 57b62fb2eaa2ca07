"""Pictures of many classes with long names, in any style, on large and small axes."""

from itertools import pairwise

import numpy as np
import pytest

from supernetnas import Evaluation
from supernetnas.plotting import (
    CellDisplay,
    ClassCouplingDisplay,
    ConfusionDisplay,
    DistanceDisplay,
    DistanceHeatmapDisplay,
    ErrorsDisplay,
    FrontDisplay,
    PathDisplay,
    SearchCurveDisplay,
)
from supernetnas.plotting._colours import Palette, contrast, legible_on
from supernetnas.plotting._common import short_names

plt = pytest.importorskip("matplotlib.pyplot")

LONG = [f"class {i:02d} whose name is of fifty letters or about {i:02d}" for i in range(60)]
CELL = [[("skip_connect", 0), ("sep_conv_3x3", 1)], [("max_pool_3x3", 0), ("dil_conv_5x5", 2)]]
HISTORY = [
    {"stage": stage, "epoch": epoch, "train_accuracy": 0.5, "validation_accuracy": 0.1 * epoch}
    for stage in ("search", "retrain")
    for epoch in range(1, 5)
]
FRONT = [{"architecture": n, "n_macs": 10**n, "validation_accuracy": n / 10} for n in (6, 7, 8)]


def counts(n):
    return np.eye(n, dtype=int) * 20 + np.random.default_rng(0).poisson(0.2, (n, n))


def evaluation(n=20, n_classes=4):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(n_classes), n)
    return Evaluation.of(LONG[:n_classes], random.integers(0, n_classes, n), probabilities)


DRAWN = {
    "confusion": lambda ax: ConfusionDisplay(counts(60), LONG).plot(ax=ax),
    "coupling": lambda ax: ClassCouplingDisplay(
        counts(60)[:20], LONG[:20], LONG, names=("a" * 70, "b")
    ).plot(ax=ax),
    "heatmap": lambda ax: DistanceHeatmapDisplay(counts(25) + 1.0, LONG[:25]).plot(ax=ax),
    "distances": lambda ax: DistanceDisplay(
        {name: 5.0 + place for place, name in enumerate(LONG)}, source=LONG[3]
    ).plot(ax=ax),
    "close": lambda ax: DistanceDisplay({"a": 30.0, "b": 30.5}, source="a").plot(ax=ax),
    "cell": lambda ax: CellDisplay(CELL, title="Normal cell, space darts").plot(ax=ax),
    "curves": lambda ax: SearchCurveDisplay(HISTORY).plot(ax=ax),
    "front": lambda ax: FrontDisplay(FRONT, 7).plot(ax=ax),
    "errors": lambda ax: ErrorsDisplay.from_evaluation(
        evaluation(), np.zeros((20, 8, 8), np.uint8), ax=ax
    ),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(figure):
    """Everything that is written in axes or names them."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        names = []
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            names += [axis.label, *(tick.label1 for tick in ticks)]
        for text in [ax.title, *ax.texts, *names]:
            if text.get_visible() and text.get_text().strip():
                yield text


def beyond(figure):
    """What leaves the picture, more than a rounding."""
    width, height = figure.bbox.size
    return [
        (text.get_text(), box)
        for text in texts(figure)
        for box in [text.get_window_extent()]
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_leaves_the_picture(name):
    figure = DRAWN[name](None).figure_
    assert beyond(figure) == []
    assert max(figure.get_size_inches()) <= 14


@pytest.mark.parametrize("name", ["confusion", "distances", "cell", "curves", "errors", "heatmap"])
def test_small_axes_stay_legible(name):
    figure, ax = plt.subplots(figsize=(2.4, 2.2), layout="constrained")
    DRAWN[name](ax)
    assert beyond(figure) == []
    sizes = [text.get_fontsize() for text in texts(figure)]
    assert min(sizes, default=5) >= (3 if name == "cell" else 5)  # none below small images
    box = ax.get_window_extent()
    assert min(box.width, box.height) > 0.25 * min(figure.bbox.size)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("style", ["default", "dark_background", "Solarize_Light2"])
def test_letters_contrast_with_what_is_behind_them(name, style):
    with plt.style.context(style):
        display = DRAWN[name](None)
        figure = display.figure_
        paper = Palette.of(display.ax_).paper
        for text in texts(figure):
            behind = paper
            if (patch := text.get_bbox_patch()) is not None:
                behind = patch.get_facecolor()[:3]
            elif display.ax_.images and text in display.ax_.texts and name != "errors":
                x, y = text.get_position()
                value = np.asarray(display.im_.get_array())[round(y), round(x)]
                behind = display.im_.cmap(display.im_.norm(value))[:3]
            assert contrast(text.get_color(), behind) >= 3, text.get_text()


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_cells_of_a_cell_have_the_colour_of_the_paper(style):
    with plt.style.context(style):
        display = CellDisplay(CELL).plot()
        faces = [patch.get_facecolor()[:3] for patch in display.ax_.patches]
        assert all(contrast(face, display._palette.ink) > 4 for face in faces)


@pytest.mark.parametrize("paper", ["white", "black", "#1e1e1e", "0.6"])
def test_lines_and_boxes_stand_out_from_any_paper(paper):
    with plt.rc_context({"figure.facecolor": paper, "axes.facecolor": paper}):
        cell, path = CellDisplay(CELL).plot(), PathDisplay([["a", "b", "c"], ["d", "e"]]).plot()
        drawn = [line.get_color() for line in cell.lines_]
        drawn += [patch.get_facecolor()[:3] for patch in path.ax_.patches]
        assert len(drawn) == 4 + 5
        assert all(contrast(colour, paper) >= 3 for colour in drawn)
        boxes = [text.get_bbox_patch().get_facecolor()[:3] for text in cell.text_]
        letters = [text.get_color() for text in (*cell.text_, *path.text_)]
        boxes += [patch.get_facecolor()[:3] for patch in path.ax_.patches]
        assert all(contrast(*pair) >= 4.5 for pair in zip(letters, boxes, strict=True))


def test_values_are_written_only_where_there_is_room():
    _, ax = plt.subplots(figsize=(3, 3))
    many = ConfusionDisplay(counts(30), range(30)).plot(ax=ax)
    assert not any(text is not None for text in many.text_.ravel())
    few = ConfusionDisplay(counts(3), "abc").plot()
    assert few.text_[0, 0].get_text() == str(few.confusion[0, 0])


def test_every_other_name_is_left_out_where_rows_are_thin():
    figure, ax = plt.subplots(figsize=(2.4, 2.2), layout="constrained")
    display = ConfusionDisplay(counts(60), LONG).plot(ax=ax)
    shown = [label for label in ax.get_yticklabels() if label.get_text()]
    assert 5 <= len(shown) < 60
    figure.draw_without_rendering()
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 + 2 for one, other in pairwise(boxes))
    assert all(display.names_[label.get_text()] in LONG for label in shown)


def test_short_names_stay_different_and_keep_their_ends():
    short = short_names(LONG, 20)
    assert len(set(short)) == 60
    assert max(map(len, short)) == 20
    assert all(name.endswith(full[-2:]) for name, full in zip(short, LONG, strict=True))
    alike = [f"a{'x' * 30}{i}{'y' * 30}b" for i in range(12)]
    assert len(set(short_names(alike, 10))) == 12
    assert max(map(len, short_names(alike, 10))) <= 10
    assert short_names(["cat", "cat", "dog"], 10) == ["cat", "cat", "dog"]
    assert short_names(["tab\there"], 20) == ["tab\\there"]


def test_short_names_keep_what_tells_them_apart():
    flowers = ["tulip", "rose", "daisy"]
    long = [f"photographs of {name} in gardens and meadows" for name in flowers]
    assert short_names(long, 20) == [f"…{name}…" for name in flowers]
    assert short_names([*long, "weeds"], 20) == [*(f"…{name}…" for name in flowers), "weeds"]
    nested = [f"{'a' * 30} {end}" for end in ("b", "b c", "b d b")]
    assert len(set(short_names(nested, 8))) == 3


def test_captions_of_mistakes_tell_long_names_apart():
    names = [f"photographs of {name} in gardens and meadows" for name in ("tulip", "rose")]
    captions = [(names[0], f"{names[1]}, 0.93"), (names[1], f"{names[0]}, 0.52")]
    display = ErrorsDisplay(np.zeros((2, 8, 8, 3), "uint8"), captions).plot()
    texts = [text.get_text() for text in display.text_]
    assert texts == ["…tulip…\n→ …rose…, 0.93", "…rose…\n→ …tulip…, 0.52"]
    assert display.names_ == {"…tulip…": names[0], "…rose…": names[1]}


def test_close_distances_are_points_and_far_ones_bars():
    close = DRAWN["close"](None)
    assert close.bars_ is None
    np.testing.assert_allclose(close.points_.get_offsets()[:, 0], [30, 30.5])
    assert 25 < close.ax_.get_xlim()[0] < 30
    assert "does not begin at 0" in close.ax_.get_xlabel().replace("\n", " ")
    far = DRAWN["distances"](None)
    assert far.points_ is None
    assert far.ax_.get_xlim()[0] == 0


@pytest.mark.parametrize("name", ["close", "distances"])
def test_the_chosen_source_stands_out(name):
    display = DRAWN[name](None)
    accent = Palette.of(display.ax_).accent
    place = sorted(display.distances, key=display.distances.get).index(display.source)
    drawn = display.bars_ or display.points_
    colours = (
        [bar.get_facecolor() for bar in display.bars_] if display.bars_ else drawn.get_facecolors()
    )
    chosen = [i for i, colour in enumerate(colours) if np.allclose(colour[:3], accent)]
    assert chosen == [place]
    assert display.ax_.get_yticklabels()[place].get_fontweight() == "bold"


def test_black_or_white_is_legible_on_everything():
    grid = np.linspace(0, 1, 6)
    for colour in ((r, g, b) for r in grid for g in grid for b in grid):
        assert contrast(legible_on(colour), colour) >= 4
    assert contrast("black", "white") == pytest.approx(21)


def test_confusion_counts_images_and_colours_shares():
    display = ConfusionDisplay([[8, 2, 0], [0, 0, 0], [1, 0, 3]], ["a", "b", "c"]).plot()
    shares = np.ma.filled(display.im_.get_array(), np.nan)
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [np.nan] * 3, [0.25, 0, 0.75]])
    assert [[t and t.get_text() for t in row] for row in display.text_] == [
        ["8", "2", None],
        [None] * 3,
        ["1", None, "3"],
    ]
    with pytest.raises(ValueError, match=r"shape \(2, 2\); 3 names"):
        ConfusionDisplay(np.eye(2), "abc")


class TestErrorsDisplay:
    X = np.arange(20 * 64).reshape(20, 8, 8) % 256

    def test_the_most_confident_mistakes_come_first(self):
        found = evaluation()
        display = ErrorsDisplay.from_evaluation(found, self.X.astype(np.uint8), n=3)
        first = found.errors()[0]
        assert len(display.images_) == len(display.captions) == 3
        assert display.captions[0] == (
            first["class"],
            f"{first['predicted']}, {first['confidence']:.2f}",
        )
        np.testing.assert_allclose(
            np.asarray(display.images[0]).mean(), self.X[first["index"]].mean(), atol=3
        )

    def test_examples_of_the_most_frequent_mistakes(self):
        found = evaluation(60)
        display = ErrorsDisplay.from_evaluation(
            found, np.zeros((60, 8, 8), np.uint8), by="confusion", n=4
        )
        expected = [(r["class"], f"{r['predicted']}, {r['images']}×") for r in found.confusions(4)]
        assert display.captions == expected

    def test_no_mistakes(self):
        right = Evaluation.of("ab", np.array([0, 1]), np.eye(2))
        display = ErrorsDisplay.from_evaluation(right, np.zeros((2, 8, 8), np.uint8))
        assert display.ax_.texts[0].get_text() == "no image was misclassified"

    def test_other_images_are_refused(self):
        with pytest.raises(ValueError, match="X has 3 images, but the evaluation names number 19"):
            ErrorsDisplay.from_evaluation(evaluation(), np.zeros((3, 8, 8), np.uint8))
        with pytest.raises(ValueError, match="by must be 'confidence' or 'confusion'"):
            ErrorsDisplay.from_evaluation(evaluation(), self.X, by="size")
        with pytest.raises(ValueError, match="2 images and 1 captions"):
            ErrorsDisplay(np.zeros((2, 8, 8, 3)), [("a", "b")])
