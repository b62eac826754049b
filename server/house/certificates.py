"""The coordinator's own certificate authority, and the certificate of its server (ECDSA P-384)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import RunError
from common.files import write_atomic

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 825  # the longest that common TLS clients accept
_SKEW = timedelta(hours=1)  # clocks of hospitals differ


@dataclass(frozen=True)
class Pair:
    """A certificate and its key.

    Attributes:
        certificate: What all may see.
        key: What nobody else may see.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, certificate: Path, key: Path) -> None:
        """Write both as PEM files, the key for its owner only."""
        text = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomic(key, text, mode=0o600)
        write_atomic(certificate, self.certificate.public_bytes(serialization.Encoding.PEM))


def make_authority(name: str, *, now: datetime | None = None) -> Pair:
    """Make a certificate authority that signs itself and may sign servers, nothing beyond them."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(f"{name} authority")
    usage = _usage(signs=False, certifies=True)
    builder = (
        _builder(subject, subject, key.public_key(), _AUTHORITY_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA384()), key)


def make_server(authority: Pair, hosts: Sequence[str], *, now: datetime | None = None) -> Pair:
    """Make the certificate of a server that answers to these names and addresses.

    Args:
        authority: Signs it.
        hosts: Names and IP addresses; the first is its subject.
        now: When it begins; by default now.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = authority.certificate.subject
    names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_subject(hosts[0]), issuer, key.public_key(), _SERVER_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True, certifies=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(identifier, critical=False)
    )
    return Pair(builder.sign(authority.key, hashes.SHA384()), key)


def read_pair(certificate: Path, key: Path) -> Pair:
    """Read a certificate and its key.

    Raises:
        RunError: a file is missing or malformed, or the two do not belong together.
    """
    found = read_certificate(certificate)
    try:
        secret = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"key {str(key)!r} cannot be read: {error}", remedy="restore it from your backup"
        ) from None
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or _public(found) != _public(secret):
        raise RunError(
            f"key {str(key)!r} does not belong to certificate {str(certificate)!r}",
            remedy="restore both from the same backup",
        )
    return Pair(found, secret)


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate.

    Raises:
        RunError: the file is missing or malformed.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(
            f"certificate {str(path)!r} cannot be read: {error}",
            remedy="restore it from your backup",
        ) from None


def check_valid(certificate: Path, authority: Path, *, now: datetime | None = None) -> datetime:
    """Check that a certificate is valid today and signed by an authority that is valid today.

    Returns:
        When the earlier of the two ends.

    Raises:
        RunError: one is missing, malformed, expired or not valid yet, or the signature is not the
            authority's.
    """
    now = now or datetime.now(UTC)
    found = {path: read_certificate(path) for path in (certificate, authority)}
    for path, one in found.items():
        if now >= one.not_valid_after_utc:
            raise RunError(
                f"certificate {str(path)!r} expired on {one.not_valid_after_utc:%Y-%m-%d}",
                remedy="renew it with `grandrounds server renew`"
                if path == certificate
                else "make a new coordinator with `grandrounds server init`, and enrol again",
            )
        if now < one.not_valid_before_utc:
            raise RunError(
                f"certificate {str(path)!r} begins on {one.not_valid_before_utc:%Y-%m-%d %H:%M}",
                remedy="set this machine's clock right",
            )
    try:
        found[certificate].verify_directly_issued_by(found[authority])
    except (ValueError, TypeError, InvalidSignature):
        raise RunError(
            f"certificate {str(certificate)!r} is not signed by {str(authority)!r}",
            remedy="renew it with `grandrounds server renew`",
        ) from None
    return min(one.not_valid_after_utc for one in found.values())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    now: datetime | None,
) -> x509.CertificateBuilder:
    start = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _SKEW)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(name: str) -> x509.Name:
    # A common name holds 64 characters; clients look at the alternative names only.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _usage(*, signs: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=certifies,
        crl_sign=certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _public(owner: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    return owner.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
