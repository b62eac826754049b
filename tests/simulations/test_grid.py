"""The in-process grid: Flower's real apps, one after another, as Flower behaves at the edges."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from simulations.grid import RUN_ID, InProcessGrid, server_context


def content(**values: Any) -> RecordDict:
    return RecordDict({"c": ConfigRecord(values)})


def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


def grid(client: Any = echo, *nodes: int) -> InProcessGrid:
    return InProcessGrid(client, nodes={n: {"number": n} for n in nodes or (1,)}, run_config={})


def test_real_apps_meet_in_this_process() -> None:
    # What makes a breakpoint inside a client work: the server's stack is below the client's.
    client, server, seen = ClientApp(), ServerApp(), []

    @client.train()
    def train(message: Message, context: Context) -> Message:
        seen.append((context.node_id, context.node_config["number"], context.run_config["sites"]))
        return Message(content(double=2 * message.content["c"]["x"]), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        messages = [Message(content(x=n), n, "train") for n in grid.get_node_ids()]
        replies = list(grid.send_and_receive(messages))
        seen.append([(r.metadata.src_node_id, r.content["c"]["double"]) for r in replies])

    config = {"sites": "here"}
    nodes = {4: {"number": 40}, 2: {"number": 20}}
    server(InProcessGrid(client, nodes=nodes, run_config=config), server_context(config))
    assert seen == [(4, 40, "here"), (2, 20, "here"), [(4, 8), (2, 4)]]


def test_a_reply_names_the_message_it_answers_and_comes_once() -> None:
    g = grid(echo, 1, 2)
    ids = g.push_messages([Message(content(x=n), n, "train") for n in (1, 2)])
    assert len(set(ids)) == 2
    [second] = g.pull_messages(ids[1:])
    assert second.metadata.reply_to_message_id == ids[1]
    assert second.metadata.src_node_id == 2
    [first] = g.pull_messages(ids)
    assert first.metadata.reply_to_message_id == ids[0]
    assert g.pull_messages([*ids, "never sent"]) == []


def test_a_client_runs_when_its_reply_is_asked_for() -> None:
    ran = []

    def client(message: Message, context: Context) -> Message:
        ran.append(context.node_id)
        return echo(message, context)

    g = grid(client)
    ids = g.push_messages([Message(content(), 1, "train")])
    assert ran == []
    g.pull_messages(ids)
    assert ran == [1]


def test_a_message_to_a_node_that_is_not_there_is_dropped_in_silence() -> None:
    # As Flower does; the others are served.
    g = grid(echo, 1, 2)
    ids = g.push_messages([Message(content(), n, "train") for n in (1, 99, 2)])
    assert [r.metadata.src_node_id for r in g.pull_messages(ids)] == [1, 2]


def test_a_client_owns_its_copy_of_a_message() -> None:
    # Break it once: without the copy one hospital could change what the next one reads.
    shared = content(x=1)

    def client(message: Message, context: Context) -> Message:
        message.content["c"]["x"] += 1
        return Message(content(seen=message.content["c"]["x"]), reply_to=message)

    replies = grid(client, 1, 2).send_and_receive([Message(shared, n, "train") for n in (1, 2)])
    assert [r.content["c"]["seen"] for r in replies] == [2, 2]
    assert shared["c"]["x"] == 1


def test_a_clients_exception_is_an_error_reply_to_its_own_message() -> None:
    def client(message: Message, context: Context) -> Message:
        if context.node_id == 1:
            raise ValueError("out of order")
        return echo(message, context)

    g = grid(client, 1, 2)
    ids = g.push_messages([Message(content(), n, "train") for n in (1, 2)])
    failed, fine = g.pull_messages(ids)
    assert failed.error.reason == "ValueError('out of order')"
    assert failed.metadata.reply_to_message_id == ids[0]
    assert not fine.has_error()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_run_and_is_no_clients_failure(
    failure: type[BaseException],
) -> None:
    def client(message: Message, context: Context) -> Message:
        raise failure

    with pytest.raises(failure):
        grid(client).send_and_receive([Message(content(), 1, "train")])


def test_a_node_keeps_its_state_from_message_to_message_and_shares_it_with_nobody() -> None:
    def client(message: Message, context: Context) -> Message:
        before = context.state.config_records.get("n", ConfigRecord({"n": 0}))["n"]
        context.state["n"] = ConfigRecord({"n": before + 1})
        return Message(content(n=before + 1), reply_to=message)

    g = grid(client, 1, 2)
    replies = g.send_and_receive([Message(content(), n, "train") for n in (1, 1, 2)])
    assert [r.content["c"]["n"] for r in replies] == [1, 2, 1]


def test_flowers_own_way_to_make_a_message_works() -> None:
    g = grid()
    message = g.create_message(content(x=1), "train", 1, "7")
    assert message.metadata.group_id == "7"
    [reply] = g.send_and_receive([message])
    assert reply.content["c"]["x"] == 1
    assert reply.metadata.run_id == RUN_ID


def test_there_is_no_run_to_ask_about() -> None:
    with pytest.raises(NotImplementedError):
        _ = grid().run
