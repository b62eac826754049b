"""One way out: whatever a site sends passes `client.gate.release`, and a second way is noticed.

The first half lists every message that the site can send and runs it against a gate that is shut.
The second half reads the source: it names each place that makes what could leave, and each module
that could send it elsewhere. Whoever adds one has to write it down here, beside what it may send.
"""

from __future__ import annotations

import ast
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import client.agent
from client.agent import PHASES, Agent
from client.gate import Release, release
from client.policy import Reason, Refused
from client.rpc.agent_pb2 import DESCRIPTOR
from common.codec import encode
from common.models import build, params_of
from common.plan import Plan
from common.wire import Envelope
from tests.small_world import hospital, small_plan
from tests.ways_out import makers, methods, phases, senders, within

ROOT = Path(__file__).parents[2]

# What a site can send, all of it: the kinds of answer, each with what its header holds.
SENT = {
    "join": {"declared", "noise"},
    "train": set(),
    "evaluate": set(),
    "deliver": set(),
}
ALWAYS = {"status", "digest", "run", "round", "site", "epsilon", "reserves"}

# What may be made where. `Chunk` and `Result` are what travels; `Message` is Flower's.
MAKERS = {
    ("client/gate.py", "_reply", "Envelope"),  # the one door
    ("client/agent.py", "Agent.handle", "Envelope refused"),
    ("client/rpc/servicers.py", "RelayDoor._no", "Envelope refused"),
    ("client/rpc/servicers.py", "RelayDoor._answer", "Envelope empty"),  # a broken request
    ("client/rpc/chunks.py", "join", "Envelope"),  # what came in, at either side
    ("client/rpc/chunks.py", "split", "Chunk"),  # an envelope, whole
    ("client/rpc/servicers.py", "AdministratorDoor.Call", "Result"),  # to the site's own user
    ("client/rpc/admin.py", "call", "Command"),
    ("client/app.py", "forward", "Message"),  # the relay's, who has nothing else to send
}

# Which modules hold what can reach another process or machine.
SENDERS = {
    "client/app.py": {"flwr"},
    "client/agent.py": {"flwr"},  # the context of a simulation's node
    "client/transport.py": {"flwr"},
    "client/rpc/admin.py": {"grpc", "grpc_health"},
    "client/rpc/checks.py": {
        "socket",
        "ssl",
    },  # can the coordinator's server be reached? Sends nothing
    "client/rpc/doors.py": {"socket"},
    "client/rpc/health.py": {"grpc_health"},
    "client/rpc/relay.py": {"flwr", "grpc"},
    "client/rpc/server.py": {"grpc", "grpc_health"},
    "client/rpc/servicers.py": {"grpc"},
    "client/running/relay_home.py": {"subprocess"},
    "client/running/relay_host.py": {"flwr", "socket"},
    "client/running/start.py": {"socket"},
    "client/running/supernode.py": {"flwr"},
}


# What is sent, against the running code


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture
def agent(tmp_path: Path, plan: Plan) -> Iterator[Agent]:
    agent = Agent(hospital(tmp_path / "alpha", plan).folder, durable=False)
    yield agent
    agent.close()


def requests(plan: Plan) -> dict[str, Envelope]:
    """An honest request of each kind."""
    payload = encode(params_of(build(plan.study)))
    rounds = {"join": 0, "train": 1, "evaluate": 3, "deliver": 3}
    named = {"digest": plan.digest, "run": "main"}
    return {k: Envelope({**named, "kind": k, "round": n}, payload) for k, n in rounds.items()}


def test_every_kind_that_the_agent_knows_is_listed_here(plan: Plan) -> None:
    assert set(PHASES) == set(SENT) == set(requests(plan))
    functions = {name: f for name, f in vars(Agent).items() if inspect.isfunction(f)}
    asked_for = {n for n, f in functions.items() if f.__annotations__.get("return") == "Release"}
    assert asked_for == {f"_{kind}" for kind in SENT}


