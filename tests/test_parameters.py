"""Parameters: what each may be, and that the documentation says so."""

import ast
import inspect
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.base import clone

from supernetnas import Cells, Retraining, SmoothDARTS, Split, SupernetTransferClassifier
from supernetnas.families.base import available_families, get_family
from supernetnas.parameters import (
    FLAG,
    NOTHING,
    AnyOf,
    Instance,
    OneOf,
    ParameterError,
    Parameters,
    Real,
    Whole,
    check_parameter,
)

FAMILIES = [get_family(name) for name in available_families()]
SEARCHES = {
    type(make()).__name__: type(make()) for family in FAMILIES for make in family.searches.values()
}
PARTS = [Retraining, Split, *map(type, FAMILIES), *SEARCHES.values()]
DOCUMENTED = [SupernetTransferClassifier, *PARTS]


def described(cls):
    """Type and default of each parameter, as the docstring has them."""
    sections = re.split(r"^(\w+)\n-+\n", inspect.getdoc(cls), flags=re.MULTILINE)
    text = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Parameters", "")
    found = {}
    for entry in re.findall(r"^\S.*(?:\n(?:    .*)?)*", text, flags=re.MULTILINE):
        header, _, rest = entry.partition("\n")
        names, _, kind = header.partition(" : ")
        for name in names.split(", "):
            assert name not in found, f"{name} is there twice"
            if kind:
                found[name] = kind.rpartition(", default=")[::2]
            else:
                (other,) = re.fullmatch(r"\s*Of `(\w+)`\.\s*", rest).groups()
                found[name] = described(SEARCHES[other])[name]
    return found


@pytest.mark.parametrize("cls", DOCUMENTED)
def test_the_docstring_has_every_parameter_its_constraint_and_its_default(cls):
    found = described(cls)
    defaults = cls().get_params(deep=False)
    assert found.keys() == defaults.keys()
    for name, (kind, default) in found.items():
        if name in cls.constraints:
            assert (name, kind) == (name, str(cls.constraints[name]))
        assert kind
        assert (name, ast.literal_eval(default)) == (name, defaults[name])


@pytest.mark.parametrize("cls", PARTS)
def test_every_parameter_has_a_constraint_that_its_default_keeps(cls):
    defaults = cls().get_params(deep=False)
    assert cls.constraints.keys() == defaults.keys()
    cls().check()


def test_the_classifier_constrains_its_own_parameters_and_its_defaults_keep_them():
    defaults = SupernetTransferClassifier().get_params(deep=False)
    for name, constraint in SupernetTransferClassifier.constraints.items():
        assert constraint.allows(defaults[name]), name


NUMBERS = [
    (Whole(2), [2, 3, np.int64(2), np.uint8(255), 10**400]),
    (Whole(0), [0, np.int8(0)]),
    (Whole(2, 4, even=True), [2, 4, np.int32(4)]),
    (Real(), [1e-300, 1, 0.5, 2.0**127, np.float32(0.5), np.float64(1), np.int64(1), Fraction(1)]),
    (Real(0, 1), [math.nextafter(0, 1), 0.5, math.nextafter(1, 0), np.float16(0.5)]),
    (Real(0, 1, "low"), [0, 0.0, -0.0, np.float32(0), math.nextafter(1, 0)]),
    (Real(0, 1, "high"), [1, 1.0, np.int64(1), math.nextafter(0, 1)]),
    (Real(0, 1, "both"), [0, 1, 1.0, np.int64(1)]),
]
NO_NUMBERS = [
    (Whole(2), [1, -5, 2.0, np.float64(2), "2", None, [2], np.array([2]), torch.tensor(2)]),
    (Whole(0), [-1, np.int64(-1), True, False, np.True_, 0.0, math.nan]),
    (Whole(2, 4, even=True), [3, 5, 6, 0, np.int64(3)]),
    (Real(), [0, 0.0, -1, math.nan, math.inf, 2.0**128, np.float64("nan"), "1", None, 1j, [1]]),
    (Real(), [True, np.True_, np.array([1.0, 2.0])]),
    (Real(0, 1), [0, 1, 0.0, 1.0, np.float32(1)]),
    (Real(0, 1, "low"), [-math.nextafter(0, 1), 1, 1.0, np.int64(1), False]),
    (Real(0, 1, "high"), [0, 0.0, math.nextafter(1, 2), True]),
    (Real(0, 1, "both"), [math.nextafter(1, 2), -1, True]),
    (Real(-math.inf, closed="low"), [-math.inf, -(2.0**128)]),
]


