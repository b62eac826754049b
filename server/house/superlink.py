"""A SuperLink as its clients see it: whether it answers, nodes, an app handed over, a run."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from common.errors import EngineError
from common.running.processes import command_line, flower_environment
from server.house.bundle import Scalar
from server.house.home import Home, prepare_scratch

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import RunStatus

_CONNECTION = "grandrounds"
_SUBMIT_S = 60.0
_KEY_IN_USE = "public key already in use"


class KeyInUseError(EngineError):
    """The SuperLink knows this public key already, perhaps as one that was withdrawn."""


@dataclass(frozen=True)
class Node:
    """A hospital's node as the SuperLink knows it.

    Attributes:
        status: registered (never seen), online, offline or unregistered.
        since: When that began, as ISO 8601.
    """

    id: int
    name: str
    public_key: bytes
    status: str
    since: str


@dataclass(frozen=True)
class SuperLink:
    """Flower's Control API, which knows no passwords: reach it on this machine only.

    Attributes:
        url: Where it is, without a path.
        ca: The certificate of the authority that it must show; None for plain HTTP.
    """

    url: str
    ca: Path | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.partition("://")[2]

    def answers(self) -> bool:
        """Say whether it is up."""
        try:
            with self._opener.open(f"{self.url}/health", timeout=2):
                return True
        except OSError:
            return False

    def run_status(self, run_id: int) -> RunStatus:
        """Ask how a run is doing (`flwr list` takes a second).

        Raises:
            KeyError: The SuperLink knows no such run.
            OSError: It does not answer.
        """
        # Imported here: whoever runs nothing on Flower need not wait for it.
        from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse

        runs = self._call("list-runs", ListRunsRequest(run_id=run_id), ListRunsResponse).run_dict
        if run_id not in runs:  # a map of messages would make one
            raise KeyError(run_id)
        status: RunStatus = runs[run_id].status
        return status

    def stop_run(self, run_id: int) -> None:
        """Stop a run.

        Raises:
            KeyError: The SuperLink knows no such run.
            OSError: It does not answer, or the run is over.
        """
        from flwr.proto.control_pb2 import StopRunRequest, StopRunResponse

        self._call("stop-run", StopRunRequest(run_id=run_id), StopRunResponse)

    def register(self, public_key: bytes, name: str) -> int:
        """Let a node in.

        Args:
            public_key: PEM, as `SubjectPublicKeyInfo`.
            name: What the SuperLink calls it.

        Returns:
            The node's id.

        Raises:
            KeyInUseError: The SuperLink knows the key already.
            OSError: It does not answer.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest, RegisterNodeResponse

        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self._call("register-node", request, RegisterNodeResponse).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a node out for good: its key cannot be registered again.

        Raises:
            KeyError: The SuperLink knows no such node.
            OSError: It does not answer.
        """
        from flwr.proto.control_pb2 import UnregisterNodeRequest, UnregisterNodeResponse

        self._call(
            "unregister-node", UnregisterNodeRequest(node_id=node_id), UnregisterNodeResponse
        )

    def nodes(self) -> list[Node]:
        """Return all nodes, those shut out included.

        Raises:
            OSError: The SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse

        found = self._call("list-nodes", ListNodesRequest(), ListNodesResponse).nodes_info
        return [
            Node(info.node_id, info.name, info.public_key, info.status, _since(info))
            for info in found
        ]

    def _call(self, action: str, request: Any, response: Any) -> Any:
        """Send one message to the Control API and return its answer."""
        headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
        data = request.SerializeToString()
        url = f"{self.url}/v1/control/{action}"
        try:
            sent = urllib.request.Request(url, data=data, headers=headers)
            with self._opener.open(sent, timeout=30) as reply:
                return response.FromString(reply.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            if _KEY_IN_USE in said.lower():
                raise KeyInUseError(
                    "the SuperLink knows this public key already",
                    remedy="make new keys at the site",
                ) from None
            if error.code == HTTPStatus.NOT_FOUND:
                raise KeyError(said) from None
            raise OSError(f"the SuperLink refused {action} ({error.code}): {said}") from error

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        # The machine's proxy does not know the way to its own loopback interface.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.ca is not None:
            context = ssl.create_default_context(cafile=str(self.ca))
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)


