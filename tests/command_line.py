"""What the command is given in its tests, and what it says when it refuses."""

import numpy as np
from PIL import Image

SMALL = ["--set", "init_channels=4", "--set", "n_cells=3", "--image-size", "8"]
SMALL += ["--batch-size", "8", "--steps", "2", "--min-epochs", "1", "--multi-epochs", "1"]
QUICK = ["--search-epochs", "1", "--retrain-epochs", "1", "--image-size", "8"]


def pictures(shade, n_classes=2, n=6, seed=0):
    """Noisy 12 x 12 images whose classes differ in brightness."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), n)
    pixels = random.integers(0, 60, (n_classes * n, 12, 12, 3)) + 90 * labels[:, None, None, None]
    pixels[..., shade] += 40
    return pixels.astype(np.uint8), labels


def write_folder(folder, shade):
    pixels, labels = pictures(shade)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / ("dark", "light")[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def write_npz(path, shade, **arrays):
    pixels, labels = pictures(shade)
    content = {"X": pixels, "y": labels, "classes": np.array(["dark", "light"]), **arrays}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


def refused(result, *parts, status=2):
    """Whether a command ended with this status and one message that says all of this."""
    found, _, error = result
    assert found == status, error
    assert "Traceback" not in error
    for part in parts:
        assert part in error
    return True
