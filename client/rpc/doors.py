"""Where an agent listens: two Unix sockets with file permissions, or loopback TCP with tokens.

DIR/relay/   agent.sock, or address and token: for the relay, which may be another OS user
DIR/admin/   the same, for the administrator: the site's own user alone

Whoever may open the relay's door may not write to its folder, so that no link put there can make
the agent change another file.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from common.errors import SiteError
from common.files import write_atomic

Name = Literal["relay", "admin"]

_LONGEST_PATH = 100  # bytes; the system's limit is 108 on Linux and 104 elsewhere
_PROBE_S = 2.0

# A hospital's proxy has no business between two processes of one machine.
CHANNEL_OPTIONS: Final = (("grpc.enable_http_proxy", 0),)


@dataclass(frozen=True)
class Door:
    """One of an agent's two doors.

    Attributes:
        folder: DIR/relay or DIR/admin.
        user: Id of another OS user who may open it; None for the site's own user alone.
    """

    folder: Path
    user: int | None = None

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.folder / "agent.sock"

    @property
    def token_file(self) -> Path:
        """Holds what opens a TCP port; it is there only while the agent listens on one."""
        return self.folder / "token"

    @property
    def address_file(self) -> Path:
        """Names the TCP port; it is there only while the agent listens on one."""
        return self.folder / "address"

    def prepare(self) -> None:
        """Make the folder, and clear what a crash has left in it.

        Raises:
            SiteError: an agent answers on the socket, or the folder belongs to someone else.
        """
        self.folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.folder, 0, -1, follow_symlinks=False)
        if self.folder.is_symlink() or self.folder.stat().st_uid != os.geteuid():
            raise SiteError(
                f"{str(self.folder)!r} is not a folder of this user",
                remedy="start the agent as the user who owns the site's folder",
            )
        self.folder.chmod(0o700 if self.user is None else 0o711)
        if answers(self.socket):
            raise already_runs(self.folder.parent)
        self.clear()

    def clear(self) -> None:
        """Remove socket, address and token."""
        for path in (self.socket, self.address_file, self.token_file):
            path.unlink(missing_ok=True)

    def bind_socket(self, server: Any) -> str:
        """Let a gRPC server listen on the socket, which from its first moment is the owner's alone.

        Raises:
            SiteError: the path is too long, or the socket cannot be made.
        """
        if len(os.fsencode(self.socket)) > _LONGEST_PATH:
            raise SiteError(
                f"the path {str(self.socket)!r} is too long for a Unix socket"
                f" (more than {_LONGEST_PATH} bytes)",
                remedy="use a folder with a shorter path, or start the agent with --tcp PORT",
            )
        target = f"unix:{self.socket.absolute()}"
        with _umask(0o177):
            _bind(server, target, remedy="check that the folder may be written and has space left")
        self._hand_over(self.socket)
        return target

    def bind_port(self, server: Any, port: int, token: str) -> str:
        """Let a gRPC server listen on a loopback port; 0 lets the system choose one.

        Raises:
            SiteError: the port is in use.
        """
        remedy = "choose another port with --tcp PORT, or stop what uses it"
        chosen = _bind(server, f"127.0.0.1:{port}", remedy=remedy)
        target = f"127.0.0.1:{chosen}"
        write_atomic(self.token_file, token, mode=0o600)
        self._hand_over(self.token_file)
        write_atomic(self.address_file, target, mode=0o600)
        self._hand_over(self.address_file)
        return target

    def _hand_over(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user, -1, follow_symlinks=False)

    def address(self) -> tuple[str, str | None]:
        """Return the door's gRPC target, and the token for it where it is a TCP port.

        Raises:
            SiteError: this user may not look.
        """
        try:
            if self.address_file.exists():
                return self.address_file.read_text(), self.token_file.read_text()
            self.socket.exists()
        except FileNotFoundError:  # the agent stopped in between
            pass
        except PermissionError:
            raise not_yours(self.folder) from None
        return f"unix:{self.socket.absolute()}", None


def door(folder: Path, name: Name, *, user: int | None = None) -> Door:
    """Return a door of the site whose folder this is."""
    return Door(folder / name, user)


def new_token() -> str:
    """Return a secret of 256 bits."""
    return secrets.token_hex(32)


def user_id(name: str) -> int:
    """Return the id of the OS user who may open the relay's door.

    Raises:
        SiteError: there is no such user, or this process may not give it anything.
    """
    import pwd  # not on every platform

    try:
        number = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise SiteError(
            f"--relay-user is {name!r}, whom this machine does not know",
            remedy=f"make the user (useradd --system {name}), or name another",
        ) from None
    if os.geteuid() not in (0, number):
        raise SiteError(
            f"--relay-user is {name!r}, and only root can open the relay's socket to another user",
            remedy="start the agent as root, or leave --relay-user out",
        )
    return number


def already_runs(folder: Path) -> SiteError:
    """Return the error that a second agent ends with."""
    return SiteError(
        f"an agent already runs for {str(folder)!r}",
        remedy="use it as it is, or stop it first",
    )


def not_yours(folder: Path) -> SiteError:
    """Return the error of someone who stands before the administrator's door without a right to."""
    return SiteError(
        f"{str(folder)!r} is closed to this user",
        remedy="run the command as the user whose agent it is",
    )


def answers(path: Path) -> bool:
    """Tell whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return _connects(probe, os.fspath(path))


def listens(target: str) -> bool:
    """Tell whether a process listens on a gRPC target, a Unix socket or a port."""
    if target.startswith("unix:"):
        return answers(Path(target.removeprefix("unix:")))
    host, _, port = target.rpartition(":")
    with socket.socket() as probe:
        return _connects(probe, (host, int(port)))


def _connects(probe: socket.socket, address: Any) -> bool:
    probe.settimeout(_PROBE_S)
    try:
        probe.connect(address)
    except OSError as error:
        # A full queue of connections, or one that is not taken up in time, is a living process.
        return isinstance(error, TimeoutError) or error.errno == errno.EAGAIN
    return True


def _bind(server: Any, target: str, *, remedy: str) -> int:
    try:
        port: int = server.add_insecure_port(target)
    except RuntimeError as error:
        raise SiteError(f"the agent cannot listen on {target}: {error}", remedy=remedy) from None
    return port


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