def _since(info: Any) -> str:
    match info.status:
        case "online":
            return str(info.last_activated_at)
        case "offline":
            return str(info.last_deactivated_at)
        case "unregistered":
            return str(info.unregistered_at)
    return str(info.registered_at)


def write_connection(home: Path, link: SuperLink) -> None:
    """Write Flower's settings, so that `flwr run` finds the SuperLink.

    Args:
        home: The folder that FLWR_HOME will name.
        link: The SuperLink.
    """
    here: dict[str, object] = {"address": link.address}
    here |= {"root-certificates": str(link.ca)} if link.ca else {"insecure": True}
    settings = {"superlink": {"default": _CONNECTION, _CONNECTION: here}}
    (home / "config.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")


def submit(home: Home, app_dir: Path, run_config: Mapping[str, Scalar]) -> int:
    """Hand an app to a coordinator's SuperLink; return the Flower run's id.

    Raises:
        EngineError: Flower refuses the app, or no SuperLink answers.
    """
    link = require(home)
    prepare_scratch(home)
    write_connection(home.scratch / "home", link)
    environment = flower_environment(home.scratch)
    return hand_over(app_dir, run_config, scratch=home.scratch, environment=environment)


def run_status(home: Home, run_id: int) -> RunStatus:
    """Ask a coordinator's SuperLink how a Flower run is doing.

    Raises:
        KeyError: It knows no such run.
        OSError: It does not answer.
    """
    return of(home).run_status(run_id)


def of(home: Home) -> SuperLink:
    """Return a coordinator's own SuperLink."""
    return SuperLink(home.url, home.ca)


def require(home: Home) -> SuperLink:
    """Return a coordinator's own SuperLink, which answers.

    Raises:
        EngineError: it does not.
    """
    link = of(home)
    if not link.answers():
        raise EngineError(
            f"no SuperLink answers at {link.address}",
            remedy=f"start it with grandrounds server start {home.folder}",
        )
    return link


def hand_over(
    app_dir: Path,
    run_config: Mapping[str, Scalar],
    *,
    scratch: Path,
    environment: Mapping[str, str],
    options: Sequence[str] = (),
) -> int:
    """Hand an app to the SuperLink with `flwr run`; return the run's id.

    Args:
        app_dir: The app's directory.
        run_config: Overrides of the app's run configuration, by key.
        scratch: Takes the run configuration; its `empty` folder is the working directory.
        environment: Of the command; its FLWR_HOME holds what `write_connection` wrote.
        options: More options of `flwr run`.

    Returns:
        The run's id.

    Raises:
        EngineError: Flower refuses the app or does not answer.
    """
    # A file, because the command line's own syntax knows no quotes within quotes.
    config = scratch / "run-config.toml"
    config.write_text(tomli_w.dumps(dict(run_config)), encoding="utf-8")
    command = [*command_line("flwr.cli.app", "app", watch=False), "run", str(app_dir.resolve())]
    try:
        done = subprocess.run(
            [*command, _CONNECTION, *options, "--run-config", str(config), "--format", "json"],
            cwd=scratch / "empty",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SUBMIT_S,
            check=False,
        )
        said = f"{done.stdout.strip()} {done.stderr.strip()}"
        with suppress(ValueError, KeyError, TypeError):
            return int(json.loads(done.stdout[done.stdout.index("{") :])["run-id"])
    except subprocess.TimeoutExpired:
        said = f"no answer within {_SUBMIT_S:.0f} s"
    raise EngineError(f"flwr run refused the app: {said}", remedy=f"check the app in {app_dir}")
