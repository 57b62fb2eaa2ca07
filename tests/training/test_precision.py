"""Precision, compilation, and steps that nothing has to wait for."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from tiny import patterns, tiny_classifier
from torch.utils._python_dispatch import TorchDispatchMode

from supernetnas.families.cells import fused
from supernetnas.families.cells.config import NetworkConfig, SupernetConfig
from supernetnas.families.cells.costs import network_cost
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.budget import Budget
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batches import LabelledImages
from supernetnas.training.execution import Execution
from supernetnas.training.seeds import seeded_modules

CPU = torch.device("cpu")
IMAGES, LABELS = patterns(n_per_class=6)
PERTURBATIONS = ["none", "random", "adversarial"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled(device="cpu", seed=1):
    pixels = torch.randn(18, 3, 8, 8, generator=seeded(seed))
    images = ImageTensors(
        *(pixels, torch.zeros(3), torch.ones(3), Augmentation(0.125, True, 0.25), device)
    )
    return LabelledImages(images, (torch.arange(18) % 3).to(device))


def search(space="s1", device="cpu", cells=3, **settings):
    with seeded_modules(0):
        supernet = CellSupernet(SupernetConfig(space, 4, cells, (8, 8), 3, 3))
    execution = {
        name: settings.pop(name)
        for name in ("precision", "compile", "checkpointing")
        if name in settings
    }
    supernet.place(torch.device(device), Execution(**{"precision": "float32", **execution}))
    supernet.to(memory_format=torch.channels_last)
    settings = SearchSettings(**{"epochs": 1, "batch_size": 6, **settings})
    budget = Budget(network_cost(space, 4, cells, (3, 8, 8), 3), max_parameters=9000)
    data = labelled(device), labelled(device, 2)
    return BilevelSearch(supernet, *data, settings, seeded(), None, budget)


class TestPrecision:
    def test_the_default_on_a_cpu(self):
        assert Execution().on(CPU).precision == "float32"
        assert Execution("bfloat16").on(CPU).precision == "bfloat16"

    @pytest.mark.parametrize("perturbation", PERTURBATIONS)
    def test_a_search_in_bfloat16(self, perturbation):
        kinds = set()
        half, full = (
            search("s1", perturbation=perturbation, precision=precision)
            for precision in ("bfloat16", "float32")
        )
        for module in half.supernet.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda m, i, o: kinds.add(o.dtype))
        rows = [one.run()[0] for one in (half, full)]
        assert kinds == {torch.bfloat16}
        for name, value in half.supernet.state_dict().items():
            assert value.dtype in (torch.float32, torch.int64), name
        for optimizer in (half.alpha_optimizer, half.weight_optimizer):
            for state in optimizer.state.values():
                assert all(v.dtype == torch.float32 for v in state.values() if v is not None)
        assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=0.05)
        for name in ("alphas_normal", "alphas_reduce"):
            a, b = (getattr(one.supernet, name) for one in (half, full))
            torch.testing.assert_close(a, b, rtol=0, atol=3e-3)

    def test_gradients_of_the_alphas_in_bfloat16(self):
        one = search().supernet
        x, labels = labelled().images.clean(torch.arange(18)), torch.arange(18) % 3
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = F.cross_entropy(one(x).float(), labels)
            found.append(torch.cat(torch.autograd.grad(loss, one.alpha_parameters())).flatten())
        assert found[1].dtype == torch.float32
        assert F.cosine_similarity(*found, dim=0) > 0.98

    def test_a_fit_in_bfloat16(self):
        settings = {"retraining__epochs": 4, "precision": "bfloat16"}
        clf = tiny_classifier(**settings).fit(IMAGES, LABELS)
        assert {p.dtype for p in clf.network_.parameters()} == {torch.float32}
        full = tiny_classifier(retraining__epochs=4).fit(IMAGES, LABELS)
        losses = [one.history_[1]["train_loss"] for one in (clf, full)]
        assert losses[0] != losses[1]
        assert losses[0] == pytest.approx(losses[1], rel=0.1)

    @pytest.mark.parametrize(("value", "error"), [("float16", ValueError), (None, TypeError)])
    def test_bad_values(self, value, error):
        with pytest.raises(error, match=r"'precision' parameter .* or Execution"):
            tiny_classifier(precision=value).fit(IMAGES, LABELS)

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("precision", "float16", ValueError),
            ("compile", "yes", TypeError),
            ("checkpointing", 1, TypeError),
        ],
    )
    def test_bad_values_of_an_execution(self, name, value, error):
        with pytest.raises(error, match=f"^{name} must be"):
            Execution(**{name: value})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:")  # of torch's compiler about itself
class TestCompile:
    @pytest.fixture(autouse=True)
    def backend(self, monkeypatch):
        """Trace and differentiate as ever, but generate no code, which takes minutes."""
        monkeypatch.setattr(fused, "_BACKEND", "aot_eager")
        monkeypatch.setattr(fused, "_COMPILED", {})
        torch._dynamo.reset()

    def test_a_supernet(self):
        nets = [search().supernet for _ in range(2)]
        nets[1].place(CPU, Execution("float32", compile=True))
        images = labelled().images.clean(torch.arange(18))
        for n in (18, 17, 12):
            found = []
            for net in nets:
                loss = F.cross_entropy(net(images[:n]), torch.arange(n) % 3)
                found.append(torch.autograd.grad(loss, [*net.parameters()], materialize_grads=True))
            for a, b in zip(*found, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        assert len(fused._COMPILED) == 3
        for (name, a), (_, b) in zip(*(net.named_buffers() for net in nets), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_every_cell_of_a_deep_stack_runs_compiled(self, monkeypatch, checkpointing):
        """Through the steps and the evaluation of a search, epoch after epoch."""
        runs = []

        def backend(graph, inputs):
            def run(*arguments):
                runs.append(graph)
                return graph(*arguments)

            return run

        monkeypatch.setattr(fused, "_BACKEND", backend)
        one = search(cells=8, compile=True, checkpointing=checkpointing, epochs=2)
        plain = search(cells=8, epochs=2)
        calls = []
        one.supernet.stem.register_forward_hook(lambda *_: calls.append(None))
        for _ in range(2):
            runs.clear(), calls.clear()
            row, expected = one.run_epoch(), plain.run_epoch()
            assert len(runs) >= 8 * len(calls) > 0
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)

    def test_a_network(self):
        genotype = search().supernet.genotype()
        with seeded_modules(0):
            network = Network(NetworkConfig(genotype, 4, 3, 3, 3)).eval()
        images = labelled().images.clean(torch.arange(18))
        with torch.inference_mode():
            expected = network(images)
            network.execution = Execution("float32", compile=True)
            torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values and shapes that depend on values."""

    waiting = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(name.startswith(kind) for kind in self.waiting):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("space", ["s1", "s3"])
