"""Displays: what they draw, and that a cell is readable whatever its genotype."""

import math
import sys
from itertools import combinations

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from supernetnas.distance.otdd import otdd
from supernetnas.evaluation.ranking import order_preserving
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.paths import PathArchitecture
from supernetnas.plotting import (
    CellDisplay,
    ClassCouplingDisplay,
    DistanceDisplay,
    DistanceHeatmapDisplay,
    FrontDisplay,
    OrderPreservingDisplay,
    PathDisplay,
    SearchCurveDisplay,
    TrajectoryDisplay,
)
from supernetnas.plotting._colours import contrast

plt = pytest.importorskip("matplotlib.pyplot")

OPERATIONS = ("avg_pool_3x3", "skip_connect", "sep_conv_5x5", "dil_conv_3x3", "none", "noise")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def random_cell(seed):
    """Draw a cell of four nodes with two inputs each."""
    rng = np.random.default_rng(seed)
    return tuple(
        tuple(
            (str(rng.choice(OPERATIONS)), int(state))
            for state in rng.choice(node + 2, size=2, replace=False)
        )
        for node in range(4)
    )


@pytest.fixture
def genotype():
    return Genotype("darts", random_cell(0), random_cell(1))


@pytest.fixture
def history():
    rows = [{"stage": "head", "epoch": 0, "train_accuracy": 0.3, "validation_accuracy": None}]
    for stage in ("search", "retrain"):
        for epoch in range(5):
            row = {"stage": stage, "epoch": epoch, "train_loss": 1.0 / (1 + epoch)}
            row["train_accuracy"] = 0.5 + 0.1 * epoch
            row["validation_accuracy"] = math.nan if stage == "retrain" else 0.5 + 0.08 * epoch
            row["alpha_entropy"] = 1.0 - 0.1 * epoch
            rows.append(row)
    return rows


class Fitted(BaseEstimator):
    """Stand-in for a fitted classifier."""

    def __init__(self, strategy="ot"):
        self.strategy = strategy

    def fit(self, genotype, history, distances):
        self.genotype_ = genotype
        self.history_ = history
        self.distances_ = distances
        self.source_ = "b"
        return self


@pytest.fixture
def fitted(genotype, history):
    return Fitted().fit(genotype, history, {"a": 2.0, "b": 1.0, "c": 3.0})


class TestCellDisplay:
    def test_draws_every_edge_with_its_label(self, genotype):
        display = CellDisplay.from_genotype(genotype, cell="reduce")
        names = [name for node in genotype.reduce for name, _ in node]
        expected = [name.replace("_", " ").replace("3x3", "3×3") for name in names]
        expected = [name.replace("5x5", "5×5") for name in expected]
        assert [text.get_text() for text in display.text_] == expected
        assert len(display.lines_) == 8
        assert display.ax_.get_title() == "Reduction cell, space darts"

    @pytest.mark.parametrize("size", [(4, 2), (12, 5)])
    @pytest.mark.parametrize("seed", range(5))
    def test_labels_and_boxes_do_not_overlap(self, seed, size):
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        display = CellDisplay(random_cell(seed)).plot(ax=ax)
        figure.draw_without_rendering()
        labels = [text.get_bbox_patch().get_window_extent() for text in display.text_]
        boxes = [patch.get_window_extent() for patch in ax.patches]
        assert not any(one.overlaps(other) for one, other in combinations(labels + boxes, 2))

    @pytest.mark.parametrize("seed", range(5))
    def test_label_lies_on_its_own_edge_alone(self, seed):
        display = CellDisplay(random_cell(seed)).plot()
        display.figure_.draw_without_rendering()
        paths = [line.get_transform().transform_path(line.get_path()) for line in display.lines_]
        for number, text in enumerate(display.text_):
            label = text.get_bbox_patch().get_window_extent()
            hit = [i for i, path in enumerate(paths) if path.intersects_bbox(label, filled=False)]
            assert hit == [number]

    @pytest.mark.parametrize("seed", range(5))
    def test_no_two_edges_share_a_lane(self, seed):
        lines = CellDisplay(random_cell(seed)).plot().lines_
        downs = [round(line.get_xdata()[0], 6) for line in lines]
        rights = [round(line.get_ydata()[-1], 6) for line in lines]
        assert len(set(downs)) == len(set(rights)) == len(lines)

    def test_node_without_input_is_drawn(self):
        display = CellDisplay([[], [("skip_connect", 2)], [], []]).plot()
        assert len(display.text_) == 1

    def test_colour_tells_the_family(self):
        cell = [[("sep_conv_3x3", 0), ("sep_conv_5x5", 1)], [("max_pool_3x3", 0)]]
        first, second, third = CellDisplay(cell).plot().lines_
        assert first.get_color() == second.get_color() != third.get_color()

    def test_style_can_be_changed(self, genotype):
        style = {"line_kw": {"color": "red"}, "text_kw": {"fontsize": 5}}
        display = CellDisplay.from_genotype(genotype, **style)
        assert {line.get_color() for line in display.lines_} == {"red"}
        assert {text.get_fontsize() for text in display.text_} == {5}

    def test_draws_on_given_axes(self, fitted):
        _, axes = plt.subplots(1, 2)
        display = CellDisplay.from_estimator(fitted, ax=axes[1])
        assert display.ax_ is axes[1]
        assert display.figure_ is axes[1].figure

    def test_unknown_cell(self, genotype):
        with pytest.raises(ValueError, match=r"must be one of \('normal', 'reduce'\)"):
            CellDisplay.from_genotype(genotype, cell="stem")


