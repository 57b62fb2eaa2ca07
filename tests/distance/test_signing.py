"""Labelled images become the signature of their dataset, in one place for whoever needs one."""

import numpy as np
import pytest
from tiny import EMBEDDER, patterns

from supernetnas.distance.signing import embed_labelled, sign
from supernetnas.images.reading import as_image_set


def signed(images, labels, **arguments):
    return sign(as_image_set(images), labels, EMBEDDER, **arguments)


def test_many_images_are_sampled_by_class():
    images, labels = patterns(n_per_class=30)
    rare = np.concatenate([np.flatnonzero(labels == 0)[:12], np.flatnonzero(labels > 0)])
    signature = signed(images[rare], labels[rare], max_embedded=20)
    assert signature.counts.tolist() == [12, 30, 30, 30]  # of the dataset, not of the sample
    assert signature.kept.sum() == 20
    assert signature.kept[0] in (2, 3) and set(signature.kept[1:]) <= {5, 6}
    again = signed(images[rare], labels[rare], max_embedded=20)
    np.testing.assert_array_equal(signature.rows, again.rows)
    other = signed(images[rare], labels[rare], max_embedded=20, random_state=1)
    assert not np.array_equal(signature.rows, other.rows)


def test_every_class_is_in_the_sample():
    with pytest.warns(UserWarning, match="single row"):
        assert signed(*patterns(), max_embedded=2).kept.tolist() == [1, 1, 1, 1]


def test_fewer_rows_are_kept_than_embedded_but_one_of_each_class():
    images, labels = patterns(n_per_class=10)
    assert signed(images, labels, max_kept=8).kept.sum() == 8
    assert signed(images, labels, max_kept=None).kept.sum() == 40
    assert signed(images, labels, max_kept=1).kept.tolist() == [1, 1, 1, 1]


def test_labels_and_names_of_classes():
    images, labels = patterns()
    words = np.array(["d", "a", "c", "b"])[labels]
    assert signed(images, words).class_names == ("a", "b", "c", "d")
    assert signed(images, labels, class_names="wxyz").class_names == ("w", "x", "y", "z")


def test_all_images_are_embedded_in_their_order_where_nothing_is_sampled():
    images, labels = patterns()
    whole = embed_labelled(as_image_set(images), labels, EMBEDDER, max_embedded=None)
    enough = embed_labelled(as_image_set(images), labels, EMBEDDER, max_embedded=len(labels))
    np.testing.assert_array_equal(whole.features, EMBEDDER.embed(as_image_set(images)))
    np.testing.assert_array_equal(whole.features, enough.features)
    np.testing.assert_array_equal(whole.labels, labels)
