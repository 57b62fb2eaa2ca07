"""What a step keeps, gradient checkpointing, and errors of too little memory."""

import copy
import errno

import pytest
import torch
import torch.nn.functional as F
from kept import saved_bytes
from tiny import EMBEDDER, patterns, tiny_classifier
from torch import nn

from supernetnas.families.cells.config import NetworkConfig, SupernetConfig
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.partial import PartialSupernet
from supernetnas.families.cells.paths import path_scores
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.reading import as_image_set
from supernetnas.training.execution import Execution
from supernetnas.training.memory import explained_memory_error
from supernetnas.training.seeds import seeded_modules

IMAGES, LABELS = patterns(n_per_class=6)
X = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_process_that_may_have_no_more_memory(fitted, monkeypatch, error):
    """As under `ulimit -v`; training says which batch size to try."""

    def full(*_, **__):
        raise error

    monkeypatch.setattr("supernetnas.images.preprocessing.Preprocessing.batches", full)
    with pytest.raises(MemoryError, match=r"memory to predict so many.*fewer in each call"):
        fitted.predict(IMAGES)
    monkeypatch.setattr("supernetnas.embedding.embedder.Embedder._features", full)
    with pytest.raises(MemoryError, match=r"memory to embed the images.*ulimit -v"):
        EMBEDDER.embed(as_image_set(IMAGES))
    monkeypatch.setattr("supernetnas.fitting.target.decode", full)
    with pytest.raises(MemoryError, match=r"memory to prepare the images.*smaller image_size"):
        tiny_classifier().fit(IMAGES, LABELS)


def test_other_errors_are_what_they_are(fitted, monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("supernetnas.images.preprocessing.Preprocessing.batches", broken)
    with pytest.raises(OSError, match="broken"):
        fitted.predict(IMAGES)


def build(space="s1", channels=4):
    with seeded_modules(0):
        return CellSupernet(SupernetConfig(space, channels, 3, (8, 8), 3, 3)).double()


def gradients(net):
    if isinstance(net, CellSupernet):
        net.seed_noise(torch.Generator().manual_seed(5))
    loss = F.cross_entropy(net(X), Y)
    return torch.autograd.grad(loss, [*net.parameters()], materialize_grads=True)


@pytest.mark.parametrize(("space", "merged"), [("s1", False), ("s4", False), ("s1", True)])
def test_checkpointing_changes_nothing_but_the_memory(space, merged):
    """The second forward pass of a cell must not update its running statistics again."""
    once = build(space)
    again = copy.deepcopy(once)
    once.merged = again.merged = merged
    again.execution = Execution("float32", checkpointing=True)
    for _ in range(2):
        for a, b in zip(gradients(once), gradients(again), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for (name, a), (_, b) in zip(once.named_buffers(), again.named_buffers(), strict=True):
        if name.endswith("num_batches_tracked"):
            assert int(a) == int(b) == 2
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)
    sizes = [saved_bytes(lambda net=net: net(X)) for net in (once, again)]
    assert sizes[1] < 0.4 * sizes[0] or space == "s4"
    once.eval(), again.eval()
    torch.testing.assert_close(once(X), again(X))


@pytest.mark.parametrize("kind", ["partial", "path"])
def test_checkpointing_of_other_searches(kind):
    once = build("darts", channels=8)
    choices = tuple([list(range(1, 8)) * 2] * 2)
    if kind == "partial":
        once = PartialSupernet(once, 4, tuple(torch.zeros(14) for _ in range(2))).double()
    again = copy.deepcopy(once)
    again.execution = Execution("float32", checkpointing=True)

    def scores(net):
        return net(X) if kind == "partial" else path_scores(net, X, choices)

    for _ in range(2):
        a, b = (
            torch.autograd.grad(
                F.cross_entropy(scores(net), Y), [*net.parameters()], materialize_grads=True
            )
            for net in (once, again)
        )
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for (name, a), (_, b) in zip(once.named_buffers(), again.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)
    sizes = [saved_bytes(lambda net=net: scores(net)) for net in (once, again)]
    assert sizes[1] < 0.5 * sizes[0]


def test_checkpointing_of_a_network():
    genotype = build().genotype()
    with seeded_modules(0):
        once = Network(NetworkConfig(genotype, 4, 3, 3, 3)).double()
    again = copy.deepcopy(once)
    again.execution = Execution("float32", checkpointing=True)
    for a, b in zip(gradients(once), gradients(again), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(once.buffers(), again.buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_fit_with_checkpointing():
    settings = {"search__epochs": 2, "retraining__epochs": 2, "search__perturbation": "adversarial"}
    one, other = (
        tiny_classifier(precision=Execution(checkpointing=value), **settings).fit(IMAGES, LABELS)
        for value in (True, False)
    )
    assert one.genotype_ == other.genotype_
    for a, b in zip(one.history_, other.history_, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


def test_saved_bytes():
    layer = nn.Linear(10, 20, bias=False)
    x = torch.randn(7, 10)
    assert saved_bytes(lambda: layer(x)) == 7 * 10 * 4
    # The input twice, but one storage; the result of the sigmoid.
    assert saved_bytes(lambda: layer(x) + layer(x.view(7, 10))) == 7 * 10 * 4
    assert saved_bytes(lambda: layer(x).sigmoid()) == 7 * 10 * 4 + 7 * 20 * 4
    with torch.no_grad():
        assert saved_bytes(lambda: layer(x)) == 0


def test_the_fused_path_keeps_less():
    """Less than 0.68 of the definition, at sizes where activations count."""
    fused = build("s1").float()
    plain = copy.deepcopy(fused)
    plain.fused = False
    x = torch.randn(8, 3, 16, 16)
    kept = [saved_bytes(lambda net=net: net(x)) for net in (fused, plain)]
    assert kept[0] < 0.68 * kept[1]


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            MemoryError(),
        ],
    )
    def test_a_batch_size_is_suggested(self, error):
        with (
            pytest.raises(MemoryError, match=r"of 48 .*=24 or precision=Execution\(check"),
            explained_memory_error(48, False),
        ):
            raise error

    def test_nothing_is_suggested_that_is_done_already(self):
        with (
            pytest.raises(MemoryError, match=r"Try a smaller image_size\."),
            explained_memory_error(2, True),
        ):
            raise MemoryError("x")

    def test_other_errors_pass(self):
        with pytest.raises(RuntimeError, match="shapes"), explained_memory_error(8, False):
            raise RuntimeError("shapes do not match")

    @pytest.mark.parametrize("stage", ["search", "retrain"])
    def test_a_fit(self, monkeypatch, stage):
        """An allocation of an exabyte in the middle of it."""
        kind = CellSupernet if stage == "search" else Network
        monkeypatch.setattr(kind, "forward", lambda *_: torch.empty(2**58))
        with pytest.raises(MemoryError, match="Try batch_size="):
            tiny_classifier().fit(IMAGES, LABELS)
