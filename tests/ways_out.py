"""Reads a site's source for whatever could leave by it: what is made to travel, and by what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SENDING = {
    *("flwr", "grpc", "grpc_health", "socket", "ssl", "asyncio", "subprocess", "multiprocessing"),
    *("http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "smtplib", "ftplib", "xmlrpc"),
    *("socketserver", "telnetlib", "websockets", "paramiko", "zmq", "ctypes"),
}
_TRAVELLING = {"Envelope", "Chunk", "Result", "Command", "Message"}


class _Makers(ast.NodeVisitor):
    """Every place in a module that makes, or changes, what could leave."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: set[tuple[str, str, str]] = set()
        self._where: list[str] = []
        self._names = {name: name for name in _TRAVELLING}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for one in node.names:
            if one.name in _TRAVELLING and one.asname:
                self._names[one.asname] = one.name

    def visit_Assign(self, node: ast.Assign) -> None:
        # `make = Envelope` would hide a call.
        if isinstance(node.value, ast.Name | ast.Attribute) and _name(node.value) in self._names:
            self._add(f"alias of {_name(node.value)}")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._within(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._within(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._names.get(_name(node.func))
        if name == "Envelope":
            self._add(f"Envelope{_kind_of(node)}")
        elif name is not None:
            self._add(name)
        elif {k.arg for k in node.keywords} & {"payload", "header"} and "replace" in _name(
            node.func
        ):
            self._add("replace")
        self.generic_visit(node)

    def _within(self, node: Any) -> None:
        self._where.append(node.name)
        self.generic_visit(node)
        self._where.pop()

    def _add(self, what: str) -> None:
        # A function within a function is that function's.
        self.found.add((self.file, ".".join(self._where[:2]), what))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _kind_of(call: ast.Call) -> str:
    """Tell a refusal, which holds a reason and the site's name, from an answer."""
    if len(call.args) != 1 or call.keywords or not isinstance(call.args[0], ast.Dict):
        return ""
    header = call.args[0]
    if not header.keys:
        return " empty"
    literal = {
        k.value: v for k, v in zip(header.keys, header.values, strict=True)
        if isinstance(k, ast.Constant)
    }  # fmt: skip
    status = literal.get("status")
    is_refusal = isinstance(status, ast.Constant) and status.value == "refused"
    names = {"status", "reason", "site"}
    return " refused" if is_refusal and set(literal) == names and len(header.keys) == 3 else ""


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((root / "client").rglob("*.py")):
        if not path.stem.endswith(("_pb2", "_pb2_grpc")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def makers(root: Path) -> set[tuple[str, str, str]]:
    """Return (file, function, what) of all that could leave."""
    found = set()
    for file, tree in sources(root):
        visitor = _Makers(file)
        visitor.visit(tree)
        found |= visitor.found
    return found


def senders(root: Path) -> dict[str, set[str]]:
    """Return, for each module, what it uses that reaches beyond its process."""
    found = {file: set(_reaching(tree)) for file, tree in sources(root)}
    return {file: names for file, names in found.items() if names}


def _reaching(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [one.name.partition(".")[0] for one in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [(node.module or "").partition(".")[0]]
        elif isinstance(node, ast.Attribute) and _name(node.value) == "os":
            names = (
                [node.attr] if re.match("system$|popen$|exec|spawn|posix_spawn", node.attr) else []
            )
            yield from (f"os.{name}" for name in names)
        elif isinstance(node, ast.Name | ast.Attribute):
            names = [_name(node)]
        yield from (name for name in names if name in _SENDING)


def methods(root: Path) -> list[str]:
    """Return the methods of the agent's interface."""
    return re.findall(r"^ *rpc (\w+)", (root / "client/rpc/agent.proto").read_text(), re.MULTILINE)


def phases(root: Path) -> set[str]:
    """Return the kinds of request that the agent's source knows."""
    tree = dict(sources(root))["client/agent.py"]
    [kinds] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PHASES"
    ]
    return set(kinds)


def within(root: Path, file: str, function: str) -> ast.AST:
    """Return a function of a module."""
    tree = dict(sources(root))[file]
    return next(node for node in ast.walk(tree) if getattr(node, "name", "") == function)
