"""Tables of a TOML file: how they are read, written and how they complain."""

import tomllib
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from common.errors import StudyError
from common.schema import Count, Fraction, Name, Positive, Table, dump_toml, explain, read_toml


class Inner(Table):
    kind: Literal["a", "b"] = "a"
    rate: Fraction = 1.0
    pair: tuple[float, float] = (0.0, 1.0)


class Outer(Table):
    name: Name
    count: Count = 1
    step: Positive = 1.0
    bins: Annotated[int, Field(multiple_of=2)] = 2
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    named: dict[Name, Inner] = Field(default_factory=dict)


def complaint(**values):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"name": "x", **values})
    return explain(caught.value, "file.toml")


# What is wrong, the message as a user reads it, and what the remedy says.
CASES = {
    "unknown key": ({"inner": {"rat": 1}}, "unknown key 'inner.rat'", "spelling"),
    "too small": ({"count": 0}, "count is 0: it should be greater than or equal to 1", "bounds"),
    "too large": ({"inner": {"rate": 1.5}}, "inner.rate is 1.5: it should be less", "bounds"),
    "not finite": ({"step": float("inf")}, "step is inf: it should be a finite number", "bounds"),
    "nan": ({"step": float("nan")}, "step is nan: it should be a finite number", "bounds"),
    "a text": ({"count": "six"}, "count is 'six': it should be a valid integer", "kind"),
    "a text of digits": ({"count": "6"}, "count is '6': it should be a valid integer", "kind"),
    "a truth": ({"step": True}, "step is True: it should be a valid number", "kind"),
    "no whole number": ({"count": 1.5}, "count is 1.5: it should be a valid integer", "kind"),
    "none of a few": ({"inner": {"kind": "c"}}, "inner.kind is 'c': it should be 'a' or", "one"),
    "no table": ({"inner": [1]}, "inner is [1]: it should be a table", "kind"),
    "no list": ({"items": {"a": 1}}, "items is {'a': 1}: it should be a valid list", "kind"),
    "no plain name": ({"name": "My Study"}, "name is 'My Study': it is not a plain name", "a-z"),
    "an odd number": ({"bins": 3}, "bins is 3: it should be a multiple of 2", "bounds"),
    "in the third of a list": (
        {"items": [{}, {}, {"rate": 0}]},
        "items (entry 3).rate is 0: it should be greater than 0",
        "bounds",
    ),
    "in a pair": ({"inner": {"pair": [0, "x"]}}, "inner.pair (entry 2) is 'x'", "kind"),
    "under a name": ({"named": {"A b": {}}}, "named.A b is 'A b': it is not a plain name", "a-z"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_complaint_names_the_file_the_field_the_value_and_the_remedy(case):
    values, message, remedy = CASES[case]
    found = complaint(**values)
    assert found.message.startswith(f"file.toml: {message}")
    assert remedy in found.remedy
    assert "\n" not in found.message


def test_a_missing_key_says_where_it_belongs():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({})
    assert str(explain(caught.value, "f")) == "f: 'name' is missing\n  remedy: add it to the file"


def test_a_misspelt_required_key_is_shown_as_unknown_rather_than_missing():
    # Broken once: pydantic lists 'name is missing' first, and the user adds it a second time.
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"nmae": "x"})
    assert explain(caught.value, "f").message == "f: unknown key 'nmae' (and 1 more)"


def test_a_long_value_is_shortened():
    assert len(complaint(count="x" * 10_000).message) < 200


def test_a_table_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Outer(name="x").count = 2


def test_dumped_values_read_back_the_same_to_the_last_bit():
    values = {"a": 0.1 + 0.2, "b": 3e-4, "c": [1, 2.5, "é\n"], "d": {"e": True}, "f": [{"g": 1}]}
    assert tomllib.loads(dump_toml(values)) == values


def test_none_is_left_out_at_every_depth():
    values = {"a": None, "b": {"c": None, "d": 1}, "e": ({"f": None, "g": 2},)}
    assert tomllib.loads(dump_toml(values)) == {"b": {"d": 1}, "e": [{"g": 2}]}


def test_a_file_that_cannot_be_read_says_which_and_why(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[a]\nb = \n")
    latin = tmp_path / "latin.toml"
    latin.write_bytes("a = 'ö'".encode("latin-1"))
    cases = [
        (tmp_path / "none.toml", "study file '.*none.toml' does not exist", "path"),
        (tmp_path, "study file '.*' cannot be read: .*directory", "readable TOML"),
        (broken, "study file '.*broken.toml' is not TOML: .*line 2", "mend that line"),
        (latin, "study file '.*latin.toml' cannot be read: .*utf-8", "readable TOML"),
    ]
    for path, message, remedy in cases:
        with pytest.raises(StudyError, match=message) as caught:
            read_toml(path, what="study")
        assert remedy in caught.value.remedy
