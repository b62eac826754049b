"""The coordinator's folder: who it is, its certificates, the hospitals it enrolled, its runs.

DIR/server.toml              name, ports, federation
DIR/ca.crt, ca.key           the authority that the hospitals trust
DIR/server.crt, server.key   what the SuperLink shows them
DIR/superexec.secret         what the SuperExec shows the SuperLink
DIR/state.db                 Flower's own state
DIR/sites.toml, sites/       the hospitals and their public keys
DIR/kits/                    one zip for each hospital
DIR/nginx.conf               the filter that stands before the SuperLink
DIR/runs/                    one folder a run
DIR/app/                     the Flower App that is handed over
DIR/run/                     what lives as long as the processes: pid, logs, Flower's home
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from common.errors import RunError
from common.files import write_atomic
from common.schema import Name, Table, dump_toml, explain, read_toml
from server.house.certificates import make_authority, make_server, read_pair

Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
LOOPBACK = "127.0.0.1"
_LOCAL = ("localhost", LOOPBACK)
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*")


class ServerConfig(Table):
    """server.toml.

    Attributes:
        host: The name or IP address that hospitals call.
        port: The port that they call: the filter's, or the SuperLink's own where they are equal.
        superlink_port: The SuperLink's own port, on the loopback interface.
        federation: What the whole is called.
    """

    host: str
    port: Port
    superlink_port: Port
    federation: Name = "grandrounds"

    @property
    def address(self) -> str:
        """Where hospitals call: host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def filtered(self) -> bool:
        """Whether a filter stands between the hospitals and the SuperLink."""
        return self.port != self.superlink_port


@dataclass(frozen=True)
class Home:
    """A coordinator's folder, read."""

    folder: Path
    config: ServerConfig

    @property
    def url(self) -> str:
        """Where the SuperLink answers on this machine."""
        return f"https://{LOOPBACK}:{self.config.superlink_port}"

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.folder / "runs"

    @property
    def app(self) -> Path:
        """The Flower App that is handed over."""
        return self.folder / "app"

    @property
    def scratch(self) -> Path:
        """What lives as long as the processes."""
        return self.folder / "run"

    @property
    def pid_file(self) -> Path:
        """Held by the process that keeps the SuperLink up."""
        return self.scratch / "server.pid"

    @property
    def secret(self) -> Path:
        """What the SuperExec shows the SuperLink."""
        return self.folder / "superexec.secret"


def create_home(
    folder: Path,
    *,
    host: str,
    port: int = 9092,
    superlink_port: int | None = None,
    federation: str = "grandrounds",
) -> Home:
    """Make a coordinator's folder with its keys and certificates.

    Args:
        folder: Made if missing; must be empty.
        host: The name or IP address that hospitals call.
        port: The port that they call.
        superlink_port: The SuperLink's own; by default `port` where hospitals are on this machine,
            and else the one after it, for a filter must stand between.
        federation: What the whole is called.

    Raises:
        RunError: the folder is not empty, or a value is out of bounds.
    """
    check_host(host)
    if superlink_port is None:
        superlink_port = port if host in _LOCAL else port + 1
    values = {
        "host": host,
        "port": port,
        "superlink_port": superlink_port,
        "federation": federation,
    }
    config = _checked(values, "server init")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"folder {str(folder)!r} is in use", remedy="name a new folder, or an empty one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # its keys could enrol a hospital that is none
    home = Home(folder=folder.resolve(), config=config)
    for path in (home.runs, home.app, home.scratch, folder / "sites", folder / "kits"):
        path.mkdir(mode=0o700)
    authority = make_authority(federation)
    authority.write(home.ca, folder / "ca.key")
    make_server(authority, _hosts(host)).write(folder / "server.crt", folder / "server.key")
    write_atomic(home.secret, secrets.token_bytes(32), mode=0o600)
    # Last: a folder is a coordinator's once this file is there.
    write_atomic(folder / "server.toml", dump_toml(config.model_dump()))
    return home


def renew_certificate(home: Home) -> None:
    """Make a new certificate for the server, signed by the same authority.

    Raises:
        RunError: the authority cannot be read.
    """
    authority = read_pair(home.ca, home.folder / "ca.key")
    pair = make_server(authority, _hosts(home.config.host))
    pair.write(home.folder / "server.crt", home.folder / "server.key")


def load_home(folder: Path) -> Home:
    """Read a coordinator's folder.

    Raises:
        RunError: it is none, its settings are malformed, or others may read its keys.
    """
    path = folder / "server.toml"
    if not path.is_file():
        raise RunError(
            f"folder {str(folder)!r} is no coordinator's: it has no server.toml",
            remedy="check the path, or make one with `grandrounds server init`",
        )
    home = Home(folder.resolve(), _checked(read_toml(path, what="server"), str(path)))
    for key in (folder / "ca.key", folder / "server.key", home.secret):
        if key.is_file() and stat.S_IMODE(key.stat().st_mode) & 0o077:
            raise RunError(
                f"key {str(key)!r} can be read by others", remedy=f"chmod 600 {str(key)!r}"
            )
    return home


def check_host(host: str) -> None:
    """Refuse what is neither a name nor an IP address.

    >>> check_host("grandrounds.example.org")
    >>> check_host("https://example.org")
    Traceback (most recent call last):
    common.errors.RunError: host is 'https://example.org': neither a name nor an IP address
      remedy: give what hospitals call, as in grandrounds.example.org, without scheme or port
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise RunError(
                f"host is {host!r}: neither a name nor an IP address",
                remedy="give what hospitals call, as in grandrounds.example.org, "
                "without scheme or port",
            ) from None


def prepare_scratch(home: Home) -> None:
    """Make the folders that the processes use."""
    for name in ("home", "empty", "bin"):
        (home.scratch / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(home.scratch, 0o700)


def _hosts(host: str) -> list[str]:
    """All that the server answers to; SuperExec and commands call it on the loopback interface."""
    return [host, *_LOCAL]


def _checked(values: object, origin: str) -> ServerConfig:
    try:
        return ServerConfig.model_validate(values)
    except ValidationError as error:
        cause = explain(error, origin)
        raise RunError(cause.message, remedy=cause.remedy) from None
