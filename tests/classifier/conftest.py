"""Images as files."""

import pytest
from PIL import Image
from quick_classifier import IMAGES, LABELS


@pytest.fixture
def files(tmp_path):
    """A folder of class folders with the images of `IMAGES`."""
    for position, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = tmp_path / "bilder" / f"Größe {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{position:02}_日本.png")
    return tmp_path / "bilder"
