"""Unit files and Containerfiles: what they start, and that systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.running.units import Service, systemd_text
from server.house.home import create_home
from server.house.units import write_deploy


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="hub.example.org")
    assert write_deploy(home, systemd=False, container=False) == []
    assert not (home.folder / "deploy").exists()
    found = write_deploy(home, systemd=True, container=True)
    assert [path.name for path in found] == ["grandrounds-server.service", "Containerfile"]
    container = found[1].read_text()
    assert "EXPOSE 9092" in container
    assert "nginx-light" in container
    assert '"server", "start", "/data", "--foreground"]' in container
    assert str(home.folder) in found[0].read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("folder", ["plain", "with blank", "100%"])
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    service = Service("grandrounds-x", "a test", "site", tmp_path / folder, 90, relay_user="relay")
    unit = tmp_path / "grandrounds-x.service"
    unit.write_text(systemd_text(service, python=sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "grandrounds-x" in line]
    assert complaints == []