class TestSearchCurveDisplay:
    def test_stages_follow_each_other(self, fitted):
        display = SearchCurveDisplay.from_estimator(fitted)
        assert [text.get_text() for text in display.text_] == ["head", "search", "retrain"]
        training = display.lines_[::2]
        assert [list(line.get_xdata()) for line in training] == [
            [1],
            [2, 3, 4, 5, 6],
            [7, 8, 9, 10, 11],
        ]
        assert training[1].get_ydata() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])

    def test_what_was_not_measured_is_left_out(self, history):
        display = SearchCurveDisplay.from_history(history, metric="loss")
        legend = display.ax_.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["training"]
        assert len(display.lines_) == 2
        assert [text.get_text() for text in display.text_] == ["search", "retrain"]

    def test_counts_have_whole_ticks(self):
        rows = [{"stage": "search", "skip_connections": 5}] * 3 + [{"stage": "retrain"}]
        display = SearchCurveDisplay.from_history(rows, metric="skip_connections")
        assert all(float(tick).is_integer() for tick in display.ax_.get_yticks())
        assert display.ax_.get_xlim() == (0.5, 3.5)  # without the stage that has none

    def test_legend_names_every_curve_once(self, history):
        legend = SearchCurveDisplay.from_history(history).ax_.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]

    def test_any_other_column(self, history):
        display = SearchCurveDisplay.from_history(history, metric="alpha_entropy")
        assert display.ax_.get_ylabel() == "alpha entropy"

    def test_what_is_measured_every_other_epoch_is_joined(self):
        rows = [{"stage": "search", "eigenvalue": v} for v in (0.1, None, 0.3, None, 0.2)]
        (line,) = SearchCurveDisplay.from_history(rows, metric="eigenvalue").lines_
        assert list(line.get_xdata()) == [1, 3, 5]
        assert list(line.get_ydata()) == [0.1, 0.3, 0.2]
        assert line.get_marker() == "o"

    def test_text_is_not_drawn(self, history):
        rows = [{**row, "note": "nan", "train_loss": "low"} for row in history]
        display = SearchCurveDisplay.from_history(rows)
        assert len(display.lines_) == len(SearchCurveDisplay.from_history(history).lines_)
        with pytest.raises(ValueError, match="no 'note' to draw"):
            SearchCurveDisplay.from_history(rows, metric="note")

    def test_data_frame_with_missing_values(self, history):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(history).convert_dtypes()
        assert frame.isna().any(axis=None)
        display, expected = map(SearchCurveDisplay.from_history, (frame, history))
        for line, other in zip(display.lines_, expected.lines_, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), other.get_ydata())

    def test_data_frame(self, history):
        frame = pytest.importorskip("pandas").DataFrame(history)
        display = SearchCurveDisplay.from_history(frame)
        assert len(display.lines_) == 6

    def test_unknown_metric_lists_the_known(self, history):
        with pytest.raises(ValueError, match=r"no 'f1' to draw.*'train_loss'"):
            SearchCurveDisplay.from_history(history, metric="f1")


class TestDistanceDisplay:
    def test_nearest_comes_first(self, fitted):
        display = DistanceDisplay.from_estimator(fitted)
        ticks = display.ax_.get_yticklabels()
        assert [label.get_text() for label in ticks] == ["b", "a", "c"]
        assert [label.get_fontweight() for label in ticks] == ["bold", "normal", "normal"]
        assert [bar.get_width() for bar in display.bars_] == [1.0, 2.0, 3.0]
        bottom, top = display.ax_.get_ylim()
        assert bottom > top

    def test_strategy_without_distances(self, genotype, history):
        estimator = Fitted(strategy="scratch").fit(genotype, history, None)
        with pytest.raises(ValueError, match="strategy 'scratch' has measured no distances"):
            DistanceDisplay.from_estimator(estimator)


