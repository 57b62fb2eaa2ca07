"""Does a small network of cells become better if a fine-tuned elastic network teaches it?

    python benchmarks/cells_teacher.py ZOO flowers5.npz aid_aerial.npz --most 400

Arguments and splits are those of ``peers.py``. The teacher is the fit of an elastic network on the
same images; its seconds are in those of "taught". Both see the same views, each at its own size; of
the loss, labels are a fifth and the divergence from the teacher's probabilities is the rest.

- "teacher": the fit of the elastic network.
- "plain", "plain, long": the network of the source's alphas, retrained for 30 and 60 epochs.
- "taught", "taught, long": the same, taught for as many.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from common import add_output, write_results
from peers import Row, Split, add_arguments, known, measure, pixels, table
from torch import Tensor, nn

from supernetnas import Retraining, SupernetTransferClassifier
from supernetnas.families.base import get_family
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.preprocessing import channel_statistics
from supernetnas.search.distillation import divergence
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.batches import LabelledImages
from supernetnas.training.execution import fast_inference

_OF_LABELS = 0.2
_SIDE = 32


class Pupil(nn.Module):
    """A network of cells, with what teaches it; both are given images of values from 0 to 1."""

    def __init__(self, network: nn.Module, teacher: nn.Module | None, mean: Tensor, std: Tensor):
        super().__init__()
        self.network, self.share = network, 1.0 if teacher is None else _OF_LABELS
        self.__dict__["teacher"] = teacher  # neither trained nor saved
        self.mean, self.std = mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        small = F.interpolate(images, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        small = (small - self.mean) / self.std
        return self.network(small.contiguous(memory_format=torch.channels_last))

    def training_loss(self, images, labels, criterion):
        scores = self(images).float()
        loss = criterion(scores, labels)
        if self.teacher is None:
            return loss, scores
        side = self.teacher.config.architecture.size
        large = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        with torch.no_grad(), fast_inference(images.device).autocast(images.device):
            taught = self.teacher((large - 0.5) / 0.5).float()
        told = divergence(scores, taught, "kl", 1.0)
        return self.share * loss + (1 - self.share) * told, scores


def fits(split: Split, seed: int, zoo: str) -> list[Row]:
    X, X_test, y, y_test = split
    given = {"zoo": zoo, "random_state": seed}
    began = time.process_time()
    teacher = SupernetTransferClassifier("multi", family="elastic", **given).fit(X, y)
    of_teacher = time.process_time() - began
    rows = [
        {
            "peer": "teacher",
            "accuracy": teacher.score(X_test, y_test),
            "macs": teacher.n_macs_,
            "seconds": round(of_teacher, 1),
        }
    ]
    start = SupernetTransferClassifier(
        "multi", family="cells", retraining=Retraining(1, learning_rate=1e-9), **given
    ).fit(X, y)
    defaults, size = get_family("cells").retraining(True), min(max(len(y) // 16, 16), 64)
    images = pixels(X, X.shape[1])
    mean, std = channel_statistics(pixels(X, _SIDE))
    photographs = X.shape[1] > 32
    augmentation = Augmentation(flip=photographs, cutout=0.25 if photographs else 0)
    no, one = torch.zeros(3), torch.ones(3)
    train = LabelledImages(ImageTensors(images, no, one, augmentation), torch.from_numpy(y))
    test = ImageTensors(pixels(X_test, X.shape[1]), no, one)
    state = {name: tensor.clone() for name, tensor in start.network_.state_dict().items()}
    for name, of, epochs in (
        ("plain", None, 30),
        ("plain, long", None, 60),
        ("taught", teacher.network_, 30),
        ("taught, long", teacher.network_, 60),
    ):
        began = time.process_time()
        start.network_.load_state_dict(state)
        pupil = Pupil(start.network_.requires_grad_(True), of, mean, std)
        settings = RetrainSettings(epochs, size, defaults["learning_rate"])
        generator = torch.Generator().manual_seed(seed)
        retrain(pupil, train, settings, generator)
        recalibrate_batch_norm(pupil, train.images, generator=generator)
        seconds = time.process_time() - began + (of_teacher if of is not None else 0)
        pupil.eval()
        with torch.no_grad():
            found = [pupil(test.clean(i)).argmax(1) for i in torch.arange(len(y_test)).split(100)]
        accuracy = float((torch.cat(found).numpy() == y_test).mean())
        rows.append(
            {
                "peer": name,
                "accuracy": accuracy,
                "macs": start.n_macs_,
                "seconds": round(seconds, 1),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, ["teacher"])
    add_output(parser, __file__, "continued if it exists")
    arguments = parser.parse_args()
    rows = known(arguments.out)
    for _ in measure(arguments, {"teacher": fits}, rows):
        write_results(arguments.out, rows=rows)
    print(table(rows))


if __name__ == "__main__":
    main()
