"""Views of images, and what a teacher sees in them, kept on the disk.

Teacher and student see the same view of an image. A few views of each image are drawn once, so
that the teacher has to look at each a single time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...images.augmentation import StandardisedImages
from ...storage.files import FileError, write_atomic
from ...storage.formats import dump_json, read_json

__all__ = ["TeacherFeatures", "Views"]

_SAMPLED = 16  # images by whose pixels kept features are recognised


class Views:
    """A few views of each image: the whole, and mirrored or plain crops.

    Parameters
    ----------
    images : StandardisedImages
    side : int
        Of the square views, in pixels.
    n_views : int
        The first is the image as it is.
    area : float
        Least share of the image's area in a crop; the greatest is 1.
    seed : int
    """

    def __init__(
        self,
        images: StandardisedImages,
        *,
        side: int,
        n_views: int = 4,
        area: float = 0.5,
        seed: int = 0,
    ) -> None:
        if n_views < 1 or side < 1 or not 0 < area <= 1:
            raise ValueError(
                "Views need n_views and side of at least 1 and an area in (0, 1]; got "
                f"n_views={n_views}, side={side}, area={area}."
            )
        self.images, self.side, self.n_views = images, side, n_views
        self.area, self.seed = area, seed
        generator = torch.Generator().manual_seed(seed)
        shape = (n_views, len(images))
        extent = (area + (1 - area) * torch.rand(shape, generator=generator)).sqrt()
        mirrored = 1 - 2 * torch.randint(2, shape, generator=generator)
        centre = (2 * torch.rand((2, *shape), generator=generator) - 1) * (1 - extent)
        zero = torch.zeros(shape)
        rows = (extent * mirrored, zero, centre[0], zero, extent, centre[1])
        self._boxes = torch.stack(rows, dim=-1).view(*shape, 2, 3)
        self._boxes[0] = torch.eye(2, 3)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor, view: int) -> Tensor:
        """Views of shape (b, channels, side, side) of the images at an index of shape (b,)."""
        images = self.images.clean(index)
        boxes = self._boxes[view][index.cpu()].to(images.device)
        shape = [*images.shape[:2], self.side, self.side]
        grid = F.affine_grid(boxes, shape, align_corners=False)
        views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return views.contiguous(memory_format=torch.channels_last)

    def description(self) -> dict[str, object]:
        """What the views follow from, as plain values."""
        sample = torch.linspace(0, len(self) - 1, min(_SAMPLED, len(self))).long()
        pixels = self.images.clean(sample).contiguous().cpu().numpy()
        return {
            "n_images": len(self),
            "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "side": self.side,
            "n_views": self.n_views,
            "area": self.area,
            "seed": self.seed,
        }


class TeacherFeatures:
    """Views with a teacher's features of them, computed when they are first asked for.

    They are kept in float16 in a folder and found there again. Processes may share the folder.

    Parameters
    ----------
    views : Views
    teacher : callable
        Takes views, returns features of shape (b, dimension).
    identity : str
        Of the teacher and its weights.
    dimension : int
    folder : path
        Made if need be.

    Raises
    ------
    FileError
        If the folder holds features of other views or of another teacher.
    """

    def __init__(
        self,
        views: Views,
        teacher: Callable[[Tensor], Tensor],
        *,
        identity: str,
        dimension: int,
        folder: str | os.PathLike,
    ) -> None:
        self.views, self.teacher = views, teacher
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"teacher": identity, "dimension": dimension, **views.description()}
        path = folder / "teacher.json"
        if not path.exists():
            write_atomic(path, dump_json(record))
        elif (found := read_json(path, limit=2**16)) != record:
            raise FileError(
                f"{folder} holds a teacher's features of other images, views or weights: "
                f"{found}, not {record}. Choose another folder, or delete this one."
            )
        shape = (len(views), views.n_views)
        self._features = _mapped(folder / "features.f16", np.float16, (*shape, dimension))
        self._known = _mapped(folder / "known.u8", np.uint8, shape)

    def __len__(self) -> int:
        return len(self.views)

    def batch(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Views of the images at an index, another in each epoch, and the teacher's features."""
        view = epoch % self.views.n_views
        images = self.views.batch(index, view)
        rows = index.cpu().numpy()
        missing = self._known[rows, view] == 0
        if missing.any():
            with torch.inference_mode():
                features = self.teacher(images[torch.from_numpy(missing).to(images.device)])
            self._features[rows[missing], view] = features.cpu().numpy()
            self._known[rows[missing], view] = 1
        found = torch.from_numpy(self._features[rows, view])
        return images, found.to(images.device, torch.float32)


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A file of zeros, or what it has become, as an array."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        if file.tell() < n_bytes:
            file.truncate(n_bytes)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