class TestDistanceHeatmapDisplay:
    def test_writes_finite_values(self):
        display = DistanceHeatmapDisplay.from_distances(
            [[0.0, 2.0, math.nan]], ["target"], column_names=["a", "b", "c"]
        )
        assert display.text_[0, 1].get_text() == "2.00"
        assert display.text_[0, 2] is None
        assert display.colorbar_ is not None
        assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["a", "b", "c"]

    def test_letters_contrast_with_their_cell(self):
        distances = [[0.0, 2.0, 9.0], [2.0, 0.0, 9.0], [9.0, 9.0, 0.0]]
        display = DistanceHeatmapDisplay.from_distances(distances, ["a", "b", "c"])
        for row, column in ((0, 1), (0, 2)):
            cell = display.im_.cmap(display.im_.norm(distances[row][column]))
            assert contrast(display.text_[row, column].get_color(), cell[:3]) >= 4.5
        assert display.text_[0, 1].get_color() != display.text_[0, 2].get_color()
        assert display.text_[0, 0] is None  # a dataset to itself
        assert display.im_.norm.vmin == 2.0

    def test_values_and_colorbar_can_be_left_out(self):
        display = DistanceHeatmapDisplay([[0.0]], ["a"]).plot(include_values=False, colorbar=False)
        assert display.text_ is None
        assert display.colorbar_ is None

    def test_names_must_fit(self):
        with pytest.raises(ValueError, match=r"shape \(2, 2\); 3 row names"):
            DistanceHeatmapDisplay(np.zeros((2, 2)), ["a", "b", "c"])


class TestClassCouplingDisplay:
    def test_what_belongs_together_lies_along_the_diagonal(self):
        coupling = np.array([[0, 0, 0.2, 0], [0.1, 0.3, 0, 0], [0, 0, 0.04, 0.36]])
        display = ClassCouplingDisplay(coupling, ["a", "b", "c"], [5, 6, 7, 8]).plot()
        labels = [label.get_text() for label in display.ax_.get_xticklabels()]
        assert labels == ["7", "6", "5", "8"]
        shares = np.asarray(display.im_.get_array())
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        np.testing.assert_allclose(shares[1], [0, 0.75, 0.25, 0])
        assert [text.get_text() for text in display.text_] == ["100", "75", "25", "10", "90"]
        white = [text.get_color() == (1, 1, 1) for text in display.text_]
        assert white == [True, True, False, False, True]

    def test_of_a_result(self):
        rng = np.random.default_rng(0)
        labels = np.repeat(["x", "y"], 5)
        features = rng.normal(size=(10, 4)) + 3 * (labels == "y")[:, None]
        result = otdd(features, labels, features[:, ::-1], labels)
        display = ClassCouplingDisplay.from_result(result, names=("this", "that"))
        assert display.ax_.get_ylabel() == "classes of this"
        assert display.ax_.get_xlabel() == "classes of that"
        np.testing.assert_allclose(display.class_coupling, result.class_coupling)

    def test_what_does_not_fit(self):
        with pytest.raises(ValueError, match=r"shape \(2, 2\); 2 and 3 names"):
            ClassCouplingDisplay(np.ones((2, 2)), "ab", "abc")
        with pytest.raises(ValueError, match="without any mass"):
            ClassCouplingDisplay([[1, 0], [0, 0]], "ab", "ab")


