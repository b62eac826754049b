"""A new site: what is made, who may read it, and kits that are none."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tomllib
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.desk.kit import read_kit, read_node_key
from client.desk.setup import default_delta, join, key_fingerprint
from client.ledger import Ledger
from client.policy import Policy
from client.policy.template import policy_text
from client.site import load_site
from common.errors import GrandroundsError, SiteError
from common.schema import dump_toml
from tests.small_world import made_site


def modes(folder: Path) -> dict[str, int]:
    paths = [folder, *folder.rglob("*")]
    return {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in paths}


def test_a_new_folder_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    # Break it once: leave out the mode of one file.
    found = modes(made_site(tmp_path / "alpha"))
    assert found.pop(".") == 0o711
    folders = {"keys", "approved", "approvals", "models", "kit", "run", "admin"}
    assert folders < found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}
    files = {"cohort.toml", "policy.toml", "ledger.sqlite", "ledger.head"}
    keys = {"keys/node.key", "keys/node.pub", "keys/secret"}
    assert found.keys() == folders | files | keys


def test_a_new_site_is_read_as_it_was_described(tmp_path: Path) -> None:
    folder = made_site(tmp_path / "alpha", declared=200, epsilon=3.0)
    site = load_site(folder)
    assert (site.cohort.name, site.cohort.declared, site.device) == ("alpha", 200, "cpu")
    assert site.source.path == tmp_path / "alpha.csv"
    assert site.policy == Policy(epsilon=3.0, delta=default_delta(200))
    assert len(site.source.split_key) == 32
    assert len((folder / "keys" / "secret").read_bytes()) == 32


def test_no_two_sites_share_a_secret(tmp_path: Path) -> None:
    made = [made_site(tmp_path / name) for name in ("alpha", "beta")]
    for name in ("keys/secret", "keys/node.key", "keys/node.pub"):
        assert len({(folder / name).read_bytes() for folder in made}) == 2
    assert len({load_site(folder).source.split_key for folder in made}) == 2


def test_a_new_ledger_is_empty_whole_and_signed(tmp_path: Path) -> None:
    ledger = Ledger(load_site(made_site(tmp_path / "alpha")).ledger_path)
    assert (ledger.verify().ok, ledger.entries(), ledger.behind) == (True, [], None)
    ledger.close()


def test_the_key_pair_is_what_flower_and_openssh_expect(tmp_path: Path) -> None:
    keys = made_site(tmp_path / "alpha") / "keys"
    public = serialization.load_ssh_public_key((keys / "node.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp384r1"
    own = read_node_key(keys / "node.key").public_key()
    assert own.public_numbers() == public.public_numbers()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_the_fingerprint_is_the_one_that_ssh_keygen_shows(tmp_path: Path) -> None:
    folder = made_site(tmp_path / "alpha")
    command = ["ssh-keygen", "-l", "-f", str(folder / "keys" / "node.pub")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert key_fingerprint(folder) == shown.split()[1]


def test_the_first_policy_explains_every_key_and_is_read_back() -> None:
    policy = Policy(epsilon=3.0, delta=1e-3, hours="20:00-06:00", noise_seed=7)
    text = policy_text(policy)
    assert Policy.model_validate(tomllib.loads(text)) == policy
    lines = text.splitlines()
    for key in Policy.model_fields:
        [number] = [n for n, x in enumerate(lines) if x.removeprefix("# ").startswith(f"{key} = ")]
        assert lines[number - 1].startswith("# ")
    # What stands behind a '#' is an example that works once it is taken away.
    examples = "\n".join(x.removeprefix("# ") for x in lines if " = " in x)
    assert Policy.model_validate(tomllib.loads(examples)).max_steps == 2000


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "../alpha"}, "--name"),
    ({"name": "Alpha"}, "--name"),
    ({"declared": 0}, "--declared"),
    ({"epsilon": 0.0}, "--epsilon"),
    ({"epsilon": float("nan")}, "--epsilon"),
    ({"delta": 1.0}, "--delta"),
    ({"device": "quantum"}, "--device"),
]


@pytest.mark.parametrize(("changes", "named"), BAD, ids=lambda x: str(x))
def test_a_value_that_is_none_is_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SiteError) as caught:
        made_site(tmp_path / "alpha", **changes)
    assert named in caught.value.message
    assert caught.value.remedy
    assert not (tmp_path / "alpha").exists()


def test_patients_that_are_not_there_are_named(tmp_path: Path) -> None:
    from client.desk.setup import Beginning, make_site

    beginning = Beginning("alpha", tmp_path / "absent.csv", 40, 5.0)
    with pytest.raises(SiteError, match=r"absent\.csv"):
        make_site(tmp_path / "alpha", beginning)


def test_a_folder_in_use_is_left_as_it_is(tmp_path: Path) -> None:
    folder = made_site(tmp_path / "alpha")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(SiteError, match="is in use"):
        made_site(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteError, match="is a file"):
        made_site(tmp_path / "file")
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The coordinator's kit


def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def kit(path: Path, *, files: dict[str, bytes | str] | None = None, **changes: str) -> Path:
    values = {"address": "localhost:9092", "name": "alpha", "federation": "default", **changes}
    content: dict[str, bytes | str] = {"ca.crt": certificate(), "site.toml": dump_toml(values)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**content, **(files or {})}.items():
            if data != "":
                archive.writestr(name, data)
    return path


def test_a_kit_is_unpacked_and_read(tmp_path: Path) -> None:
    folder = made_site(tmp_path / "alpha")
    found = join(folder, kit(tmp_path / "k.zip", key=key_fingerprint(folder)))
    assert (found.name, found.address) == ("alpha", "localhost:9092")
    assert read_kit(folder) == found
    assert {oct(m) for n, m in modes(folder).items() if n.startswith("kit/")} == {"0o600"}


STRANGE: list[tuple[dict[str, Any], str]] = [
    ({"name": "beta"}, "beta"),
    ({"key": "SHA256:another"}, "key"),
    ({"surname": "x"}, "surname"),
    ({"files": {"../policy.toml": "epsilon = 1000"}}, "policy.toml"),
    ({"files": {"/etc/passwd": "x"}}, "passwd"),
    ({"files": {"a\\..\\b": "x"}}, "holds"),
    ({"files": {"site.toml": "["}}, "TOML"),
    ({"files": {"site.toml": ""}}, "site.toml"),
    ({"files": {"ca.crt": "no certificate"}}, "ca.crt"),
    ({"files": {"README.txt": "x" * (1 << 20) + "y"}}, "README.txt"),
]


@pytest.mark.parametrize(("changes", "named"), STRANGE, ids=lambda x: str(x)[:40])
def test_what_is_no_kit_for_this_site_changes_nothing(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    folder = made_site(tmp_path / "alpha")
    join(folder, kit(tmp_path / "good.zip"))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    bad = kit(tmp_path / "bad.zip", **changes)
    before[bad] = bad.read_bytes()
    with pytest.raises(GrandroundsError) as caught:
        join(folder, bad)
    assert named in caught.value.message
    assert caught.value.remedy
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", None])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes | None) -> None:
    folder = made_site(tmp_path / "alpha")
    if content is not None:
        (tmp_path / "kit.zip").write_bytes(content)
    with pytest.raises(SiteError, match=r"kit\.zip"):
        join(folder, tmp_path / "kit.zip")
