"""The generated stubs say what the interface says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from client.rpc import agent_pb2, agent_pb2_grpc

ROOT = Path(__file__).parents[3]
PROTO = "client/rpc/agent.proto"


def committed() -> FileDescriptorProto:
    described = FileDescriptorProto()
    agent_pb2.DESCRIPTOR.CopyToProto(described)
    return described


def test_the_stubs_are_those_of_the_interface(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (the extra 'dev')")
    made = tmp_path / "agent.binpb"
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc"),
            *("-I", str(ROOT), f"--descriptor_set_out={made}", PROTO),
        ],
        cwd=ROOT,
        check=True,
    )
    [described] = FileDescriptorSet.FromString(made.read_bytes()).file
    for one in (described, expected := committed()):
        for message in one.message_type:
            for field in message.field:
                field.ClearField("json_name")  # some versions write out what is the default
    assert described == expected


def test_the_interface_names_what_the_stubs_have() -> None:
    """The same without the compiler, as far as names and numbers go."""
    text = re.sub(r"//.*", "", (ROOT / PROTO).read_text())
    fields = {
        name: {f: int(n) for f, n in re.findall(r"(\w+) = (\d+);", body)}
        for name, body in re.findall(r"message (\w+) {(.*?)}", text, re.DOTALL)
    }
    methods = {
        name: re.findall(r"rpc (\w+)", body)
        for name, body in re.findall(r"service (\w+) {(.*?)\n}", text, re.DOTALL)
    }
    described = committed()
    assert fields == {m.name: {f.name: f.number for f in m.field} for m in described.message_type}
    assert methods == {s.name: [m.name for m in s.method] for s in described.service}
    assert all(hasattr(agent_pb2_grpc, f"{name}Servicer") for name in methods)


def test_the_stubs_work_with_every_version_that_is_allowed() -> None:
    """Older code works with newer libraries, not the reverse, and Flower allows older ones."""
    text = (ROOT / "client/rpc/agent_pb2.py").read_text()
    assert "# Protobuf Python Version: 5." in text
    assert agent_pb2_grpc.GRPC_GENERATED_VERSION == "1.70.0"


def test_the_relay_can_only_ask() -> None:
    services = {s.name: [m.name for m in s.method] for s in committed().service}
    assert services == {"Relay": ["Ask"], "Administrator": ["Call"]}
