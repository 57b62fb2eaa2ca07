"""Numbers and the words that agree with them."""

import pytest

from supernetnas.storage.counting import counted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((40_772, "image"), "40,772 images"),
        ((1, "class", "classes"), "1 class"),
        ((2, "class", "classes"), "2 classes"),
    ],
)
def test_the_word_agrees_with_the_number(given, said):
    assert counted(*given) == said
