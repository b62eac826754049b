"""The documents as tests read them: blocks of commands, and the commands that prose names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """Return what stands under a heading of the second level."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [part for part in parts if part.startswith(f"{heading}\n")]
    return found


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [body for name, body in _FENCE.findall(text) if name == language]


def commands(text: str) -> list[str]:
    """Return every command line of grandrounds, in blocks and in prose, without the program."""
    lines = text.replace("\\\n", " ")
    found = re.findall(r"^\s*grandrounds (.*?)(?:  +#.*)?$", lines, flags=re.MULTILINE)
    return [*found, *re.findall(r"`grandrounds\s+([^`]+)`", text)]


def named(text: str) -> list[str]:
    """Return what prose and tables name as a command of a group: `site check DIR`."""
    return re.findall(r"`((?:site|server) [^`]+)`", text)
