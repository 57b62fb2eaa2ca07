"""The merged cells against the plain definition, in double precision, and how much they launch."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from tiny_cells import assert_near, gradients, images, pair
from torch.utils._python_dispatch import TorchDispatchMode

from supernetnas.families.cells import merged
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.methods import make_search
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.batches import LabelledImages
from supernetnas.training.seeds import seeded_modules


def merged_pair(space, channels=4, cells=3):
    plain, other = pair(space, channels, cells)
    other.merged = True
    return plain, other


class TestSupernet:
    @pytest.mark.parametrize(
        ("space", "size", "layout"),
        [
            ("s1", (8, 8), torch.contiguous_format),
            ("s1", (9, 11), torch.channels_last),
            ("s2", (7, 8), torch.contiguous_format),
            ("s3", (8, 8), torch.contiguous_format),
            ("darts", (9, 8), torch.contiguous_format),
            pytest.param("darts", (8, 8), torch.channels_last, marks=pytest.mark.slow),
        ],
    )
    def test_scores_gradients_and_statistics(self, space, size, layout):
        x, labels = images(4, 3, *size), torch.tensor([0, 1, 2, 1])
        plain, other = (net.to(memory_format=layout) for net in merged_pair(space))
        x = x.contiguous(memory_format=layout)
        expected, plain_gradients = gradients(plain, x, labels)
        scores, merged_gradients = gradients(other, x, labels)
        assert_near(scores, expected)
        largest = max(float(g.abs().max()) for g in plain_gradients.values())
        for name, gradient in plain_gradients.items():
            scale = max(float(gradient.abs().max()), 1e-4 * largest)
            assert float((merged_gradients[name] - gradient).abs().max()) <= 1e-10 * scale, name
        for name, buffer in plain.named_buffers():
            assert_near(other.get_buffer(name).double(), buffer.double())
        assert_near(other.eval()(x), plain.eval()(x))

    def test_it_is_what_ran(self, monkeypatch):
        """What the comparison above would not notice."""
        calls = []
        original = merged._wave
        monkeypatch.setattr(merged, "_wave", lambda *a: calls.append(1) or original(*a))
        _, other = merged_pair("s1")
        other(images(2, 3, 8, 8))
        assert len(calls) == 3 * 4
        other.merged = None  # a CPU
        other(images(2, 3, 8, 8))
        assert len(calls) == 3 * 4

    def test_noise_is_not_merged(self):
        plain, other = merged_pair("s4")
        x, labels = images(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        assert_near(gradients(other, x, labels)[0], gradients(plain, x, labels)[0])

    def test_frozen_statistics_stay(self):
        plain, other = merged_pair("s1")
        before = {name: buffer.clone() for name, buffer in other.named_buffers()}
        x = images(4, 3, 8, 8)
        with frozen_batch_norm(other), frozen_batch_norm(plain):
            assert_near(other(x), plain(x))
        for name, buffer in other.named_buffers():
            assert torch.equal(buffer, before[name]), name

    def test_replaced_parameters_are_used(self):
        _, other = merged_pair("s1")
        x = images(4, 3, 8, 8)
        before = other(x)
        state = {k: v * 1.5 if v.is_floating_point() else v for k, v in other.state_dict().items()}
        other.load_state_dict(state, assign=True)
        fused = copy.deepcopy(other)
        fused.merged = False
        after = other(x)
        assert (after - before).abs().max() > 1e-3
        assert_near(after, fused(x))


@pytest.mark.parametrize("method", ["gdas", "random_search"])
@pytest.mark.parametrize("space", ["s1", "darts"])
def test_twin_pools_after_a_search_along_single_paths(space, method):
    """Edges that share a pooling in training do not share its running statistics."""
    plain = pair(space)[1]
    pixels = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    tensors = Doubles(pixels, torch.full((3,), 0.5), torch.full((3,), 0.3), Augmentation(0.125))
    data = LabelledImages(tensors, torch.arange(12) % 3)
    settings = SearchSettings(epochs=2, batch_size=4, learning_rate=0.05)
    generator = torch.Generator().manual_seed(0)
    make_search(*(method, plain, data, data), settings=settings, generator=generator).run()
    other, x = copy.deepcopy(plain).eval(), images(4, 3, 8, 9)
    plain.fused, other.merged = False, True
    with torch.no_grad():
        expected, scores = plain.eval()(x), other(x)
        assert_near(scores, expected)
        # In training they share the batch's, and each goes on from its own.
        assert_near(other.train()(x), plain.train()(x))
        for name, buffer in plain.named_buffers():
            assert_near(other.get_buffer(name).double(), buffer.double())
        assert_near(other.eval()(x), plain.eval()(x))
        assert (plain(x) - expected).abs().max() > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_the_default():
    plain, other = (net.cuda() for net in pair("darts"))
    x, labels = images(4, 3, 8, 8).cuda(), torch.tensor([0, 1, 2, 1], device="cuda")
    scores, found = gradients(other, x, labels)
    expected, wanted = gradients(plain, x, labels)
    assert_near(scores, expected)
    for name in ("alphas_normal", "alphas_reduce", "stem.0.weight"):
        assert_near(found[name], wanted[name])
    with Launches() as few:
        other(x)
    other.merged = False
    with Launches() as many:
        other(x)
    assert sum(few.names.values()) < 0.5 * sum(many.names.values())


class Launches(TorchDispatchMode):
    """Counts what a device would launch: every operation but views and allocations."""

    free = (
        *("view", "_unsafe_view", "transpose", "permute", "t", "expand", "split", "slice", "alias"),
        *("split_with_sizes", "unbind", "select", "detach", "unsqueeze", "squeeze", "as_strided"),
        *("empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"),
        *("_reshape_alias", "lift_fresh", "unfold"),
    )

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in self.free:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


class Doubles(ImageTensors):
    def augmented(self, index, generator):
        return super().augmented(index, generator).double()

    def clean(self, index):
        return super().clean(index).double()


def search(supernet, perturbation="random"):
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tensors = ImageTensors(pixels, torch.zeros(3), torch.ones(3), Augmentation(0.125))
    data = LabelledImages(tensors, torch.arange(4) % 3)
    settings = SearchSettings(batch_size=2, perturbation=perturbation)
    return BilevelSearch(supernet, data, data, settings, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("space", "most"), [("s1", 3000), pytest.param("darts", 5500, marks=pytest.mark.slow)]
)
def test_launches_of_a_full_step(space, most):
    """Of 8 cells, alphas and weights; the number does not depend on channels or pixels."""
    with seeded_modules(0):
        supernet = CellSupernet(SupernetConfig(space, 2, 8, (8, 8), 3, 3))
    supernet.merged = True
    one, index = search(supernet), torch.arange(2)
    one._alpha_step(index, index)  # sets up the states of the optimizers
    one._weight_step(index, 0.1)
    with Launches() as launches:
        one._alpha_step(index, index)
        one._weight_step(index, 0.1)
    assert 1000 < sum(launches.names.values()) <= most


@pytest.mark.parametrize(("perturbation", "steps"), [("random", 3), ("adversarial", 2)])
def test_trajectories_of_all_paths(perturbation, steps):
    """Alphas and weights after steps of a search: plain, fused and merged."""
    ends = []
    for path in ("plain", "fused", "merged"):
        supernet = pair("s1")[1]
        supernet.fused, supernet.merged = path != "plain", path == "merged"
        one = search(supernet, perturbation)
        pixels = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        tensors = Doubles(pixels, torch.full((3,), 0.5), torch.full((3,), 0.3), Augmentation(0.125))
        one.train = one.validation = LabelledImages(tensors, torch.arange(8) % 3)
        # The search's losses are in single precision; these stay double.
        one._loss = F.cross_entropy
        for step in range(steps):
            one._alpha_step(torch.arange(4), torch.arange(4))
            one._weight_step(torch.arange(4, 8), 0.1 * (step + 1))
        ends.append(supernet.state_dict())
    for name, value in ends[0].items():
        for other in ends[1:]:
            assert_near(other[name].double(), value.double(), 1e-9)
    assert (ends[0]["alphas_normal"] - pair("s1")[0].alphas_normal).abs().max() > 1e-4


def test_shared_statistics_are_not_merged():
    """A batch norm over several processes has to compute its statistics itself."""
    net, _ = pair("s1")
    net.merged = True
    assert net._merges(torch.device("cpu"))
    shared = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert not shared._merges(torch.device("cpu"))
