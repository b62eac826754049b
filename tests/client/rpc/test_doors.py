"""Where the agent listens, and who may come: files' modes, tokens, what a crash leaves behind."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from client.rpc import admin
from client.rpc.agent_pb2 import Command
from client.rpc.agent_pb2_grpc import AdministratorStub
from client.rpc.doors import answers, user_id
from client.rpc.relay import ask_agent
from common.errors import SiteError, WireError
from common.wire import Envelope
from tests.client.rpc.running import LONG_S, running, short_folder

OK = Envelope({"status": "ok"})


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def answer(request: Envelope) -> Envelope:
    return OK


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_both_doors_are_the_owners_alone(folder: Path) -> None:
    with running(answer, folder):
        for name in ("relay", "admin"):
            assert mode(folder / name) == 0o700
            assert mode(folder / name / "agent.sock") == 0o600


def test_a_socket_is_closed_to_others_from_its_first_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not made open and closed afterwards: what connects in between would stay."""
    monkeypatch.setattr(Path, "chmod", lambda self, mode: None)
    before = os.umask(0)
    try:
        with running(answer, folder):
            assert mode(folder / "admin" / "agent.sock") == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_socket_left_by_a_crash_is_replaced(folder: Path) -> None:
    (folder / "relay").mkdir()
    path = folder / "relay" / "agent.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.fspath(path))
    left.listen()
    assert answers(path)
    left.close()
    assert path.exists()
    assert not answers(path)
    with running(answer, folder) as servers:
        assert ask_agent(servers.relay, Envelope({})) == OK


def test_a_second_agent_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with running(answer, folder) as servers:
        with pytest.raises(SiteError, match="an agent already runs for"), running(answer, folder):
            pass
        assert ask_agent(servers.relay, Envelope({})) == OK
        assert admin.is_running(folder)


def test_a_path_too_long_for_a_socket_is_named_with_its_remedy(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    with (
        pytest.raises(SiteError, match="too long for a Unix socket") as caught,
        running(answer, folder),
    ):
        pass
    assert "--tcp" in caught.value.remedy
    with running(answer, folder, tcp=0) as servers:
        token = (folder / "relay" / "token").read_text()
        assert ask_agent(servers.relay, Envelope({}), token=token) == OK


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
def test_on_tcp_nobody_comes_in_without_the_token(folder: Path, token: str | None) -> None:
    with running(answer, folder, tcp=0) as servers:
        assert servers.relay.startswith("127.0.0.1:")
        with pytest.raises((WireError, UnicodeEncodeError, ValueError)):
            ask_agent(servers.relay, Envelope({}), token=token)
        with grpc.insecure_channel(servers.admin) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                AdministratorStub(channel).Call(Command(), timeout=LONG_S)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_on_tcp_the_tokens_differ_are_secret_and_open_only_their_own_door(folder: Path) -> None:
    with running(answer, folder, tcp=0, perform=lambda name, values: {"did": name}) as servers:
        tokens = {name: (folder / name / "token").read_text() for name in ("relay", "admin")}
        assert tokens["relay"] != tokens["admin"]
        assert all(len(token) == 64 for token in tokens.values())
        assert {mode(folder / name / "token") for name in tokens} == {0o600}
        assert ask_agent(servers.relay, Envelope({}), token=tokens["relay"]) == OK
        with pytest.raises(WireError, match="token"):
            ask_agent(servers.relay, Envelope({}), token=tokens["admin"])
        assert admin.call(folder, "status") == {"did": "status"}
        assert admin.health(folder)["agent"] == "SERVING"
        assert admin.is_running(folder)
    assert list((folder / "relay").iterdir()) == []
    assert not admin.is_running(folder)


def test_a_port_in_use_is_named_with_its_remedy(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        in_use = pytest.raises(SiteError, match=f"127.0.0.1:{port}")
        with in_use as caught, running(answer, folder, tcp=port):
            pass
    assert "another port" in caught.value.remedy


def test_two_agents_do_not_share_a_port(folder: Path) -> None:
    """Linux lets processes share a port if both ask for it, and gRPC asks unless told not to."""
    with running(answer, folder, tcp=0) as servers, short_folder() as other:
        port = int(servers.relay.rpartition(":")[2])
        with pytest.raises(SiteError, match="cannot listen"), running(answer, other, tcp=port):
            pass


def test_an_unknown_relay_user_is_named_with_a_remedy(folder: Path) -> None:
    with (
        pytest.raises(SiteError, match="'no-such-user'") as caught,
        running(answer, folder, relay_user="no-such-user"),
    ):
        pass
    assert "useradd" in caught.value.remedy


def test_only_root_can_open_the_relays_door_to_another_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SiteError, match="only root"):
        user_id("root")


def test_a_door_that_is_a_link_elsewhere_is_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "relay").symlink_to("elsewhere")
    with pytest.raises(SiteError, match="not a folder of this user"), running(answer, folder):
        pass
