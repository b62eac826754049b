"""Relays that start at once: each is forked from a process that has Flower loaded already.

Flower starts a new Python for each message, which spends more than a second of a CPU on imports.
Here a process of the relay's user waits at a Unix socket for the command line of such a Python. It
loads none of our own packages for the relay: those come with the coordinator's bundle.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.running.processes import keep_short

_OURS = ("client", "common", "server")
_LONGEST = 2**16

# Hands a command line over; fails where nobody takes it. Without `site`, it starts in no time.
KNOCK = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.settimeout(5)
    door.connect(sys.argv[1])
    door.sendall(json.dumps(sys.argv[2:]).encode())
    door.shutdown(socket.SHUT_WR)
    sys.exit(door.recv(1) != b"y")
"""


def serve(door: Path, log: Path, run: Callable[[], None]) -> None:
    """Take command lines for ever; each runs in a process of its own.

    Args:
        door: The Unix socket; whoever may open it may run the relay.
        log: Takes what the relays print; see `keep_short`.
        run: What a relay does, with `sys.argv` set.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a relay
    door.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(door))
        listener.listen()
        while True:
            visitor, _ = listener.accept()
            with visitor:
                arguments = _read(visitor)
                if arguments is None:
                    continue
                keep_short(log)
                if os.fork() == 0:
                    listener.close()
                    visitor.close()
                    _become(arguments, log, run)
                visitor.sendall(b"y")


def _read(visitor: socket.socket) -> list[str] | None:
    """The command line of a visitor; None where there is none to be had."""
    visitor.settimeout(5)
    try:
        said = b""
        while part := visitor.recv(_LONGEST):
            said += part
        found = json.loads(said)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) else None


def _become(arguments: Sequence[str], log: Path, run: Callable[[], None]) -> None:
    """Be a relay, in a process that was just forked; it never returns."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        random.seed()  # not every relay's is the same
        for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
            del sys.modules[name]
        sys.argv = ["flwr-clientapp", *arguments]
        run()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Wait for Flower's command lines at a socket; the arguments are the socket and the log."""
    from flwr.supernode.cli import flwr_clientapp

    door, log = sys.argv[1:3]
    serve(Path(door), Path(log), flwr_clientapp)