@pytest.mark.parametrize("display", [CellDisplay, SearchCurveDisplay, DistanceDisplay])
def test_unfitted_estimator(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(Fitted())


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "supernetnas\[plot\]"'):
        DistanceDisplay({"a": 1.0}).plot()


class TestFrontDisplay:
    FRONT = (
        {"architecture": "large", "n_macs": 70_000_000, "validation_accuracy": 0.91},
        {"architecture": "small", "n_macs": 7_000_000, "validation_accuracy": 0.79},
        {"architecture": "middle", "n_macs": 35_000_000, "validation_accuracy": 0.9},
    )

    def test_draws_networks_by_their_cost(self):
        display = FrontDisplay(self.FRONT, "middle").plot()
        np.testing.assert_allclose(
            display.points_.get_offsets(), [[7, 0.79], [35, 0.9], [70, 0.91]]
        )
        assert [text.get_text() for text in display.text_] == ["7 M", "35 M, chosen", "70 M"]
        assert display.ax_.get_ylabel() == "accuracy on images held out"

    def test_draws_probes_where_nothing_was_held_out(self):
        front = [
            {"architecture": place, "n_macs": 10**place, "probe_accuracy": place / 10}
            for place in (6, 7)
        ]
        display = FrontDisplay(front).plot()
        assert "linear probe" in display.ax_.get_ylabel()

    def test_one_network_is_no_front(self):
        with pytest.raises(ValueError, match="search='front'"):
            FrontDisplay([])

    def test_what_was_not_measured_is_not_drawn(self):
        with pytest.raises(ValueError, match="Nothing was measured"):
            FrontDisplay([{"architecture": "a", "n_macs": 1}]).plot()


def test_a_network_without_cells_has_none_to_draw():
    clf = Fitted().fit(None, [], {})
    del clf.genotype_
    clf.family_, clf.architecture_ = "elastic", "64 px: k3e1"
    with pytest.raises(ValueError, match=r"no cells to draw.*64 px: k3e1"):
        CellDisplay.from_estimator(clf)


class TestOrderDisplays:
    def test_good_architectures_stand_out(self):
        errors = [[0.5, 0.6, 0.7], [0.3, 0.6, 0.8]]
        display = TrajectoryDisplay([0, 1], errors, [True, False, False]).plot()
        np.testing.assert_allclose(
            [line.get_ydata() for line in display.lines_], np.transpose(errors)
        )
        good, *others = (line.get_color() for line in display.lines_)
        assert len(set(others)) == 1 and good not in others
        words = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert words == ["good", "others"]

    def test_epochs_are_whole(self):
        measures = [order_preserving([3, 2, 1], [3, 1, 2], n_good=2)] * 3
        for display in (
            TrajectoryDisplay([0, 1, 2], [[0.5], [0.6], [0.7]], [True]).plot(),
            OrderPreservingDisplay([0, 1, 2], measures).plot(),
        ):
            assert {tick % 1 for tick in display.ax_.get_xticks()} == {0}

    def test_errors_must_fit(self):
        with pytest.raises(ValueError, match=r"\(2, 1\)"):
            TrajectoryDisplay([0, 1], [[0.5, 0.6]], [True])

    def test_both_measures_are_drawn(self):
        measures = [
            order_preserving([3, 2, 1, 0], [3, 2, 1, 0], n_good=2),
            order_preserving([2, 3, 1, 0], [3, 2, 1, 0], n_good=2),
        ]
        display = OrderPreservingDisplay([0, 5], measures).plot()
        hits, tau = (list(line.get_ydata()) for line in display.lines_)
        assert hits == [1, 1]
        assert tau == [1, -1]
        lowest, highest = display.ax_.get_ylim()
        assert lowest <= -1
        height = display.ax_.get_window_extent().height * 72 / display.figure_.dpi
        assert (highest - 1) / (highest - lowest) * height > display.lines_[0].get_markersize() / 2
        with pytest.raises(ValueError, match="one measure for each"):
            OrderPreservingDisplay([0], measures)

    def test_on_an_axis_that_is_shared(self):
        """The first display sets limits that the lines of the second do not move."""
        _, axes = plt.subplots(1, 2, sharey=True)
        for ax, order in zip(axes, ([3, 2, 1, 0], [2, 3, 1, 0]), strict=True):
            measure = order_preserving(order, [3, 2, 1, 0], n_good=2)
            display = OrderPreservingDisplay([0], [measure]).plot(ax=ax)
        assert display.lines_[1].get_ydata() == [-1] and axes[0].get_ylim()[0] < -1


class TestPathDisplay:
    STAGES = (("k3", "k7"), ("xception", "k5", "k5"))

    def test_draws_every_block(self):
        display = PathDisplay(self.STAGES, title="of $3 M$").plot()
        names = [name for stage in self.STAGES for name in stage]
        assert [text.get_text() for text in display.text_] == names
        boxes = display.ax_.patches
        assert len(boxes) == 5
        places = [(round(b.get_x() + b.get_width() / 2), round(b.get_center()[1])) for b in boxes]
        assert places == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)]
        colours = [box.get_facecolor() for box in boxes]
        assert colours[3] == colours[4] and len(set(colours)) == 4
        assert [tick.get_text() for tick in display.ax_.get_yticklabels()] == ["stage 1", "stage 2"]
        display.figure_.draw_without_rendering()

    def test_draws_on_given_axes_in_a_given_style(self):
        _, axes = plt.subplots(1, 2)
        style = {"box_kw": {"color": "red"}, "text_kw": {"fontsize": 5}}
        display = PathDisplay(self.STAGES).plot(ax=axes[1], **style)
        assert display.ax_ is axes[1] and display.figure_ is axes[1].figure
        assert {box.get_facecolor() for box in display.ax_.patches} == {(1.0, 0.0, 0.0, 1.0)}
        assert {text.get_fontsize() for text in display.text_} == {5}

    def test_of_a_fit(self, fitted):
        fitted.architecture_ = PathArchitecture(self.STAGES)
        fitted.n_macs_ = 12_340_000
        display = PathDisplay.from_estimator(fitted)
        assert display.stages == [list(stage) for stage in self.STAGES]
        assert display.ax_.get_title() == "12.3 M multiply-accumulates"

    def test_cells_are_no_path(self, fitted):
        fitted.family_, fitted.architecture_ = "cells", fitted.genotype_
        with pytest.raises(ValueError, match="family 'cells' does not consist of blocks"):
            PathDisplay.from_estimator(fitted)
