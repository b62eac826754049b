"""DIR/relay/home: all that the relay's processes have, and the only folder they write.

The coordinator's code runs among them, so they may run as another OS user, who can read neither
patients nor ledger nor policy. That user owns this folder and nothing else of the site.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.desk.kit import Kit, as_openssh, read_node_key
from client.running.relay_host import KNOCK
from common.errors import SiteError
from common.files import write_atomic
from common.running.processes import flower_environment, write_shim
from common.schema import dump_toml

_CHECK_S = 60.0
# What the relay's user does first: can it run the relay, and is it kept from what is not its own?
_IMPORTS = "import client.app, client.running.supernode, flwr.supernode.cli"
_CHECK = """
import os, sys
open(sys.argv[1]).close()
print(*(path for path in sys.argv[2:] if os.access(path, os.R_OK)), sep="\\n")
"""


@dataclass(frozen=True)
class RelayHome:
    """The relay's folder.

    Attributes:
        folder: DIR/relay/home.
        user: Who owns it, where that is another OS user.
    """

    folder: Path
    user: str | None = None

    @property
    def key(self) -> Path:
        """The node's key, as the SuperNode reads it."""
        return self.folder / "node.key"

    @property
    def ca(self) -> Path:
        """The certificate to trust."""
        return self.folder / "ca.crt"

    @property
    def node(self) -> Path:
        """The node's configuration, which tells the relay where the agent is."""
        return self.folder / "node.toml"

    @property
    def secret(self) -> Path:
        """What SuperExec shows the SuperNode."""
        return self.folder / "superexec.secret"

    @property
    def door(self) -> Path:
        """Where relays are asked for."""
        return self.folder / "relays.sock"

    @property
    def log(self) -> Path:
        """Takes what the relays print."""
        return self.folder / "clientapp.log"

    @property
    def env(self) -> dict[str, str]:
        """The environment of its processes: nothing of the site's own."""
        return flower_environment(self.folder)


def prepare_relay(
    site: Path,
    kit: Kit,
    *,
    user: str | None,
    node: Mapping[str, str],
    private: Sequence[Path] = (),
) -> RelayHome:
    """Make the relay's folder anew.

    Args:
        site: The site's folder.
        kit: What the coordinator gave.
        user: The OS user that owns it; None for this one.
        node: The node's configuration.
        private: What another user must not be able to read.

    Raises:
        SiteError: the user is unknown, could not run the relay, or could read what is private; or
            the key is malformed.
    """
    owner = _ids(user)
    (site / "relay").mkdir(exist_ok=True)
    (site / "relay").chmod(0o711 if user else 0o700)
    home = RelayHome(site / "relay" / "home", user)
    # What an earlier relay left behind, links that lead elsewhere above all, is not written to.
    shutil.rmtree(home.folder, ignore_errors=True)
    home.folder.mkdir(mode=0o700)
    for name in ("home", "empty", "bin"):
        (home.folder / name).mkdir(mode=0o700)
    write_shim(
        home.folder / "bin" / "flwr-clientapp",
        module="flwr.supernode.cli",
        function="flwr_clientapp",
        log=home.log,
        first=[sys.executable, "-S", "-E", "-P", "-c", KNOCK, str(home.door)],
    )
    write_atomic(home.key, as_openssh(read_node_key(site / "keys" / "node.key")), mode=0o600)
    write_atomic(home.ca, kit.ca.read_bytes())
    write_atomic(home.secret, secrets.token_bytes(32), mode=0o600)
    write_atomic(home.node, dump_toml(dict(node)))
    if owner is not None:
        for path in (home.folder, *home.folder.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)
        _check_user(home, private)
    return home


def _ids(user: str | None) -> tuple[int, int] | None:
    """The ids of another OS user, if there is one."""
    if user is None:
        return None
    import pwd  # not on every platform

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise SiteError(
            f"--relay-user is {user!r}, whom this machine does not know",
            remedy=f"make the user (useradd --system {user}), or name another",
        ) from None
    if os.geteuid() != 0:
        raise SiteError(
            f"--relay-user is {user!r}, and only root can run a process as another user",
            remedy="start the site as root, or leave --relay-user out",
        )
    if entry.pw_uid == 0:
        raise SiteError(
            f"--relay-user is {user!r}, who may read everything",
            remedy="name a user who owns nothing (useradd --system relay)",
        )
    return entry.pw_uid, entry.pw_gid


def _check_user(home: RelayHome, private: Sequence[Path]) -> None:
    """Refuse a user who cannot run this Python or reach the folder, or who can read too much."""
    import pwd

    assert home.user is not None
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _IMPORTS + _CHECK, str(home.key), *map(str, private)],
            cwd="/",
            env=home.env,
            user=home.user,
            group=pwd.getpwnam(home.user).pw_gid,
            extra_groups=(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CHECK_S,
            check=False,
        )
        failure = " ".join(done.stderr.strip().splitlines()[-1:]) if done.returncode else None
    except (OSError, subprocess.SubprocessError) as error:
        failure = str(error)
    if failure is not None:
        raise SiteError(
            f"--relay-user {home.user!r} cannot run the relay: {failure}",
            remedy=f"install grandrounds where every user may read it ({sys.executable} is its "
            f"Python), and keep the site's folder below folders that every user may pass (0711)",
        )
    if readable := done.stdout.split("\n")[0]:
        raise SiteError(
            f"--relay-user {home.user!r} can read {readable!r}, and so could what it runs",
            remedy=f"close it to others: chmod -R go= {readable!r}",
        )