@pytest.mark.parametrize("kind", PHASES)
def test_each_kind_passes_the_gate(
    agent: Agent, plan: Plan, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[Envelope] = []

    def watched(asked: Release, **rest: Any) -> Envelope:
        assert asked.key.phase == kind
        passed.append(release(asked, **rest))
        return passed[-1]

    monkeypatch.setattr(client.agent, "release", watched)
    answer = agent.handle(requests(plan)[kind])
    assert answer is passed[0]  # not a copy that somebody added to
    assert answer.header["status"] == "ok"
    assert set(answer.header) == ALWAYS | SENT[kind]


@pytest.mark.parametrize("kind", PHASES)
def test_nothing_but_a_refusal_leaves_while_the_gate_is_shut(
    agent: Agent, plan: Plan, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut(*_: Any, **__: Any) -> Envelope:
        raise Refused(Reason.PAUSED)

    monkeypatch.setattr(client.agent, "release", shut)
    told = {"status": "refused", "reason": str(Reason.PAUSED), "site": "alpha"}
    assert agent.handle(requests(plan)[kind]) == Envelope(told)


def test_the_relay_is_answered_at_one_method_and_by_chunks_alone() -> None:
    methods = {
        (service.name, method.name): method.output_type.name
        for service in DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == {("Relay", "Ask"): "Chunk", ("Administrator", "Call"): "Result"}


# What the source could send


def assert_one_door(root: Path) -> None:
    """Hold a tree's source to the lists above."""
    assert makers(root) == MAKERS
    assert senders(root) == SENDERS
    assert methods(root) == ["Ask", "Call"]
    assert phases(root) == set(SENT)


def test_the_source_has_one_door() -> None:
    assert_one_door(ROOT)


def test_the_door_hands_out_what_its_handler_said_and_no_more() -> None:
    """`RelayDoor` answers with what the agent gave, or with its own refusal: nothing is added."""
    door = within(ROOT, "client/rpc/servicers.py", "Ask")
    sent = [ast.unparse(n) for n in ast.walk(door) if isinstance(n, ast.YieldFrom | ast.Yield)]
    assert sent == ["(yield from split(answer))"]
    agent = within(ROOT, "client/agent.py", "_answer")
    returned = [ast.unparse(n) for n in ast.walk(agent) if isinstance(n, ast.Return)]
    assert [text.partition("(")[0] for text in returned] == ["return release"]


# Each is a second way out, planted in a copy: (file, before, after).
PLANTS = {
    "an answer of its own": (
        "client/agent.py",
        "        key, policy = _key(request), self._policy()\n",
        "        if request.header.get('kind') == 'peek':\n"
        "            return Envelope({'status': 'ok', 'site': 'x'}, b'patients')\n",
    ),
    "a refusal that says more": (
        "client/agent.py",
        '"reason": str(reason.told), "site": site}',
        '"reason": str(reason.told), "site": site, "patients": 7}',
    ),
    "under another name": (
        "client/agent.py",
        "from common.wire import Envelope\n",
        "from common.wire import Envelope\nfrom common.wire import Envelope as Note\n"
        "def note(): return Note({'status': 'ok'}, b'patients')\n",
    ),
    "by its module": (
        "client/warm.py",
        "import torch\n",
        "import torch\nimport common.wire\n"
        "def note(): return common.wire.Envelope({'status': 'ok'}, b'patients')\n",
    ),
    "by another variable": (
        "client/agent.py",
        'PHASES = ("join"',
        'make = Envelope\nPHASES = ("join"',
    ),
    "an answer changed afterwards": (
        "client/rpc/servicers.py",
        "            answer = self._handler(request)\n",
        "            answer = replace(self._handler(request), payload=b'patients')\n",
    ),
    "a second chunk": (
        "client/rpc/servicers.py",
        "                yield from split(answer)\n",
        "                yield from split(answer)\n                yield Chunk(data=b'patients')\n",
    ),
    "another method": (
        "client/rpc/agent.proto",
        "service Relay {",
        "service Relay {\n  rpc Peek(Chunk) returns (Chunk);",
    ),
    "a socket": ("client/patients/manifest.py", "from pathlib", "import socket\nfrom pathlib"),
    "the web": (
        "client/patients/uses.py",
        "from typing",
        "from urllib.request import urlopen\nfrom typing",
    ),
    "another kind": ("client/agent.py", 'PHASES = ("join"', 'PHASES = ("peek", "join"'),
    "a shell": (
        "client/site.py",
        "import logging\n",
        "import logging\nimport os\nos.system('x')\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("file", "before", "after"), PLANTS.values(), ids=PLANTS.keys())
def test_a_second_way_out_is_noticed(tmp_path: Path, file: str, before: str, after: str) -> None:
    shutil.copytree(ROOT / "client", tmp_path / "client")
    assert_one_door(tmp_path)
    planted = tmp_path / file
    text = planted.read_text(encoding="utf-8")
    assert before in text
    planted.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_one_door(tmp_path)
