"""Files for deployment of the coordinator: a systemd unit and a Containerfile."""

from __future__ import annotations

from pathlib import Path

from common.running.units import Service, write_units
from server.house.home import Home


def write_deploy(home: Home, *, systemd: bool, container: bool) -> list[Path]:
    """Write what is asked for to DIR/deploy/; return what was written."""
    service = Service(
        name="grandrounds-server",
        about=f"grandrounds coordinator of {home.config.federation}",
        group="server",
        folder=home.folder,
        stop_s=90,
        ports=(home.config.port,),
        packages=("nginx-light",) if home.config.filtered else (),
    )
    return write_units(home.folder / "deploy", service, systemd=systemd, container=container)
