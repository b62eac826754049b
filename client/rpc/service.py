"""The agent's own process: `python -P -m client.rpc.service DIR`.

It reads patients, holds policy and ledger, and answers at two doors until it is told to stop.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.rpc.doors import already_runs, user_id
from client.rpc.server import MAX_MESSAGE, Options, start_servers
from common.blocks import return_large_blocks
from common.errors import GrandroundsError, RunError, SiteError
from common.running.daemon import hold
from common.running.logs import Format, set_up
from common.running.supervision import until_signal
from common.startup import importing

GRACE_S = 30.0
"""Seconds that a round which is being computed may take to finish when the agent is stopped."""

# What only the site's own user may read, if it is there. What the relay needs lies elsewhere.
_PRIVATE_FILES = (
    "cohort.toml",
    "policy.toml",
    "ledger.sqlite",
    "ledger.sqlite-wal",
    "ledger.sqlite-shm",
    "ledger.head",
    "site.log",
    "site.log.1",
    "report.html",
)
_PRIVATE_FOLDERS = ("approved", "approvals", "answered", "keys", "kit", "models", "run")


log = logging.getLogger("client.rpc.service")


def serve(folder: Path, *, options: Options | None = None, style: Format = "text") -> bool:
    """Answer for a site until SIGTERM or SIGINT comes.

    The running round may then finish for `GRACE_S` seconds; its answer is in the ledger, so that
    who asks again after the restart gets it.

    Args:
        folder: The site's folder.
        options: How to listen.
        style: How the log, on standard error, is written.

    Returns:
        Whether everything had finished when it stopped.

    Raises:
        SiteError: the folder is not a site's, an agent already runs for it, or it cannot listen.
    """
    options = options or Options()
    os.umask(0o077)
    return_large_blocks()
    _require(folder)
    if options.relay_user is not None:
        user_id(options.relay_user)  # a mistake is told before the long imports
    with until_signal() as stop, _only_agent(folder):
        with importing():
            from client.agent import Agent
            from client.desk.administration import perform_locally
            from client.rpc.checks import checks_of
            from client.site import load_site
        site = load_site(folder)
        close_to_others(folder, *(view.source.path for view in site.views()))
        agent = Agent(folder)
        set_up(style, site=site.cohort.name)
        allowed = min(options.max_message, int(site.policy.max_message_mb * 10**6))

        def perform(name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
            return perform_locally(agent, name, dict(values))

        servers = start_servers(
            agent.handle,
            folder,
            perform=perform,
            checks=checks_of(folder, agent.ledger),
            options=replace(options, max_message=allowed, site=site.cohort.name),
        )
        log.info("ready: relay at %s, administrator at %s", servers.relay, servers.admin)
        stop.wait()
        log.info("stopping: %.0f s for what is being computed", GRACE_S)
        if not servers.stop(GRACE_S):
            log.warning("a round was not finished in time: what it reserved stays spent")
            return False
        agent.close()
        log.info("stopped")
        return True


def _require(folder: Path) -> None:
    """Refuse what is no site's folder, before anything is made in it."""
    if not (folder / "cohort.toml").is_file():
        raise SiteError(
            f"{str(folder)!r} is not the folder of a site: it has no cohort.toml",
            remedy="make one with grandrounds site init, or check the path",
        )


@contextmanager
def _only_agent(folder: Path) -> Iterator[None]:
    run = folder / "run"
    run.mkdir(exist_ok=True)
    try:
        with hold(run / "agent.pid"):
            yield
    except RunError:
        raise already_runs(folder) from None


def close_to_others(folder: Path, *data: Path) -> None:
    """Take from other users what an editor, a copy or a backup may have given them.

    Args:
        folder: The site's folder.
        data: The patients' files or folders, which are closed too where they lie in the site's.
    """
    closed = {folder / name: 0o600 for name in _PRIVATE_FILES}
    closed |= {folder / name: 0o700 for name in _PRIVATE_FOLDERS}
    for path in data:
        if path.resolve().is_relative_to(folder.resolve()):
            closed[path] = 0o700 if path.is_dir() else 0o600
    closed[folder] = 0o711  # the relay passes through it
    for path, mode in closed.items():
        if path.exists() and path.stat().st_mode & 0o777 & ~mode:
            path.chmod(mode)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent as its command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -P -m client.rpc.service",
        description="Answer for a hospital: the agent that holds its patients, policy and ledger.",
        epilog="Example: python -P -m client.rpc.service /srv/cleveland --log-format json",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the site's folder")
    parser.add_argument(
        "--relay-user", metavar="NAME", help="the OS user who may ask for rounds (needs root)"
    )
    parser.add_argument(
        "--tcp",
        type=_port,
        metavar="PORT",
        help="listen on this loopback port, with a token, instead of Unix sockets; 0 for any",
    )
    parser.add_argument(
        "--max-message",
        type=_bytes,
        default=MAX_MESSAGE,
        metavar="BYTES",
        help="largest request; the site's policy may allow less (default: %(default)s)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    set_up(given.log_format)
    options = Options(tcp=given.tcp, relay_user=given.relay_user, max_message=given.max_message)
    try:
        is_finished = serve(given.folder, options=options, style=given.log_format)
    except GrandroundsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        sys.stderr.write(f"error: {error.strerror or error}{named}\n  remedy: check the folder\n")
        return 3
    if not is_finished:
        # The thread that still computes would keep the interpreter from ending.
        logging.shutdown()
        os._exit(0)
    return 0


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is not a port; use 0 to 65535")
    return number


def _bytes(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a size; use a number of bytes above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
