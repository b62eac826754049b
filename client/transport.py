"""How the relay reaches the agent: by a transport found by entry point, so it imports none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from flwr.app import Context

from common.errors import WireError
from common.wire import Envelope

Transport = Callable[[Envelope], Envelope]
Connect = Callable[[Context], Transport]

GROUP = "grandrounds.transports"
DEFAULT = "folder"


def connect(context: Context) -> Transport:
    """Return the transport that the node's configuration names under `transport`.

    A node that names an `agent` means the transport to it.

    Raises:
        WireError: no installed transport has that name.
    """
    config = context.node_config
    return _load(str(config.get("transport", "agent" if "agent" in config else DEFAULT)))(context)


@cache
def _load(name: str) -> Connect:
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()  # type: ignore[no-any-return]
    raise WireError(
        f"transport {name!r} is not installed", remedy="reinstall grandrounds, or name another"
    )
