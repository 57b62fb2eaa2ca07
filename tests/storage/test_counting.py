"""Numbers and the words that agree with them."""

import pytest

from supernetnas.storage.counting import counted, roughly


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


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (999_999, "999,999"),
        (1_000_000, "1.0 million"),
        (999_940_000, "999.9 million"),
        (999_960_000, "1.0 billion"),
        (2_100_000_000, "2.1 billion"),
        (10**15, "1.0 x 10^15"),
        (11 * 10**17, "1.1 x 10^18"),
        (10**400, "1.0 x 10^400"),
    ],
)
def test_large_numbers_are_words(n, text):
    assert roughly(n) == text
