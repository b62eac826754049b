"""The Flower engine: a whole run on Ray, its failures, and that nothing outlives it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import EngineError
from simulations.flower_engine import FlowerRuntime

PYPROJECT = """
[project]
name = "dummy"
version = "1.0.0"
description = "a test"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "grandrounds"
fab-include = ["dummy/**/*.py"]
[tool.flwr.app.components]
serverapp = "dummy.server:app"
clientapp = "dummy.client:app"
[tool.flwr.app.config]
out = ""
text = ""
fail = false
"""

SERVER = """
import json, time
from pathlib import Path
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()
BLOB = bytes(range(256)) + b"\\x00\\xff" * 3

def ask(grid, nodes, round_):
    messages = []
    for node in nodes:
        array = Array(dtype="uint8", shape=(len(BLOB),), stype="safetensors", data=BLOB)
        config = ConfigRecord({"bytes": BLOB, "float": 0.1, "text": "é", "round": round_})
        content = RecordDict({"arrays": ArrayRecord({"weights": array}), "config": config})
        messages.append(Message(content, dst_node_id=node, message_type="train.step"))
    waiting, replies = set(grid.push_messages(messages)), []
    while waiting:
        new = list(grid.pull_messages(waiting))
        waiting -= {reply.metadata.reply_to_message_id for reply in new}
        replies += new
        time.sleep(0.05)
    return replies

def describe(reply):
    if reply.has_error():
        return {"error": reply.error.code, "node": reply.metadata.src_node_id}
    array, config = reply.content["arrays"]["weights"], reply.content["config"]
    intact = (array.data, array.dtype, tuple(array.shape), array.stype) == (
        BLOB, "uint8", (len(BLOB),), "safetensors")
    intact = intact and (config["bytes"], config["float"], config["text"]) == (BLOB, 0.1, "é")
    return {"intact": intact, "node": reply.metadata.src_node_id} | json.loads(config["about"])

@app.main()
def main(grid, context):
    if context.run_config["fail"]:
        raise ValueError("the server is broken on purpose")
    while len(nodes := list(grid.get_node_ids())) < 4:
        time.sleep(0.01)
    print("the server speaks")
    rounds = [[describe(reply) for reply in ask(grid, nodes, r)] for r in range(3)]
    result = {"rounds": rounds, "nodes": nodes, "file": __file__, "hash": grid.run.fab_hash,
              "text": context.run_config["text"]}
    Path(context.run_config["out"]).write_text(json.dumps(result))
"""

CLIENT = """
import json
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train("step")
def step(message, context):
    config, part = message.content["config"], context.node_config["partition-id"]
    if config["round"] == 2 and part == 1:
        raise RuntimeError("client 1 is broken on purpose")
    about = {"part": part, "parts": context.node_config["num-partitions"], "file": __file__}
    record = ConfigRecord({**config, "about": json.dumps(about)})
    content = RecordDict({"arrays": message.content["arrays"], "config": record})
    return Message(content, reply_to=message)
"""


def living(group: int) -> list[str]:
    """Command lines of a process group's members; a container without init keeps dead ones."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def survivors(group: int) -> list[str]:
    """What is left of a group that was killed; the kernel is given ten seconds."""
    end = time.monotonic() + 10
    while (left := living(group)) and time.monotonic() < end:
        pass
    return left


def write_dummy(folder: Path) -> Path:
    (folder / "dummy").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "dummy" / "__init__.py").write_text("")
    (folder / "dummy" / "server.py").write_text(SERVER)
    (folder / "dummy" / "client.py").write_text(CLIENT)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the app, while the working directory holds a package of the same name."""
    place = tmp_path_factory.mktemp("flower")
    write_dummy(place / "app")
    for decoy in (place / "decoy" / "dummy" / name for name in ("__init__", "server", "client")):
        decoy.parent.mkdir(parents=True, exist_ok=True)
        decoy.with_suffix(".py").write_text("raise ImportError('the decoy was imported')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "decoy")
        yield place


@pytest.mark.slow
def test_one_runtime_carries_a_run_and_a_failing_run_and_leaves_no_process(place: Path) -> None:
    lines: list[str] = []
    out = place / "out.json"
    text = """quotes " and ' and \\, é, = and
    a second line"""
    with FlowerRuntime(place / "scratch", cpus=2) as runtime:
        runtime.start()
        group = runtime.process_group
        assert group is not None
        assert living(group)
        config: dict[str, str | bool] = {"out": str(out), "text": text}
        runtime.run(
            app_dir=place / "app",
            run_config=config,
            num_nodes=4,
            timeout_s=120,
            on_log=lines.append,
        )
        with pytest.raises(EngineError, match="the server is broken on purpose"):
            runtime.run(
                app_dir=place / "app", run_config={"fail": True}, num_nodes=1, timeout_s=120
            )
        assert runtime.process_group == group
    assert survivors(group) == []
    assert runtime.process_group is None

    assert "the server speaks" in lines
    result = json.loads(out.read_text())
    assert result["text"] == text
    assert len(result["hash"]) == 64
    bundle = (runtime.home / "apps").resolve()
    assert bundle in Path(result["file"]).parents
    for replies in result["rounds"][:2]:
        assert sorted(reply["node"] for reply in replies) == sorted(result["nodes"])
        assert sorted(reply["part"] for reply in replies) == [0, 1, 2, 3]
        assert all(reply["intact"] and reply["parts"] == 4 for reply in replies)
        assert all(bundle in Path(reply["file"]).parents for reply in replies)
    # A client that raises is answered for, in its own name, with CLIENT_APP_RAISED_EXCEPTION.
    node_of_1 = next(reply["node"] for reply in result["rounds"][0] if reply["part"] == 1)
    errors = [reply for reply in result["rounds"][2] if "error" in reply]
    assert errors == [{"error": 2, "node": node_of_1}]


@pytest.mark.slow
def test_a_run_beyond_its_time_limit_is_given_up_and_killed(place: Path) -> None:
    with FlowerRuntime(place / "late", cpus=1) as runtime:
        runtime.start()
        group = runtime.process_group
        assert group is not None
        with pytest.raises(EngineError, match="time limit"):
            runtime.run(app_dir=place / "app", run_config={}, num_nodes=1, timeout_s=0)
        assert runtime.process_group is None
        assert survivors(group) == []


def test_a_key_that_the_app_does_not_declare_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    app = write_dummy(tmp_path / "app")
    runtime = FlowerRuntime(tmp_path / "scratch")
    with pytest.raises(EngineError, match="no-such-key"):
        runtime.run(app_dir=app, run_config={"no-such-key": 1}, num_nodes=1)
    assert not (tmp_path / "scratch").exists()
