"""The coordinator's certificates: who signed them, for whom, until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from common.errors import RunError
from server.house.certificates import Pair, check_valid, make_authority, make_server, read_pair

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def written(
    folder: Path, *, authority: Pair | None = None, at: datetime = NOW
) -> tuple[Path, Path]:
    authority = authority or make_authority("test", now=at)
    authority.write(folder / "ca.crt", folder / "ca.key")
    server = make_server(authority, ["example.org", "localhost", "127.0.0.1"], now=at)
    server.write(folder / "server.crt", folder / "server.key")
    return folder / "server.crt", folder / "ca.crt"


def test_a_client_that_trusts_the_authority_trusts_the_server_by_each_of_its_names() -> None:
    authority = make_authority("test", now=NOW)
    server = make_server(authority, ["example.org", "localhost", "127.0.0.1"], now=NOW)
    builder = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    for name in (x509.DNSName("example.org"), x509.DNSName("localhost")):
        builder.build_server_verifier(name).verify(server.certificate, [])
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("other.org")).verify(server.certificate, [])
    other = PolicyBuilder().store(Store([make_authority("test", now=NOW).certificate])).time(NOW)
    with pytest.raises(VerificationError):
        other.build_server_verifier(x509.DNSName("localhost")).verify(server.certificate, [])


def test_keys_are_on_p384_and_addresses_are_addresses() -> None:
    server = make_server(make_authority("test"), ["10.1.2.3", "localhost"])
    assert isinstance(server.key.curve, ec.SECP384R1)
    names = server.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_an_authority_signs_servers_and_a_server_signs_nobody() -> None:
    authority = make_authority("test")
    server = make_server(authority, ["localhost"])
    kind = x509.BasicConstraints
    assert authority.certificate.extensions.get_extension_for_class(kind).value.ca
    assert not server.certificate.extensions.get_extension_for_class(kind).value.ca


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    written(tmp_path)
    for name in ("ca.key", "server.key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_valid_pair_is_read_and_its_end_told(tmp_path: Path) -> None:
    certificate, authority = written(tmp_path)
    assert check_valid(certificate, authority, now=NOW) == NOW + timedelta(days=825)
    read_pair(certificate, tmp_path / "server.key")


def test_an_expired_certificate_is_refused_with_the_way_out(tmp_path: Path) -> None:
    certificate, authority = written(tmp_path)
    with pytest.raises(RunError, match=r"server.crt' expired on 2028-04-05") as caught:
        check_valid(certificate, authority, now=NOW + timedelta(days=826))
    assert "server renew" in caught.value.remedy


def test_a_certificate_from_the_future_points_to_the_clock(tmp_path: Path) -> None:
    certificate, authority = written(tmp_path)
    with pytest.raises(RunError) as caught:
        check_valid(certificate, authority, now=NOW - timedelta(days=1))
    assert "clock" in caught.value.remedy


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    certificate, authority = written(tmp_path)
    make_authority("test", now=NOW).write(authority, tmp_path / "ca.key")
    with pytest.raises(RunError, match="not signed by"):
        check_valid(certificate, authority, now=NOW)


def test_a_key_that_does_not_match_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    certificate, _ = written(tmp_path)
    with pytest.raises(RunError, match="does not belong to"):
        read_pair(certificate, tmp_path / "ca.key")
    certificate.write_text("nothing")
    with pytest.raises(RunError, match="cannot be read"):
        read_pair(certificate, tmp_path / "server.key")
