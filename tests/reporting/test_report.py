"""The report: complete, harmless, without need of anything else, and readable everywhere."""

import base64
import copy
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from elastic_zoo import coloured, elastic_classifier
from paths_zoo import paths_classifier
from PIL import Image
from tiny import patterns, tiny_classifier

from supernetnas.families.base import available_families
from supernetnas.images.reading import as_image_set
from supernetnas.plotting._colours import contrast
from supernetnas.reporting import page as pages
from supernetnas.reporting.sections import _inherited, _inputs, _scores, _training, _visible

pytest.importorskip("matplotlib")

HOSTILE = '</td><script>alert("1")</script>$x$\x1b[31m'
VOID = {"meta", "img", "br", "source"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def hostile():
    """A classifier with hostile class names, and images of it."""
    images, labels = patterns(12, noise=90)
    names = np.array([HOSTILE, "a & b", "plain", "x" * 80])[labels]
    clf = tiny_classifier(holdout_fraction=0.25, retraining__epochs=2).fit(images, names)
    return clf, images, names


@pytest.fixture(scope="module")
def text(hostile, tmp_path_factory):
    clf, images, _ = hostile
    path = tmp_path_factory.mktemp("report") / "fit.html"
    assert clf.report(path, images) == path
    return path.read_text()


def test_all_sections_are_there_and_linked(text):
    page = Page(text)
    targets = [attrs["href"] for attrs in page.all("a")]
    assert targets == [f"#{attrs['id']}" for attrs in page.all("section")]
    for heading in ("What the network sees", "Architecture", "Mistakes", "Provenance"):
        assert heading in page.text


def test_what_it_says_is_so(text, hostile):
    clf, said = hostile[0], Page(text).text
    assert f"{100 * clf.holdout_.accuracy:.1f} % on 12 images" in said
    low, high = clf.holdout_.accuracy_interval
    interval = f"(95 % interval {low:.3f} to {high:.3f})"
    assert f"accuracy {clf.holdout_.accuracy:.3f} {interval} balanced accuracy" in said
    assert "input 8 x 8 pixels, 1 channel started from" in said
    assert f"{clf.n_parameters_:,}" in said
    assert str(clf.architecture_) in said
    assert clf.outcome_ in said
    assert all(row["image"] in said for row in clf.holdout_.errors())


def test_names_of_strangers_are_harmless(text):
    page = Page(text)
    assert not page.all("script")
    assert "<script" not in text
    assert "\x1b" not in text
    assert '</td><script>alert("1")</script>$x$\\x1b[31m' in page.text


def test_it_fetches_nothing(text):
    page = Page(text)
    sources = [
        attrs.get("src") or attrs["srcset"] for attrs in [*page.all("img"), *page.all("source")]
    ]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?:", re.sub(r"data:[^\"]*", "", text))
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_pictures_are_there_for_light_and_dark_and_described(text):
    page = Page(text)
    assert len(page.all("picture")) == len(page.all("source")) >= 4
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert "dark" in page.all("source")[0]["media"]
    corner = {}
    images = {"dark": page.all("source")[0]["srcset"]}
    after = next(i for i, (tag, _) in enumerate(page.tags) if tag == "source")
    images["light"] = page.tags[after + 1][1]["src"]
    for name, address in images.items():
        data = base64.b64decode(address.partition(",")[2])
        corner[name] = Image.open(io.BytesIO(data)).convert("RGB").getpixel((1, 1))
    assert corner == {"light": (255, 255, 255), "dark": (0x16, 0x19, 0x1D)}


def test_the_colours_of_the_page_are_those_of_its_pictures_and_legible():
    found = [
        dict(re.findall(r"--(\w+): (#\w+)", block))
        for block in re.findall(r":root \{(.*?)\}", pages._STYLE, re.DOTALL)
    ]
    for colours, style in zip(found, (pages._LIGHT, pages._DARK), strict=True):
        assert colours["paper"] == style["figure.facecolor"] == style["axes.facecolor"]
        assert colours["ink"] == style["text.color"]
        assert contrast(colours["ink"], colours["paper"]) >= 7
        assert contrast(colours["accent"], colours["paper"]) >= 4.5
        assert contrast(colours["ink"], colours["shade"]) >= 7


