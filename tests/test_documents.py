"""What the documents say of commands, files and keys is so."""

from __future__ import annotations

import re
import shlex
import tomllib

import click
import pytest

from client.policy import Policy
from common.cli import build_root
from tests.documents import DOCUMENTS, ROOT, blocks, commands, named, section

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def root() -> click.Group:
    return build_root()


def every_command(group: click.Group, *before: str) -> dict[tuple[str, ...], click.Command]:
    """Return every command of a group, by its words."""
    found = {}
    for name, command in group.commands.items():
        words = (*before, name)
        found |= every_command(command, *words) if isinstance(command, click.Group) else {
            words: command
        }  # fmt: skip
    return found


def documented() -> list[tuple[str, str]]:
    """Return (document, command line) for all that the documents tell a reader to type."""
    texts = [(path.name, path.read_text(encoding="utf-8")) for path in DOCUMENTS]
    return [(name, line) for name, text in texts for line in [*commands(text), *named(text)]]


def test_the_documents_name_commands_and_options_that_exist(root):
    lines = documented()
    assert len(lines) >= 60
    known = every_command(root)
    for document, line in lines:
        where = f"{document}: grandrounds {line}"
        words = shlex.split(line)
        name = tuple(words[: 1 if (words[0],) in known else 2])
        if name == ("--version",):
            continue
        assert name in known, where
        options = {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in options, where


def test_every_command_of_a_hospital_and_of_the_coordinator_is_in_the_readme(root):
    known = {words for words in every_command(root) if words[0] in ("site", "server")}
    text = section(README, "Real hospitals")
    assert known <= {tuple(line.split()[:2]) for line in named(text)}


def test_every_command_has_help_with_an_example(root):
    for words, command in every_command(root).items():
        name = " ".join(words)
        assert command.help, name
        assert f"Example: grandrounds {name} " in f"{command.epilog} ", name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


def test_the_readme_explains_every_key_of_the_policy():
    (text,) = blocks(section(README, "Real hospitals"), "toml")
    values = tomllib.loads(text)
    Policy.model_validate(values)
    unset = set(re.findall(r"^# (\w+) = ", text, flags=re.MULTILINE))
    assert {*values, *unset} == set(Policy.model_fields)
    assert unset == {"noise_seed"}


def test_links_between_documents_lead_somewhere():
    for path in (*DOCUMENTS, ROOT / "ARCHITECTURE.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"
