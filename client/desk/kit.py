"""The kit that the coordinator gave a hospital: whom to call, and whose certificate to trust."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from common.errors import SiteError
from common.fingerprint import fingerprint_of
from common.schema import Name, Table, explain, read_toml


class _KitConfig(Table):
    """site.toml of a kit; `key` is the fingerprint of the key that was enrolled."""

    address: str
    name: Name
    federation: Name = "grandrounds"
    key: str | None = None


@dataclass(frozen=True)
class Kit:
    """A kit, read.

    Attributes:
        address: Host and port of the coordinator.
        name: What it calls this hospital.
        ca: The certificate to trust.
    """

    address: str
    name: str
    ca: Path


def read_kit(folder: Path, *, now: datetime | None = None) -> Kit:
    """Read DIR/kit and check it against the site's own key.

    Args:
        folder: The site's folder.
        now: The time at which the certificate must be valid; by default now.

    Raises:
        SiteError: there is no kit, it is malformed or expired, or made for another key.
    """
    kit = folder / "kit"
    for name in ("site.toml", "ca.crt"):
        if not (kit / name).is_file():
            raise SiteError(
                f"the site has no kit: {str(kit / name)!r} is missing",
                remedy=f"send keys/node.pub to the coordinator, and unpack the kit you get: "
                f"unzip NAME.zip -d {kit}",
            )
    try:
        config = _KitConfig.model_validate(read_toml(kit / "site.toml", what="kit"))
    except ValidationError as error:
        cause = explain(error, str(kit / "site.toml"))
        raise SiteError(cause.message, remedy="unpack the kit again") from None
    _check_authority(kit / "ca.crt", now or datetime.now(UTC))
    own = fingerprint(read_node_key(folder / "keys" / "node.key"))
    if config.key is not None and config.key != own:
        raise SiteError(
            f"the kit was made for key {config.key}, but {str(folder / 'keys' / 'node.key')!r}"
            f" is {own}",
            remedy="unpack the kit of this site, or have the coordinator enrol keys/node.pub",
        )
    return Kit(address=config.address, name=config.name, ca=kit / "ca.crt")


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the site's private key, as PEM or as OpenSSH writes it.

    Raises:
        SiteError: it is missing, has a passphrase, or is no ECDSA P-384 key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SiteError(
            f"key {str(path)!r} cannot be read: {error.strerror}",
            remedy="run as the site's own user, or restore the key from your backup",
        ) from None
    load = serialization.load_pem_private_key
    if b"OPENSSH" in data:
        load = serialization.load_ssh_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError) as error:
        raise SiteError(
            f"key {str(path)!r} is no private key without passphrase: {error}",
            remedy="restore it from your backup",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise SiteError(
            f"key {str(path)!r} is not ECDSA P-384", remedy="restore it from your backup"
        )
    return key


def as_openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as Flower's SuperNode reads it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public key's SHA-256 as `ssh-keygen -l` shows it."""
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return fingerprint_of(key.public_key().public_bytes(encoding, form).decode())


def _check_authority(path: Path, now: datetime) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise SiteError(
            f"certificate {str(path)!r} is malformed: {error}", remedy="unpack the kit again"
        ) from None
    if now >= certificate.not_valid_after_utc:
        raise SiteError(
            f"certificate {str(path)!r} expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            remedy="ask the coordinator for a new kit",
        )
    if now < certificate.not_valid_before_utc:
        raise SiteError(
            f"certificate {str(path)!r} begins on {certificate.not_valid_before_utc:%Y-%m-%d}",
            remedy="set this machine's clock right",
        )
