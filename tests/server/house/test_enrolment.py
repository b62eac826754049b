"""Who is let in: keys checked, names unique, kits without secrets, the SuperLink told."""

from __future__ import annotations

import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from common.errors import RunError
from server.house import superlink
from server.house.enrolment import enrol, read_public_key, read_sites, register_waiting, revoke
from server.house.home import Home, create_home
from server.house.superlink import Node


class FakeLink:
    """A SuperLink that remembers what it is told, as Flower's does."""

    def __init__(self) -> None:
        self.is_up = True
        self.known: dict[bytes, Node] = {}
        self.ids = iter(range(2**63, 2**64))

    def answers(self) -> bool:
        return self.is_up

    def nodes(self) -> list[Node]:
        return list(self.known.values())

    def register(self, public_key: bytes, name: str) -> int:
        assert public_key not in self.known, "Flower would refuse"
        node = Node(next(self.ids), name, public_key, "registered", "")
        self.known[public_key] = node
        return node.id

    def unregister(self, node_id: int) -> None:
        if not self.is_up:
            raise OSError("connection refused")
        if node_id not in {node.id for node in self.known.values()}:
            raise KeyError(node_id)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    link = FakeLink()
    monkeypatch.setattr(superlink, "of", lambda home: link)
    return link


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "coordinator", host="hub.example.org", port=443)


def key_file(folder: Path, name: str = "node") -> Path:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    path = folder / f"{name}.pub"
    path.write_bytes(key.public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH) + b" me\n")
    return path


def test_a_kit_says_whom_to_call_and_holds_no_secret(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    key = key_file(tmp_path)
    kit = zipfile.ZipFile(enrol(home, name="cleveland", key=key))
    assert kit.namelist() == ["README.txt", "ca.crt", "nginx.txt", "site.toml"]
    site = tomllib.loads(kit.read("site.toml").decode())
    assert site == {
        "address": "hub.example.org:443",
        "name": "cleveland",
        "federation": "grandrounds",
        "key": read_public_key(key).fingerprint,
    }
    assert kit.read("ca.crt") == home.ca.read_bytes()
    assert not any(b"PRIVATE" in kit.read(name) for name in kit.namelist())
    assert b"hub.example.org:443" in kit.read("README.txt")


def test_the_readme_shows_the_authoritys_fingerprint_as_openssl_does(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    kit = zipfile.ZipFile(enrol(home, name="a", key=key_file(tmp_path)))
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(home.ca)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.partition("=")[2].strip() in kit.read("README.txt").decode()


def test_a_keys_fingerprint_is_what_ssh_keygen_shows(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert read_public_key(path).fingerprint == shown.split()[1]


def test_the_same_name_and_key_again_give_the_same_kit(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    key = key_file(tmp_path)
    first = enrol(home, name="a", key=key).read_bytes()
    assert enrol(home, name="a", key=key).read_bytes() == first
    assert len(read_sites(home)) == len(link.known) == 1


def test_two_sites_cannot_have_one_name_nor_one_key(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    first, second = key_file(tmp_path, "1"), key_file(tmp_path, "2")
    enrol(home, name="a", key=first)
    with pytest.raises(RunError, match="a site 'a' is enrolled already"):
        enrol(home, name="a", key=second)
    with pytest.raises(RunError, match="belongs to site 'a'"):
        enrol(home, name="b", key=first)
    assert [site.name for site in read_sites(home)] == ["a"]


def test_a_site_enrolled_while_the_superlink_is_down_is_told_to_it_later(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    link.is_up = False
    enrol(home, name="a", key=key_file(tmp_path))
    assert read_sites(home)[0].node is None
    link.is_up = True
    assert register_waiting(home) == ["a"]
    assert read_sites(home)[0].node == 2**63
    assert register_waiting(home) == []


def test_a_superlink_begun_anew_is_told_everyone_who_is_in(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    for name in ("a", "b", "c"):
        enrol(home, name=name, key=key_file(tmp_path, name))
    revoke(home, "b")
    link.known.clear()
    assert register_waiting(home) == ["a", "c"]
    assert [node.name for node in link.nodes()] == ["a", "c"]


def test_a_revoked_site_is_out_and_comes_back_with_a_new_key_only(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    kit = enrol(home, name="a", key=old)
    assert revoke(home, "a").revoked is not None
    assert not kit.exists()
    with pytest.raises(RunError, match="this key was revoked"):
        enrol(home, name="a", key=old)
    enrol(home, name="a", key=new)
    assert [site.revoked is None for site in read_sites(home)] == [False, True]
    with pytest.raises(RunError, match="no site 'b' is enrolled"):
        revoke(home, "b")


def test_nobody_counts_as_shut_out_whom_the_superlink_still_lets_in(
    tmp_path: Path, home: Home, link: FakeLink
) -> None:
    enrol(home, name="a", key=key_file(tmp_path))
    link.is_up = False
    with pytest.raises(RunError, match="cannot be shut out") as caught:
        revoke(home, "a")
    assert "server start" in caught.value.remedy
    assert read_sites(home)[0].revoked is None


def other_keys() -> dict[str, tuple[bytes, str]]:
    p256 = ec.generate_private_key(ec.SECP256R1())
    private = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()
    )
    ed = ed25519.Ed25519PrivateKey.generate().public_key()
    ssh = form.Encoding.OpenSSH, form.PublicFormat.OpenSSH
    return {
        "p256": (p256.public_key().public_bytes(*ssh), "not ECDSA P-384 but ECDSA secp256r1"),
        "ed25519": (ed.public_bytes(*ssh), "not ECDSA P-384"),
        "private": (private, "must never leave the hospital"),
        "text": (b"hello", "no OpenSSH public key"),
        "empty": (b"", "no OpenSSH public key"),
    }


@pytest.mark.parametrize("kind", ["p256", "ed25519", "private", "text", "empty"])
def test_a_key_of_another_kind_is_refused(tmp_path: Path, home: Home, kind: str) -> None:
    data, message = other_keys()[kind]
    path = tmp_path / "key.pub"
    path.write_bytes(data)
    with pytest.raises(RunError, match=message):
        enrol(home, name="a", key=path)
    assert read_sites(home) == ()


def test_a_missing_key_and_a_name_that_is_none_are_refused(tmp_path: Path, home: Home) -> None:
    with pytest.raises(RunError, match=r"gone\.pub' cannot be read"):
        enrol(home, name="a", key=tmp_path / "gone.pub")
    with pytest.raises(RunError, match=r"name is '\.\./a'"):
        enrol(home, name="../a", key=key_file(tmp_path))
