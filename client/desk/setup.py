"""A new site's folder: its keys and secrets are made here and never leave."""

from __future__ import annotations

import os
import secrets
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from client.desk.kit import Kit, fingerprint, read_kit, read_node_key
from client.ledger import Ledger
from client.policy import Policy
from client.policy.template import policy_text
from client.site import CohortConfig, load_site
from common.errors import SiteError, StudyError
from common.files import write_atomic
from common.models import pick_device
from common.privacy.accounting import delta_limit
from common.schema import explain

_FOLDERS = ("keys", "approved", "approvals", "models", "kit", "run", "admin")
_KIT_FILES = ("README.txt", "ca.crt", "nginx.txt", "site.toml")
_MOST_KIT = 1 << 20  # bytes of one file
_COHORT_HEAD = """\
# Where this hospital's patients are. `declared` is the count that it publishes: rounded, and chosen
# once. `split_key` parts its patients for the site's whole life: keep it secret, never change it.
"""


@dataclass(frozen=True)
class Beginning:
    """What a new site says of itself.

    Attributes:
        name: As the coordinator enrols it.
        data: The cohort's file.
        declared: Public, rounded count of all patients.
        epsilon: The budget of a patient's life.
        delta: Likewise; five times the largest delta of one study where it is left out.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
    """

    name: str
    data: Path
    declared: int
    epsilon: float
    delta: float | None = None
    device: str = "auto"


def default_delta(declared: int) -> float:
    """Return a budget with room for five studies at the largest delta that one may have.

    >>> default_delta(200)
    0.0025
    """
    return min(5 * delta_limit(declared), 0.05)


def make_site(folder: Path, beginning: Beginning) -> str:
    """Make a site's folder.

    Args:
        folder: It must not be there, or be empty.
        beginning: What the site says of itself.

    Returns:
        The fingerprint of the site's public key.

    Raises:
        SiteError: the folder is in use, or a value is out of bounds.
    """
    check_unused(folder)
    cohort, policy = _cohort(beginning), _policy(beginning)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # the relay's user may pass through, and see nothing
    for name in _FOLDERS:
        (folder / name).mkdir(mode=0o700)
    print_of_key = _make_keys(folder / "keys")
    write_atomic(folder / "policy.toml", policy_text(policy), mode=0o600)
    write_atomic(folder / "cohort.toml", _COHORT_HEAD + cohort.to_toml(), mode=0o600)
    before = os.umask(0o077)
    try:
        Ledger(load_site(folder).ledger_path).close()
    finally:
        os.umask(before)
    return print_of_key


def check_unused(folder: Path) -> None:
    """Refuse a folder that holds anything: a ledger, above all, is never begun anew.

    Raises:
        SiteError: it does, or it is no folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SiteError(f"{str(folder)!r} is a file", remedy="give the path of a new folder")
    found = sorted(path.name for path in folder.iterdir())
    if found:
        raise SiteError(
            f"folder {str(folder)!r} is in use: it holds {found[0]!r}",
            remedy="give a new folder; a site is made once, and its ledger is never begun anew",
        )


def _cohort(beginning: Beginning) -> CohortConfig:
    data = beginning.data.expanduser()
    if not data.is_file():
        raise SiteError(
            f"--data is {str(data)!r}, and there is no such file",
            remedy="give the cohort's file: CSV, Parquet, an npz archive or an index of images",
        )
    try:
        pick_device(beginning.device)
        return CohortConfig(
            name=beginning.name,
            path=data.resolve(),
            declared=beginning.declared,
            split_key=secrets.token_hex(32),
            device=beginning.device,
        )
    except ValidationError as error:
        raise _flag_error(error) from None
    except StudyError as error:
        raise SiteError(f"--{error.message}", remedy=error.remedy) from None


def _policy(beginning: Beginning) -> Policy:
    delta = beginning.delta
    try:
        return Policy(
            epsilon=beginning.epsilon,
            delta=default_delta(beginning.declared) if delta is None else delta,
        )
    except ValidationError as error:
        raise _flag_error(error) from None


def _flag_error(error: ValidationError) -> SiteError:
    """Name the flag in place of the file's key."""
    cause = explain(error, "site init")
    return SiteError(cause.message.replace(": ", ": --", 1), remedy=cause.remedy)


def _make_keys(folder: Path) -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    form = serialization.PublicFormat.OpenSSH
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, form) + b"\n"
    write_atomic(folder / "node.key", pem, mode=0o600)
    write_atomic(folder / "node.pub", line, mode=0o600)
    write_atomic(folder / "secret", secrets.token_bytes(32), mode=0o600)
    return fingerprint(key)


def join(folder: Path, archive: Path) -> Kit:
    """Unpack the coordinator's kit, and hold it to this site.

    Args:
        folder: The site's folder.
        archive: The kit, a zip file.

    Raises:
        GrandroundsError: it is no kit, or another site's; an earlier kit then stays as it was.
    """
    site = load_site(folder)
    files = _read_archive(archive)
    kit = folder / "kit"
    kit.mkdir(mode=0o700, exist_ok=True)
    before = {name: (kit / name).read_bytes() for name in files if (kit / name).is_file()}
    _write_all(kit, files)
    try:
        found = read_kit(folder)
        if found.name != site.cohort.name:
            raise SiteError(
                f"kit {str(archive)!r} is for site {found.name!r}, and this is "
                f"{site.cohort.name!r}",
                remedy="ask the coordinator for this site's own kit",
            )
    except BaseException:
        for name in files:
            (kit / name).unlink(missing_ok=True)
        _write_all(kit, before)
        raise
    return found


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        write_atomic(folder / name, content, mode=0o600)


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the files of a kit by name; nothing is written where the archive says."""
    try:
        with zipfile.ZipFile(archive) as kit:
            infos = {info.filename: info for info in kit.infolist()}
            strange = [n for n in infos if "/" in n or "\\" in n or n in ("", ".", "..")]
            if strange:
                raise _no_kit(archive, f"it holds {strange[0][:80]!r}")
            large = [n for n, i in infos.items() if i.file_size > _MOST_KIT]
            if large:
                raise _no_kit(archive, f"{large[0][:80]!r} is larger than {_MOST_KIT} bytes")
            files = {name: kit.read(name) for name in _KIT_FILES if name in infos}
    except FileNotFoundError:
        raise SiteError(f"kit {str(archive)!r} does not exist", remedy="check the path") from None
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _no_kit(archive, str(error)) from None
    absent = [name for name in ("ca.crt", "site.toml") if name not in files]
    if absent:
        raise _no_kit(archive, f"it holds no {absent[0]!r}")
    return files


def _no_kit(archive: Path, what: str) -> SiteError:
    return SiteError(
        f"{str(archive)!r} is no kit of a coordinator: {what}",
        remedy="give the zip file that the coordinator made by: grandrounds server enroll",
    )


def key_fingerprint(folder: Path) -> str:
    """Return the fingerprint of a site's key, as `ssh-keygen -l` shows it."""
    return fingerprint(read_node_key(folder / "keys" / "node.key"))
