"""A strategy that is added to the list is known wherever strategies are."""

import numpy as np
import pytest

from supernetnas.cli.parser import build_parser
from supernetnas.selection.select import open_zoo, select_sources
from supernetnas.selection.strategies import STRATEGIES, Strategy, find_strategy, reserved_names
from supernetnas.zoo.entries import check_name


def last(zoo, *_):
    return [zoo.singles()[-1].name]


def unexpected():
    raise AssertionError("the target was embedded")


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(
        STRATEGIES, "last", Strategy("last", "start from the last source", "single", last)
    )


def test_strategies_are_described():
    assert list(STRATEGIES) == ["auto", "multi", "ot", "oracle", "random", "scratch"]
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name and strategy.meaning.startswith(("start", "search"))
    assert find_strategy("bars") is None and find_strategy(["ot"]) is None


def test_names_of_strategies_are_no_names_of_sources():
    assert reserved_names() == {"auto", "ot", "oracle", "random", "scratch"}
    for name in ("auto", "ot", "Oracle", "random", "scratch"):
        with pytest.raises(ValueError, match="no name of a strategy"):
            check_name(name)
    assert check_name("multi") == "multi"


def test_a_strategy_that_is_added_is_known_everywhere(added, tiny_zoo, capsys):
    with pytest.raises(ValueError, match="no name of a strategy"):
        check_name("last")
    assert open_zoo("last", tiny_zoo) is tiny_zoo
    selection = select_sources(
        "last", tiny_zoo, signature=unexpected, random_state=np.random.RandomState(0)
    )
    assert [source.name for source in selection.candidates] == ["spots"]
    with pytest.raises(ValueError, match="strategy='last' needs single sources"):
        open_zoo("last", tiny_zoo.subset(["both"]))
    with pytest.raises(SystemExit):
        build_parser().parse_args(["fit", "--help"])
    assert "last     start from the last source" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"'scratch', 'last'\)"):
        open_zoo("first", tiny_zoo)