def cases(table):
    return [(constraint, value) for constraint, values in table for value in values]


@pytest.mark.parametrize(("constraint", "value"), cases(NUMBERS))
def test_allowed_numbers(constraint, value):
    assert constraint.allows(value) is True


@pytest.mark.parametrize(("constraint", "value"), cases(NO_NUMBERS))
def test_refused_numbers(constraint, value):
    assert constraint.allows(value) is False


def test_one_of_names_and_numbers():
    names, numbers = OneOf("a", "b"), OneOf(1, 2)
    assert names.allows("a")
    assert names.allows("b")
    assert not any(map(names.allows, ["A", "", None, 1, ["a"], np.array(["a", "b"])]))
    assert numbers.allows(1)
    assert numbers.allows(2)
    assert not any(map(numbers.allows, [3, 0, True, 1.0, "1", np.array([1, 2])]))


def test_instances():
    assert FLAG.allows(True)
    assert FLAG.allows(np.False_)
    assert not any(map(FLAG.allows, [0, 1, None, "True"]))
    assert NOTHING.allows(None)
    assert not any(map(NOTHING.allows, [0, False, "", "None"]))
    assert Instance(dict, "dict").allows({})
    assert not Instance(dict, "dict").allows([])


def test_any_of():
    constraint = AnyOf(Whole(1), OneOf("auto"), NOTHING)
    assert all(map(constraint.allows, [1, np.int64(7), "auto", None]))
    assert not any(map(constraint.allows, [0, "Auto", 1.5, False]))


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Whole(0), "int >= 0"),
        (Whole(1, 100), "int >= 1 and <= 100"),
        (Whole(2, 4096, even=True), "even int >= 2 and <= 4096"),
        (Real(), "float > 0"),
        (Real(0, closed="low"), "float >= 0"),
        (Real(0, 1), "float > 0 and < 1"),
        (Real(0, 1, "low"), "float >= 0 and < 1"),
        (Real(0, 1, "high"), "float > 0 and <= 1"),
        (Real(0, 0.5, "both"), "float >= 0 and <= 0.5"),
        (OneOf("auto"), '"auto"'),
        (OneOf("a", "b"), '{"a", "b"}'),
        (OneOf(1, 2), "{1, 2}"),
        (FLAG, "bool"),
        (NOTHING, "None"),
        (AnyOf(Whole(1), NOTHING), "int >= 1 or None"),
        (AnyOf(Instance(dict, "dict"), OneOf("x"), NOTHING), 'dict, "x" or None'),
    ],
)
def test_texts(constraint, text):
    assert str(constraint) == text


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_the_error_is_of_both_kinds_and_says_all(kind):
    check_parameter("Retraining", "epochs", 1, Whole(1))
    with pytest.raises(kind) as caught:
        check_parameter("Retraining", "epochs", "1", Whole(1))
    assert str(caught.value) == (
        "The 'epochs' parameter of Retraining must be int >= 1. Got '1' instead."
    )


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (Retraining(epochs=0), "'epochs' parameter of Retraining"),
        (SmoothDARTS(patience=0), "'patience' parameter of SmoothDARTS"),
        (SmoothDARTS(perturbation_radius=(0.3, -0.03)), "'perturbation_radius' parameter"),
        (Cells(init_channels=3), "'init_channels' parameter of Cells must be even int"),
    ],
)
def test_parts_check_their_parameters(part, names):
    with pytest.raises(ParameterError, match=names):
        part.check()


def test_parts_are_equal_by_class_and_parameters():
    class Other(Retraining):
        pass

    assert Retraining(epochs=3) == clone(Retraining(epochs=3))
    assert Retraining(epochs=3) != Retraining(epochs=4)
    assert Retraining() != Other()
    assert Retraining() != "Retraining"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Retraining())


def test_parts_of_parts_are_checked_too():
    class Outer(Parameters):
        def __init__(self, inner=None):
            self.inner = inner

    Outer(Retraining()).check()
    with pytest.raises(ParameterError, match="'epochs' parameter of Retraining"):
        Outer(Retraining(epochs=0)).check()
    assert Outer(Retraining()) != Outer()
    assert Outer() != Outer(Retraining())


def test_a_part_without_parameters_has_nothing_to_refuse():
    class Nothing(Parameters):
        pass

    Nothing().check()
    assert Nothing() == Nothing()