def test_no_step_needs_a_value(space, perturbation):
    one = search(space, perturbation=perturbation)
    index = torch.arange(6)
    # Adam keeps its count of steps on the CPU, whatever the device.
    one.alpha_optimizer.step = lambda: None
    with NoWaiting():
        one._alpha_step(index, index)
        one._weight_step(index, 0.1)
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        float(torch.ones(()))


@contextlib.contextmanager
def syncs_are_errors():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestGpu:
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    @pytest.mark.parametrize("perturbation", PERTURBATIONS)
    def test_no_step_of_a_search_waits(self, perturbation, precision):
        one = search(device="cuda", perturbation=perturbation, precision=precision)
        one.run_epoch()  # whatever is set up once
        index = torch.arange(6, device="cuda")
        with syncs_are_errors():
            for _ in range(2):
                one._alpha_step(index, index)
                one._weight_step(index, 0.1)

    def test_a_fit(self):
        clf = tiny_classifier(device="cuda", search__epochs=2).fit(IMAGES, LABELS)
        assert clf.score(IMAGES, LABELS) > 0.5

    def test_retraining_after_a_checkpoint(self, tmp_path):
        tiny_classifier(device="cuda", retraining__dropout=0.2, checkpoint_dir=tmp_path).fit(
            IMAGES, LABELS
        )


def test_retraining_in_float32_needs_no_value_either():
    """Of its steps; the epoch ends with two."""
    seen = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    genotype = search().supernet.genotype()
    with seeded_modules(0):
        network = Network(NetworkConfig(genotype, 4, 3, 3, 3, dropout=0.1))
    with Counting():
        retrain(network, labelled(), RetrainSettings(epochs=3, batch_size=6), seeded())
    values = [name for name in seen if name.startswith(NoWaiting.waiting)]
    assert len(values) == 1 + 3 * 2  # the seed; loss and accuracy of each epoch
