"""Pretraining of the weights that elastic members share."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_elastic import MEMBERS, tiny_supernet
from torch.testing import assert_close

from supernetnas.families.elastic import pretraining as module
from supernetnas.families.elastic.pretraining import (
    ElasticPretraining,
    SharedTraining,
    pretrain_shared,
)
from supernetnas.families.elastic.views import TeacherFeatures, Views
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.storage.files import FileError
from supernetnas.training.checkpoints import load_checkpoint
from supernetnas.training.distributed import Processes
from supernetnas.training.execution import Execution

SETTINGS = ElasticPretraining(
    epochs=2,
    batch_size=16,
    learning_rate=0.01,
    warmup=2,
    members_per_step=2,
    teacher_side=32,
    n_views=2,
    recalibration_batches=2,
    save_every=0.0,
)


def images(n=40, seed=0):
    """Blobs of random colours, so that there is something to see at any size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    pixels = (F.interpolate(coarse, (16, 16), mode="bilinear") * 255).to(torch.uint8)
    half = torch.full((3,), 0.5)
    return ImageTensors(pixels, half, half, Augmentation.NONE)


def supernet(members=MEMBERS):
    return tiny_supernet(members).float()


def views(**changes):
    return Views(images(), **{"side": 24, "n_views": 3, "seed": 0, **changes})


def test_first_view_is_the_image_and_others_lie_inside():
    one = views(side=16)
    index = torch.tensor([3, 0, 7])
    assert_close(one.batch(index, 0), one.images.clean(index), rtol=1e-4, atol=1e-5)
    for view in (1, 2):
        batch = one.batch(index, view)
        assert batch.shape == (3, 3, 16, 16)
        assert not torch.allclose(batch, one.batch(index, 0), atol=0.05)
        clean = one.images.clean(index)
        assert batch.amax() <= clean.amax() + 1e-5
        assert batch.amin() >= clean.amin() - 1e-5
    assert_close(views(side=16).batch(index, 1), one.batch(index, 1), rtol=0, atol=0)
    assert not torch.allclose(views(side=16, seed=1).batch(index, 1), one.batch(index, 1))
    assert_close(one.batch(index.flip(0), 1), one.batch(index, 1).flip(0), rtol=0, atol=0)


def test_views_are_crops_of_at_least_an_area_and_half_are_mirrored():
    boxes = Views(images(400), side=8, n_views=2, area=0.5)._boxes[1]
    extent, mirrored = boxes[:, 1, 1], boxes[:, 0, 0] < 0
    assert 0.5 <= float(extent.square().min()) < 0.55
    assert 0.95 < float(extent.square().max()) <= 1
    assert 150 < int(mirrored.sum()) < 250
    assert_close(boxes[:, 0, 0].abs(), extent)
    assert (boxes[:, :, 2].abs() + extent[:, None] <= 1 + 1e-6).all()
    with pytest.raises(ValueError, match="area=0"):
        views(area=0.0)


class Teacher:
    """Mean colours, and a count of the images looked at."""

    def __init__(self):
        self.seen = 0

    def __call__(self, batch):
        self.seen += len(batch)
        return batch.mean((2, 3))


def features(folder, teacher, of=None, identity="colours"):
    return TeacherFeatures(of or views(), teacher, identity=identity, dimension=3, folder=folder)


def test_teacher_sees_every_view_once(tmp_path):
    teacher = Teacher()
    data = features(tmp_path, teacher)
    index = torch.tensor([5, 2, 9])
    batch, found = data.batch(index, 1)
    assert_close(found, batch.mean((2, 3)).half().float(), rtol=0, atol=0)
    data.batch(torch.tensor([9, 5, 1]), 1)
    assert teacher.seen == 4
    assert_close(data.batch(index, 4)[1], found, rtol=0, atol=0)  # epoch 4 shows view 1 again
    assert teacher.seen == 4
    data.batch(index, 0)
    assert teacher.seen == 7

    def refuse(_):
        raise AssertionError("known already")

    again = features(tmp_path, refuse)
    assert_close(again.batch(index, 1)[1], found, rtol=0, atol=0)
    assert len(again) == 40


def test_features_of_something_else_are_refused(tmp_path):
    features(tmp_path, Teacher())
    for other in (views(seed=1), views(side=25), Views(images(seed=1), side=24, n_views=3)):
        with pytest.raises(FileError, match="Choose another folder, or delete this one"):
            features(tmp_path, Teacher(), other)
    with pytest.raises(FileError, match="other images, views or weights"):
        features(tmp_path, Teacher(), identity="shapes")
    assert json.loads((tmp_path / "teacher.json").read_text())["teacher"] == "colours"


def distance(net, member, data):
    """Of a member's features from those of the largest at the teacher's side."""
    with torch.inference_mode():
        batch = F.interpolate(data.clean(torch.arange(40)), (32, 32), mode="bilinear")
        found = net.features(batch, member)
        return float((found - net.eval().features(batch)).square().mean())


