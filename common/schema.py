"""Tables of a TOML file as frozen values: what they share, how they are read, how they complain."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import StudyError

_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=_NAME)]
Fraction = Annotated[float, Field(gt=0, le=1, strict=True)]  # strict: `true` and "1" are mistakes
Positive = Annotated[float, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
MOST_PATIENTS = 10**9
Declared = Annotated[int, Field(ge=1, le=MOST_PATIENTS, strict=True)]


class Table(BaseModel):
    """A table of a file: frozen, and a key it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_toml(path: Path, *, what: str) -> dict[str, Any]:
    """Read a TOML file, or say what is wrong with it.

    Args:
        path: The file.
        what: What the file is, for the message: "study", "cohort".

    Raises:
        StudyError: the file is missing, unreadable or malformed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(
            f"{what} file {str(path)!r} does not exist", remedy="check the path"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{what} file {str(path)!r} cannot be read: {error}",
            remedy="give the path of a readable TOML file",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(
            f"{what} file {str(path)!r} is not TOML: {error}", remedy="mend that line"
        ) from None


def dump_toml(values: Any) -> str:
    """Return plain values as TOML; what is None is left out, as TOML has no such value.

    >>> print(dump_toml({"a": 1, "b": None}), end="")
    a = 1
    """
    return tomli_w.dumps(_without_none(values))


def explain(
    error: ValidationError, origin: str, *, reasons: Mapping[str, str] | None = None
) -> StudyError:
    """Turn pydantic's report into one message: the field, the value, the remedy.

    Args:
        error: The report.
        origin: Which file or option it is about.
        reasons: Why there is no such key, for those that people look for.
    """
    found = error.errors(include_url=False)
    found.sort(key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key also reads as missing
    first = found[0]
    field = _place(first["loc"])
    others = {_place(e["loc"]) for e in found} - {field}
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        message, remedy = f"unknown key {field!r}", "remove it, or check its spelling and its table"
        why = (reasons or {}).get(str(first["loc"][-1]))
        message, remedy = (f"{message}: {why}", "remove it") if why else (message, remedy)
    elif first["type"] == "missing":
        message, remedy = f"{field!r} is missing", f"add it to {_place(first['loc'][:-1])}"
    elif first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        message, remedy = _of_kind(field, first["ctx"])
    elif first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] != _NAME:
        message = f"{field} is {_short.repr(first['input'])}: it is malformed"
        remedy = f"give what fits {first['ctx']['pattern']}"
    elif first["type"] == "value_error":
        message, remedy = f"{field}: {first['ctx']['error']}", f"mend {field}"
    else:
        message = f"{field} is {_short.repr(first['input'])}: {_plain(first['msg'])}"
        remedy = _REMEDIES.get(first["type"], "give a value within those bounds")
    return StudyError(f"{origin}: {message}{more}", remedy=remedy)


def _of_kind(field: str, context: dict[str, str]) -> tuple[str, str]:
    """Say which kinds of table there may be, where one says another or none."""
    key = context["discriminator"].strip("'")
    if "tag" not in context:
        return f"'{field}.{key}' is missing", f"say the {key} of {field}"
    kinds = context["expected_tags"].replace(", ", " or ")
    return f"{field}.{key} is {context['tag']!r}: it should be {kinds}", "use one of those"


_REMEDIES = {
    "string_pattern_mismatch": "use up to 64 of a-z, 0-9, '-' and '_', a letter or digit first",
    "literal_error": "use one of those",
    **dict.fromkeys(
        [
            "int_type",
            "int_from_float",
            "int_parsing",
            "float_type",
            "float_parsing",
            "string_type",
            "bool_type",
            "bool_parsing",
            "model_type",
            "dict_type",
            "tuple_type",
            "path_type",
        ],
        "give a value of that kind",
    ),
}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def _place(location: tuple[int | str, ...]) -> str:
    """Return where in the file, counting the entries of a list from 1."""
    parts = [p for p in location if p != "[key]"]
    texts = [f" (entry {p + 1})" if isinstance(p, int) else f".{p}" for p in parts]
    return "".join(texts).removeprefix(".") or "the file"


def _plain(text: str) -> str:
    """Return pydantic's sentence in the words of TOML."""
    text = text[0].lower() + text[1:]
    if text.startswith("string should match pattern"):
        return "it is not a plain name"
    text = text.partition(" or instance of ")[0].replace("input should", "it should")
    return text.replace("valid dictionary", "table").replace("tuple", "list")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value
