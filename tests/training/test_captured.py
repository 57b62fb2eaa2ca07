"""Captured steps, with a recorder that does on a CPU what a CUDA graph does on a GPU."""

import pytest
import torch
from test_precision import NoWaiting, labelled, search, seeded
from tiny import tiny_classifier
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from supernetnas.families.cells.config import NetworkConfig
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.methods import make_search
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import ImageTensors
from supernetnas.training import captured
from supernetnas.training.captured import CapturedStep, Recorder
from supernetnas.training.execution import Execution
from supernetnas.training.seeds import seeded_modules
from supernetnas.training.steps import set_gradients

IMAGES, LABELS = torch.randint(256, (12, 8, 8), dtype=torch.uint8).numpy(), [0, 1, 2] * 4


class Operations(NoWaiting):
    """Records the operations that torch runs; those that need a value on the host are errors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        """Run the same operations again: on the tensors from outside, and on new ones for the rest.

        Returns what brings a tensor of the recording to its place in the replay.
        """
        storages, made = {}, set()

        def moved(value):
            if not isinstance(value, torch.Tensor):
                return value
            storage = storages.get(value.untyped_storage()._cdata)
            if storage is None:
                return value
            place = value.storage_offset(), value.shape, value.stride()
            return torch.empty(0, dtype=value.dtype).set_(storage, *place)

        with torch.no_grad():
            for func, args, kwargs, recorded in self.calls:
                known = {
                    leaf.untyped_storage()._cdata
                    for leaf in tree_leaves((args, kwargs))
                    if isinstance(leaf, torch.Tensor)
                }
                result = func(*tree_map(moved, args), **tree_map(moved, kwargs))
                for old, new in zip(tree_leaves(recorded), tree_leaves(result), strict=True):
                    if not isinstance(old, torch.Tensor):
                        continue
                    key = old.untyped_storage()._cdata
                    if key not in known and key not in made:
                        made.add(key)
                        storages[key] = new.untyped_storage()
        return moved


class CpuRecorder:
    """A `Recorder` whose graphs are lists of operations."""

    n_replays = 0

    def __init__(self, device, generators):
        assert device.type == "cpu"
        assert generators and all(isinstance(g, torch.Generator) for g in generators)

    def warm(self, function):
        return function()

    def record(self, function):
        # A graph does not run while it is recorded; this one has, so its first replay is over.
        with Operations() as operations:
            results = function()
        fresh = [True]

        def replay():
            if fresh:
                fresh.clear()
                return
            type(self).n_replays += 1
            moved = operations.replay()
            for result in results:
                result.copy_(moved(result))

        return replay, results


@pytest.fixture
def recorder(monkeypatch):
    """Record on the CPU, in double precision, but for the learning rate and the radius."""

    class OwnRecorder(CpuRecorder):
        pass

    for name in ("augmented", "clean"):
        single = getattr(ImageTensors, name)
        monkeypatch.setattr(ImageTensors, name, lambda *args, f=single: f(*args).double())
    monkeypatch.setattr(Tensor, "float", lambda self: self)

    monkeypatch.setattr(captured, "_WARM_UP", 1)
    monkeypatch.setattr(BilevelSearch, "_recorder", OwnRecorder)
    return OwnRecorder


def run(
    compile, method="sdarts", perturbation="random", merged=True, checkpointing=False, **settings
):
    one = search(compile=compile, checkpointing=checkpointing)
    one.supernet.double()
    found = make_search(
        *(method, one.supernet, labelled(), labelled(seed=2)),
        settings=SearchSettings(epochs=4, batch_size=5, perturbation=perturbation, **settings),
        generator=seeded(),
    )
    found.supernet.merged = merged
    found.run()
    return found


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sdarts", {}),
        ("sdarts", {"perturbation": "adversarial"}),
        ("sdarts", {"merged": False, "weight_steps_per_alpha_step": 2}),
        ("darts", {"checkpointing": True}),
        ("pc_darts", {}),
    ],
    ids=["random", "adversarial", "fused", "checkpointing", "pc_darts"],
)
def test_a_captured_search_is_the_search(recorder, method, settings):
    plain, other = run(False, method, **settings), run("graph", method, **settings)
    # Of 4 epochs of 4 steps, 2 for each combination of sizes come before the first replay.
    assert recorder.n_replays >= 4
    assert isinstance(other.weight_optimizer.param_groups[0]["lr"], torch.Tensor)
    for name, value in plain.supernet.state_dict().items():
        torch.testing.assert_close(
            *(other.supernet.state_dict()[name], value), rtol=1e-5, atol=1e-6, msg=name
        )
    for one, row in zip(plain.history, other.history, strict=True):
        assert row["train_loss"] == pytest.approx(one["train_loss"], rel=1e-6)


@pytest.mark.parametrize("method", ["darts2", "drnas", "gdas", "random_search"])
def test_other_searches_run_as_ever(recorder, method):
    plain, other = run(False, method), run("graph", method)
    assert recorder.n_replays == 0
    for name, value in plain.supernet.state_dict().items():
        torch.testing.assert_close(other.supernet.state_dict()[name], value, rtol=0, atol=0)


def test_a_captured_retraining_is_the_retraining(monkeypatch):
    monkeypatch.setattr(CpuRecorder, "n_replays", 0)
    networks, histories = [], []
    for compile in (False, "graph"):
        with seeded_modules(0):
            genotype = search().supernet.genotype()
            network = Network(NetworkConfig(genotype, 4, 3, 3, 3, dropout=0.1))
        settings, execution = RetrainSettings(epochs=4, batch_size=5), Execution(compile=compile)
        histories.append(
            retrain(
                *(network, labelled(), settings, seeded()),
                execution=execution,
                recorder=CpuRecorder,
            )
        )
        networks.append(network)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(
            networks[1].state_dict()[name], value, rtol=2e-3, atol=2e-4, msg=name
        )
    assert CpuRecorder.n_replays >= 4
    losses = [[row["train_loss"] for row in history] for history in histories]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_shapes_have_recordings_of_their_own():
    total = torch.zeros(())

    def step(x, rate, extra):
        total.add_(x.sum() * rate)
        return (total + (0 if extra is None else extra.sum()),)

    run_step = CapturedStep(step, torch.device("cpu"), CpuRecorder(total.device, [seeded()]))
    expected = 0.0
    for number in range(12):
        x = torch.full((2 + number % 2,), float(number))
        extra = torch.ones(3) if number % 4 < 2 else None
        (result,) = run_step(x, 0.5 + number, extra)
        expected += float(x.sum()) * (0.5 + number)
        assert float(result) == pytest.approx(expected + (0 if extra is None else 3))
    assert len(run_step._recordings) == 4


def test_a_step_that_reads_a_value_is_found():
    def step(x):
        return (x * float(x.sum()),)

    run_step = CapturedStep(step, torch.device("cpu"), CpuRecorder(torch.device("cpu"), [seeded()]))
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        for _ in range(5):
            run_step(torch.ones(2))


def test_graphs_need_a_gpu():
    with pytest.raises(ValueError, match="GPU only"):
        Recorder(torch.device("cpu"), [])
    with pytest.raises(ValueError, match="compile=False"):
        tiny_classifier(precision=Execution(compile="graph"), device="cpu").fit(IMAGES, LABELS)


def test_gradients_take_the_layout_of_their_parameters():
    """Channels-last images give kernels channels-last gradients; fused optimizers do not look."""
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    gradient = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([weight], lr=0.5, fused=True)
    expected = weight.detach() - 0.5 * gradient
    set_gradients([weight], [gradient])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("method", ["sdarts", "pc_darts"])
def test_a_captured_search_of_contiguous_weights(recorder, method):
    found = []
    for compile in (False, "graph"):
        one = search(compile=compile)
        one.supernet.double().to(memory_format=torch.contiguous_format)
        settings = SearchSettings(epochs=2, batch_size=6)
        data = labelled(), labelled(seed=2)
        found.append(
            make_search(*(method, one.supernet, *data), settings=settings, generator=seeded())
        )
        found[-1].run()
    for name, value in found[0].supernet.state_dict().items():
        torch.testing.assert_close(
            found[1].supernet.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["sdarts", "pc_darts"])
def test_a_graph_on_a_gpu(method, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    replays, found = [], []
    record = Recorder.record

    def counted(self, function):
        replay, results = record(self, function)
        return lambda: (replays.append(1), replay()), results

    monkeypatch.setattr(Recorder, "record", counted)
    for compile in (False, "graph"):
        one = search(device="cuda", compile=compile)
        settings = SearchSettings(epochs=2, batch_size=6)
        data = labelled("cuda"), labelled("cuda", 2)
        found.append(
            make_search(*(method, one.supernet, *data), settings=settings, generator=seeded())
        )
        found[-1].run()
    assert len(replays) == 3  # the second epoch
    for name, value in found[0].supernet.state_dict().items():
        torch.testing.assert_close(
            found[1].supernet.state_dict()[name], value, rtol=1e-2, atol=1e-3, msg=name
        )
