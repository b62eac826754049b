"""The coordinator's folder: made once, read back, and not with keys that others may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import RunError
from server.house.certificates import check_valid, read_certificate
from server.house.home import create_home, load_home, renew_certificate
from server.house.nginx import write_nginx


def test_a_folder_is_made_and_read_back(tmp_path: Path) -> None:
    made = create_home(tmp_path / "c", host="hub.example.org", port=443)
    read = load_home(tmp_path / "c")
    assert read == made
    assert read.config.address == "hub.example.org:443"
    assert read.url == "https://127.0.0.1:444"
    check_valid(read.folder / "server.crt", read.ca)
    assert read.runs.is_dir()
    assert read.folder.stat().st_mode & 0o777 == 0o700
    for name in ("ca.key", "server.key", "superexec.secret"):
        assert (read.folder / name).stat().st_mode & 0o777 == 0o600


def test_hospitals_on_this_machine_need_no_filter(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="localhost", port=9092)
    assert home.config.superlink_port == 9092
    assert not home.config.filtered
    assert write_nginx(home) is None


def test_an_ipv6_address_is_written_with_brackets(tmp_path: Path) -> None:
    assert create_home(tmp_path / "c", host="::1").config.address == "[::1]:9092"


def test_a_used_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="in use"):
        create_home(tmp_path, host="localhost")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": "https://x.org"}, "neither a name nor an IP address"),
        ({"host": ""}, "neither a name nor an IP address"),
        ({"host": "a b"}, "neither a name nor an IP address"),
        ({"host": "x.org", "port": 65535}, "superlink_port is 65536"),
        ({"host": "x.org", "port": 0}, "port is 0"),
        ({"host": "x.org", "federation": "A B"}, "federation is 'A B'"),
    ],
)
def test_a_value_out_of_bounds_is_named_and_nothing_is_made(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        create_home(tmp_path / "c", **values)  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


def test_a_folder_that_is_no_coordinators_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no coordinator's"):
        load_home(tmp_path)


def test_an_unknown_key_in_the_settings_is_named(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="localhost")
    with (home.folder / "server.toml").open("a") as file:
        file.write("hots = 1\n")
    with pytest.raises(RunError, match="hots"):
        load_home(home.folder)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="localhost")
    (home.folder / "ca.key").chmod(0o640)
    with pytest.raises(RunError, match=r"ca\.key' can be read by others"):
        load_home(home.folder)


def test_a_renewed_certificate_is_another_of_the_same_authority(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="localhost")
    before = read_certificate(home.folder / "server.crt"), home.ca.read_bytes()
    renew_certificate(home)
    assert read_certificate(home.folder / "server.crt").serial_number != before[0].serial_number
    assert home.ca.read_bytes() == before[1]
    check_valid(home.folder / "server.crt", home.ca)