def test_it_suits_phones(text):
    page = Page(text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    inside = [tag for tag, _ in page.tags]
    tables = inside.count("table")
    assert tables == text.count('<div class="wide"><table>')  # which scroll by themselves
    assert "max-width: 100%" in text


def test_the_network_sees_what_is_shown(hostile):
    clf, images, _ = hostile
    seen = torch.cat(list(clf.preprocessing_.pixels(as_image_set(images[:3]))))
    shown = _visible(seen.permute(0, 2, 3, 1).numpy(), clf.preprocessing_)
    np.testing.assert_array_equal(shown, np.repeat(images[:3, ..., None], 3, axis=-1))


@pytest.mark.parametrize(
    ("resize", "becomes"),
    [("squeeze", "squeezed"), ("crop", "cropped"), ("pad", "padded with zeros")],
)
def test_it_says_what_becomes_of_images_of_another_aspect(resize, becomes, hostile):
    clf = copy.copy(hostile[0])
    clf.preprocessing_ = replace(clf.preprocessing_, resize=resize)
    assert f"those of another aspect are {becomes}," in _inputs(clf, None, None)


def test_other_images_with_labels(hostile, tmp_path):
    clf, images, names = hostile
    clf.report(tmp_path / "a.html", images[:20], names[:20])
    assert "on 20 images" in Page((tmp_path / "a.html").read_text()).text


@pytest.mark.parametrize("family", available_families())
def test_every_family_is_reported(family, request, tmp_path):
    images, labels = coloured(n_per_class=5)
    if family == "elastic":
        clf = elastic_classifier(request.getfixturevalue("published_zoo"))
    else:
        clf = {"cells": tiny_classifier, "paths": paths_classifier}[family](image_size=8)
    names = np.array(["ash", "birch", "cedar"])[labels]
    clf.set_params(holdout_fraction=0.2).fit(images, names)
    assert clf.evaluate(images, names).accuracy == clf.score(images, names)
    page = Page(clf.report(tmp_path / "a.html", images).read_text())
    reached = f"{100 * clf.holdout_.accuracy:.1f} % on 3 images"
    costs = f"{clf.n_macs_:,}", f"{clf.n_parameters_:,}"
    for said in (clf.source_, clf.outcome_, reached, *costs, *clf.classes_):
        assert said in page.text
    assert page.all("img")


def test_long_names_are_short_below_images_and_whole_in_a_table(tmp_path):
    images, labels = patterns(4, noise=200)
    long = np.array([f"{'plants of the meadows, ' * 5}{name}" for name in "abcd"])
    clf = tiny_classifier(retraining__epochs=1).fit(images, long[labels])
    wrong = long[(labels + 1) % 4]  # so that nearly all are mistakes
    text = clf.report(tmp_path / "a.html", images, wrong).read_text()
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert len(captions) > 4
    names = [name for caption in captions for name in caption.split(", 0.")[0].split(" → ")]
    assert max(map(len, names)) <= 24 and len(set(names)) == 4
    said = Page(text).text
    assert said.count("Full names") == 2  # of what it sees, and of what is taken for what
    assert all(said.count(name) >= 3 for name in long)


def test_numbers_of_images_are_a_line_of_the_provenance(tiny_zoo, fitted, tmp_path):
    zoo = tiny_zoo.save(tmp_path / "zoo")
    source = zoo[fitted.source_]
    zoo.add(
        source.name,
        config=source.config,
        state_dict=source.state_dict(),
        signature=source.signature(),
        provenance={"n_images": 40_772, "n_classes": 4, "native_size": "8x8"},
        overwrite=True,
    )
    clf = tiny_classifier(zoo, source.name, search="none", retraining__epochs=1).fit(*patterns())
    said = Page(clf.report(tmp_path / "a.html").read_text()).text
    assert "licence not stated native size 8x8 trained on 40,772 images of 4 classes" in said
    assert "40772" not in said


def test_what_never_changed_is_said_and_not_drawn(hostile):
    clf = copy.copy(hostile[0])
    clf.history_ = [
        {"stage": "search", "epoch": epoch, "changes": 0, "alpha_entropy": 0.5 + 0.1 * epoch}
        for epoch in (1, 2)
    ]
    page = Page(_training(clf))
    assert "differ from where the search began; in every epoch 0." in page.text
    assert len(page.all("picture")) == 1
    assert "1 is undecided, 0 is discrete" in page.text


def test_brief_fits_that_decided_are_shown():
    rows = [
        {"source": name, "family": "cells", "image_size": [8, 8], "accuracy": accuracy}
        for name, accuracy in (("one", 0.9), ("two", 0.8), ("three", 0.5))
    ]
    assert Page(_scores(rows)).text.endswith(
        "one cells 8 x 8 0.900 two cells 8 x 8 0.800 three cells 8 x 8 0.500"
    )
    rows[0]["race_accuracy"], rows[1]["race_accuracy"] = 0.6, 0.75
    said = Page(_scores(rows)).text
    assert (
        "brief fits: source family pixels accuracy brief fit two cells 8 x 8 0.800 0.750 one"
        in said
    )


def test_all_weights_are_inherited_only_where_all_are():
    assert _inherited(1.0) == "Of its weights, all came from the supernet."
    assert "99.9 %" in _inherited(0.99999)
    assert "62.5 %" in _inherited(0.625)


def test_without_images_it_shows_none(hostile, tmp_path):
    hostile[0].report(tmp_path / "a.html")
    said = Page((tmp_path / "a.html").read_text()).text
    assert "No images are shown" in said
    assert "on 12 images" in said


def test_a_fit_that_held_nothing_out_says_so(fitted, tmp_path):
    fitted.report(tmp_path / "a.html")
    page = Page((tmp_path / "a.html").read_text())
    assert "not measured" in page.text
    assert "Distances from the images to the sources" in page.text
    assert "Mistakes" not in page.text


def test_provenance_is_that_of_the_source_that_the_fit_started_from(tiny_zoo, fitted, tmp_path):
    zoo = tiny_zoo.save(tmp_path / "zoo")
    clf = tiny_classifier(zoo, fitted.source_, search="none").fit(*patterns())
    source = zoo[clf.source_]
    said = Page(clf.report(tmp_path / "a.html").read_text()).text
    assert "of which its zoo says what follows" in said
    zoo.add(
        clf.source_,
        config=source.config,
        state_dict={name: 2 * tensor for name, tensor in source.state_dict().items()},
        signature=source.signature(),
        overwrite=True,
    )
    said = Page(clf.report(tmp_path / "a.html").read_text()).text
    assert "of a zoo that is not at hand" in said


def test_what_does_not_fit_is_refused_before_any_work(hostile, fitted, tmp_path):
    clf, images, names = hostile
    with pytest.raises(ValueError, match="Pass both X and y"):
        clf.report(tmp_path / "a.html", y=names)
    with pytest.raises(ValueError, match="X has 3 images, but holdout_ names number"):
        clf.report(tmp_path / "a.html", images[:3])
    with pytest.raises(ValueError, match="needs the labels of X"):
        fitted.report(tmp_path / "a.html", patterns()[0])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        clf.report(tmp_path / "missing" / "a.html")
    assert not list(tmp_path.iterdir())


def test_the_same_fit_gives_the_same_page(hostile, text, tmp_path):
    clf, images, _ = hostile
    clf.report(tmp_path / "a.html", images)
    assert (tmp_path / "a.html").read_text() == text


def test_the_global_style_is_left_alone(hostile, tmp_path):
    import matplotlib.pyplot as plt

    before, figures = dict(plt.rcParams), plt.get_fignums()
    hostile[0].report(tmp_path / "a.html")
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == figures