def test_members_come_closer_to_the_largest(tmp_path):
    start = supernet()
    start.recalibrate(images(), generator=torch.Generator().manual_seed(0))
    start.eval()
    untouched = {k: t.clone() for k, t in start.largest.state_dict().items()}
    settings = ElasticPretraining(
        epochs=30,
        batch_size=16,
        learning_rate=0.01,
        warmup=2,
        average=0.9,
        members_per_step=2,
        teacher_side=32,
        n_views=2,
        recalibration_batches=2,
    )
    losses = []
    result = pretrain_shared(
        supernet(),
        images(),
        tmp_path,
        identity="random",
        settings=settings,
        on_epoch=lambda t: losses.append(t.loss),
    ).recalibrated()
    assert not result.training
    assert losses[-1] < 0.7 * losses[0]
    for member in MEMBERS:
        assert distance(result, member, images()) < 0.7 * distance(start, member, images())
    assert_close(result.largest.state_dict(), untouched, rtol=0, atol=0)
    assert_close(result.classifier.state_dict(), start.classifier.state_dict(), rtol=0, atol=0)
    for statistics in result.statistics:
        assert set(statistics.batches.tolist()) == {1}  # of the one recalibration, nothing before


def test_an_interrupted_pretraining_goes_on(tmp_path):
    def run(folder, **options):
        return pretrain_shared(
            supernet(), images(), folder, identity="random", settings=SETTINGS, **options
        )

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", on_epoch=lambda t: True)
    on = []
    resumed = run(tmp_path / "parts", on_epoch=lambda t: on.append(t.epoch))
    assert on == [2]
    assert_same_training(resumed, whole)
    assert [row["epoch"] for row in whole.history] == [1, 2] and whole.epoch == whole.epochs == 2


class Killed(Exception):
    """Ends a training from within."""


@pytest.mark.parametrize(("save_every", "steps"), [(0.0, 3), (1e9, 2)])
def test_a_pretraining_that_was_killed_within_an_epoch_goes_on(
    tmp_path, monkeypatch, save_every, steps
):
    """From the last step, or from the end of the last epoch, of two steps."""
    settings = replace(SETTINGS, save_every=save_every)
    whole = pretrain_shared(
        supernet(), images(), tmp_path / "whole", identity="random", settings=settings
    )
    assert whole.n_steps == 4
    train = SharedTraining._train

    def train_three(training, index, epoch):
        if training.step == 3:
            raise Killed
        train(training, index, epoch)

    monkeypatch.setattr(SharedTraining, "_train", train_three)
    arguments = supernet(), images(), tmp_path / "parts"
    with pytest.raises(Killed):
        pretrain_shared(*arguments, identity="random", settings=settings)
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.safetensors")[1]["step"] == steps
    monkeypatch.undo()
    arguments = supernet(), images(), tmp_path / "parts"
    assert_same_training(pretrain_shared(*arguments, identity="random", settings=settings), whole)


def assert_same_training(one, other):
    states = (t.recalibrated().state_dict() for t in (one, other))
    assert_close(*states, rtol=0, atol=0)
    losses = [[row["train_loss"] for row in t.history] for t in (one, other)]
    assert losses[0] == losses[1] and len(losses[0]) == 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_teacher_looks_in_the_precision_of_fast_inference(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(module, "fast_inference", lambda device: Execution(precision))
    net = supernet().eval()
    training = SharedTraining(net, images(), tmp_path, "random", SETTINGS)
    index = torch.arange(8)
    batch, found = training.data.batch(index, 0)
    with torch.inference_mode(), torch.autocast("cpu", enabled=precision == "bfloat16"):
        expected = net.largest(batch).float()
    exact = net.largest(batch).detach()
    assert_close(found, expected.half().float(), rtol=1e-3, atol=1e-5)
    assert torch.allclose(found, exact, rtol=1e-3, atol=1e-5) == (precision == "float32")


def test_one_process_may_end_all(tmp_path):
    class Pair(Processes):
        def any(self, flag):
            return True

    ended = pretrain_shared(
        *(supernet(), images(), tmp_path),
        identity="random",
        settings=SETTINGS,
        on_epoch=lambda t: False,
        processes=Pair(),
    )
    assert ended.epoch == 1


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="at least 2 images; there are 1"):
        pretrain_shared(supernet(), images(1), tmp_path, identity="random")
    with pytest.raises(ValueError, match="lists no members"):
        pretrain_shared(supernet(()), images(), tmp_path, identity="random")
    pretrain_shared(supernet(), images(), tmp_path, identity="random", settings=SETTINGS)
    with pytest.raises(FileError, match="other images, views or weights"):
        pretrain_shared(supernet(), images(), tmp_path, identity="other", settings=SETTINGS)
    assert np.fromfile(tmp_path / "teacher" / "known.u8", np.uint8).min() == 1
