"""Tables of a TOML file as frozen values: what they share, how they are read, how they complain."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import StudyError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


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


def explain(error: ValidationError, origin: str) -> StudyError:
    """Turn pydantic's report into one message: the field, the value, the remedy."""
    first, *rest = error.errors(include_url=False)
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        message, remedy = f"unknown key {field!r}", "remove it, or check its spelling and its table"
    elif first["type"] == "missing":
        message, remedy = f"{field!r} is missing", "add it"
    elif first["type"] == "value_error":
        message, remedy = f"{field}: {first['ctx']['error']}", "mend that table"
    else:
        message = f"{field} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
        remedy = "give a value within those bounds"
    return StudyError(f"{origin}: {message}{more}", remedy=remedy)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value
