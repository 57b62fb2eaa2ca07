"""Images of any aspect become those of a given size."""

import numpy as np
import pytest
import torch
from PIL import Image

from supernetnas.images.reading import as_image_set
from supernetnas.images.resizing import resized_picture, resized_tensor, shrinkage

WAYS = ["squeeze", "crop", "pad"]


def ramp(height, width):
    """Grey values from left to right, the same in each row."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


@pytest.mark.parametrize("resize", WAYS)
@pytest.mark.parametrize("size", [(20, 40), (40, 20), (33, 37), (16, 16), (1, 50), (50, 1)])
def test_pictures_and_arrays_go_the_same_way(size, resize):
    image = ramp(*size)
    picture = np.asarray(resized_picture(Image.fromarray(image), 16, 16, resize))
    tensor = resized_tensor(torch.from_numpy(image)[None, None], 16, 16, resize)
    assert tensor.dtype == torch.uint8 and tensor.shape == (1, 1, 16, 16)
    # A crop of half a pixel moves a ramp by half a step.
    allowed = 2 if resize != "crop" else 2 + 255 / min(size)
    assert np.abs(picture.astype(int) - tensor[0, 0].numpy()).max() <= allowed


def test_squeezing_keeps_everything_and_cropping_the_middle():
    image = ramp(20, 40)
    squeezed, cropped, padded = (
        np.asarray(resized_picture(Image.fromarray(image), 10, 10, way)).astype(int) for way in WAYS
    )
    assert squeezed[:, 0].max() < 20 and squeezed[:, -1].min() > 235
    assert (cropped[:, 0] > 60).all() and (cropped[:, -1] < 195).all()
    assert (padded[[0, 1, 8, 9]] == 0).all()
    assert np.abs(padded[2:8].mean(axis=0) - squeezed.mean(axis=0)).max() < 60
    assert padded[5, -1] > 235


def test_both_halves_of_a_pad_add_up():
    one = torch.ones(1, 1, 7, 20)
    padded = resized_tensor(one, 16, 16, "pad")
    assert padded.sum(dim=2).unique().tolist() == [6.0]  # round(7 / 20 * 16) rows of ones
    rows = torch.nonzero(padded[0, 0, :, 0]).flatten().tolist()
    assert rows == list(range(5, 11))


@pytest.mark.parametrize("resize", WAYS)
def test_sets_of_all_kinds_pass_it_on(resize, tmp_path):
    image = np.stack([ramp(20, 40)] * 3, axis=-1)
    path = tmp_path / "0.png"
    Image.fromarray(image).save(path)
    sets = [[str(path)], [Image.fromarray(image)], image[None], [image, image[:10]]]
    found = [as_image_set(X).tensor(16, 16, 3, resize)[0].int() for X in sets]
    for other in found[1:]:
        assert (found[0] - other).abs().max() <= 8
    batch = next(as_image_set(sets[0]).batches(16, 16, 1, resize=resize))
    assert torch.equal(batch[0].int(), found[0])


@pytest.mark.parametrize(
    ("size", "seen", "resize", "expected"),
    [
        ((64, 64), (32, 32), "squeeze", (2, 1)),
        ((64, 128), (32, 32), "squeeze", (4, 2)),
        ((128, 64), (32, 32), "squeeze", (4, 2)),
        ((64, 128), (32, 32), "crop", (2, 1)),
        ((64, 128), (32, 32), "pad", (4, 1)),
        ((8, 8), (32, 32), "squeeze", (0.25, 1)),
        ((30, 40), (15, 20), "squeeze", (2, 1)),
    ],
)
def test_how_much_images_shrink(size, seen, resize, expected):
    assert shrinkage(size, seen, resize) == expected
