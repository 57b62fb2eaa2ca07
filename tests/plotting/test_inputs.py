"""What a network sees of images, drawn."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.exceptions import NotFittedError
from tiny import patterns, tiny_classifier

from supernetnas import InputsDisplay, SupernetTransferClassifier
from supernetnas.images.reading import as_image_set

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Paths of images twice as wide as high: red in the middle, blue at the sides."""
    folder, paths = tmp_path_factory.mktemp("wide"), []
    random = np.random.default_rng(0)
    for position in range(8):
        pixels = np.zeros((20, 40, 3), np.uint8)
        pixels[:, :, 2] = 255
        pixels[:, 10:30] = (200 + random.integers(50), 0, 0)
        paths.append(str(folder / f"{position}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.filterwarnings("ignore:Images of")
@pytest.mark.parametrize("resize", ["squeeze", "crop", "pad"])
def test_it_draws_what_the_network_sees(wide, resize):
    names = ["a", "b"] * 4
    clf = tiny_classifier(resize=resize, retraining__epochs=1).fit(wide, names)
    display = clf.show_inputs(wide, names, n_images=3)
    assert isinstance(display, InputsDisplay) and len(display.ax_) == 3
    assert [ax.get_title() for ax in display.ax_] == [names[0], names[3], names[7]]
    for drawn, path in zip(display.im_, [wide[0], wide[3], wide[7]], strict=True):
        image = np.asarray(drawn.get_array())
        assert image.shape == (8, 8, 3)
        # Standardised again, it is what goes into the network.
        (batch,) = clf.preprocessing_.batches(as_image_set([path]), "cpu")
        mean, std = clf.preprocessing_.mean, clf.preprocessing_.std
        std = np.where(np.array(std) > 0, std, 1)
        assert_allclose((image - mean) / std, batch[0].permute(1, 2, 0), atol=1e-5)
        blue, black = image[:, 0, 2].max() > 0.5, image[0].max() == 0
        assert (blue, black) == {
            "squeeze": (True, False),
            "crop": (False, False),
            "pad": (True, True),
        }[resize]


def test_numbers_on_any_scale_are_drawn_from_dark_to_bright():
    images, labels = patterns()
    clf = tiny_classifier(retraining__epochs=1).fit(images / 4.0 - 20, labels)
    display = clf.show_inputs(images / 4.0 - 20)
    drawn = np.stack([np.asarray(im.get_array()) for im in display.im_])
    assert drawn.shape == (12, 8, 8)
    assert 0 <= drawn.min() < 0.2 and 0.8 < drawn.max() <= 1


def test_long_and_strange_names_fit():
    display = InputsDisplay(np.zeros((7, 8, 16)), ["$x$", "a" * 80, *"bcdef"]).plot()
    display.figure_.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in display.ax_]
    assert all(box.x0 >= 0 and box.x1 <= display.figure_.bbox.x1 for box in boxes)
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))
    assert display.ax_[0].get_title() == "$x$"
    assert not display.figure_.axes[-1].axison


def test_given_axes():
    _, axes = plt.subplots(1, 2)
    display = InputsDisplay(np.zeros((2, 8, 8))).plot(ax=axes)
    assert list(display.ax_) == list(axes)
    with pytest.raises(ValueError, match="2 images to draw, and axes for 1"):
        InputsDisplay(np.zeros((2, 8, 8))).plot(ax=axes[:1])


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8, 4), (0, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="must be of shape"):
        InputsDisplay(np.zeros(shape))


def test_long_names_that_begin_alike_stay_different():
    names = [f"plants of the meadows, {name}" for name in ("rose", "tulip", "tulip")]
    display = InputsDisplay(np.zeros((3, 8, 8)), names).plot()
    titles = [ax.get_title() for ax in display.ax_]
    assert titles[0] != titles[1] == titles[2]
    assert max(map(len, titles)) <= 18
    assert display.names_ == dict(zip(titles, names, strict=True))


def test_without_labels_the_titles_of_given_axes_stay():
    _, axes = plt.subplots(1, 2)
    axes[0].set_title("before")
    display = InputsDisplay(np.zeros((2, 8, 8))).plot(ax=axes)
    assert [ax.get_title() for ax in display.ax_] == ["before", ""] and display.names_ == {}


def test_what_else_is_refused(fitted):
    with pytest.raises(ValueError, match="2 images, and labels of 1"):
        InputsDisplay(np.zeros((2, 8, 8)), ["a"])
    with pytest.raises(ValueError, match="n_images must be at least 1"):
        fitted.show_inputs(patterns()[0], n_images=0)
    with pytest.raises(ValueError, match="y names 1 images; X has 40"):
        fitted.show_inputs(patterns()[0], ["a"])
    with pytest.raises(NotFittedError):
        SupernetTransferClassifier().show_inputs(patterns()[0])
