"""Hospitals let in: their names, public keys and kits.

A hospital makes its keys itself and hands over the public one. What it gets is a kit: the
authority's certificate, the address and its name, none of them secret.
"""

from __future__ import annotations

import fcntl
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter, ValidationError

from common.errors import RunError
from common.files import write_atomic
from common.fingerprint import fingerprint_of
from common.schema import Name, Table, dump_toml, explain, read_toml
from server.house import superlink
from server.house.certificates import read_certificate
from server.house.home import Home
from server.house.superlink import SuperLink

_SITES = "sites.toml"
_README = """\
Kit for the hospital {name}
===========================

1. Unpack it into the folder `kit` of your site:

       unzip {name}.zip -d DIR/kit

2. Start the site, which then calls {address}:

       grandrounds site start DIR

Nothing in this kit is secret. `ca.crt` says which coordinator to trust: ask the coordinator, over
another channel, whether its SHA-256 fingerprint is

    {fingerprint}

Your private key never leaves DIR/keys. The coordinator knows only its public half.

The hospital needs no open port: it calls the coordinator, never the other way round. What it can
reach there is `/v1/fleet/` and `/health` of https://{address}, as the file `nginx.txt` says.
"""
_NGINX = """\
The coordinator's filter (nginx) lets hospitals reach two things at https://{address}:

    /v1/fleet/   messages of enrolled nodes, each signed with the node's key
    /health      whether the coordinator is up

All else is refused with 403: starting a run and registering a node need no password, so they can
be reached on the coordinator's own machine only. Try it:

    curl --cacert ca.crt https://{address}/health
    curl --cacert ca.crt -X POST https://{address}/v1/control/start-run     # 403
"""


class Site(Table):
    """A hospital in sites.toml.

    Attributes:
        fingerprint: SHA-256 of its public key, as `ssh-keygen -l` shows it.
        node: Its number at the SuperLink; None until the SuperLink was told.
        enrolled: When, ISO 8601.
        revoked: When it was shut out; None while it is in.
    """

    name: Name
    fingerprint: str
    node: int | None = None
    enrolled: str
    revoked: str | None = None


class _Sites(Table):
    site: tuple[Site, ...] = ()


@dataclass(frozen=True)
class PublicKey:
    """A hospital's public key.

    Attributes:
        line: As it stands in an OpenSSH file, without the comment.
        pem: As Flower sends it.
    """

    line: str
    pem: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256, as `ssh-keygen -l` shows it."""
        return fingerprint_of(self.line)


def read_public_key(path: Path) -> PublicKey:
    """Read an ECDSA P-384 public key in OpenSSH's format.

    Raises:
        RunError: the file is missing, or holds something else, a private key above all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"key {str(path)!r} cannot be read: {error.strerror}",
            remedy="give the file that the hospital sent, keys/node.pub of its site",
        ) from None
    if b"PRIVATE KEY" in data:
        raise RunError(
            f"key {str(path)!r} is a private key, which must never leave the hospital",
            remedy="delete it, have the hospital make new keys, and ask for keys/node.pub",
        )
    try:
        key = serialization.load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RunError(
            f"key {str(path)!r} is no OpenSSH public key: {error}",
            remedy="ask the hospital for keys/node.pub of its site",
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise RunError(
            f"key {str(path)!r} is not ECDSA P-384 but {_kind(key)}",
            remedy="ask for keys/node.pub of the site, or one of ssh-keygen -t ecdsa -b 384",
        )
    encoding, form = serialization.Encoding, serialization.PublicFormat
    line = key.public_bytes(encoding.OpenSSH, form.OpenSSH).decode()
    return PublicKey(line, key.public_bytes(encoding.PEM, form.SubjectPublicKeyInfo))


def read_sites(home: Home) -> tuple[Site, ...]:
    """Return all hospitals ever enrolled, in that order.

    Raises:
        RunError: sites.toml is malformed.
    """
    path = home.folder / _SITES
    if not path.exists():
        return ()
    try:
        return _Sites.model_validate(read_toml(path, what="sites")).site
    except ValidationError as error:
        cause = explain(error, str(path))
        raise RunError(cause.message, remedy=cause.remedy) from None


def find_site(home: Home, name: str) -> Site:
    """Return the hospital of that name that is in.

    Raises:
        RunError: none is.
    """
    sites = [site for site in read_sites(home) if site.revoked is None]
    for site in sites:
        if site.name == name:
            return site
    names = ", ".join(site.name for site in sites) or "none"
    raise RunError(f"no site {name!r} is enrolled", remedy=f"enrolled: {names}")


def enrol(home: Home, *, name: str, key: Path) -> Path:
    """Let a hospital in and write its kit; the same name and key again give the same kit.

    Args:
        home: The coordinator's folder.
        name: What the hospital is called, in reports too.
        key: Its public key.

    Returns:
        The kit.

    Raises:
        RunError: the key is no good, or name or key belong to another hospital.
    """
    name = _checked_name(name)
    public = read_public_key(key)
    with _locked(home):
        sites = read_sites(home)
        known = _known(sites, name, public)
        if known is None:
            write_atomic(home.folder / "sites" / f"{name}.pub", f"{public.line} {name}\n")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            known = Site(name=name, fingerprint=public.fingerprint, enrolled=now)
            _write(home, (*sites, known))
        link = superlink.of(home)
        if known.node is None and link.answers():
            _register(home, link)
        return _write_kit(home, known)


def register_waiting(home: Home) -> list[str]:
    """Register at the running SuperLink whoever it does not know; return their names.

    Raises:
        OSError: the SuperLink does not answer.
        RunError: a file is malformed.
    """
    with _locked(home):
        return _register(home, superlink.of(home))


def revoke(home: Home, name: str) -> Site:
    """Shut a hospital out for good; its key can never be enrolled again.

    Raises:
        RunError: no such hospital is enrolled, or the SuperLink does not answer.
    """
    with _locked(home):
        sites = read_sites(home)
        site = find_site(home, name)
        if site.node is not None:
            _unregister(home, site)
        gone = site.model_copy(update={"revoked": datetime.now(UTC).isoformat(timespec="seconds")})
        _write(home, tuple(gone if s == site else s for s in sites))
        (home.folder / "kits" / f"{name}.zip").unlink(missing_ok=True)
        return gone


def _known(sites: tuple[Site, ...], name: str, public: PublicKey) -> Site | None:
    """Return the hospital that has this very name and key already, or refuse."""
    for site in sites:
        same = site.fingerprint == public.fingerprint
        if site.revoked is not None:
            if same:
                raise RunError(
                    f"this key was revoked on {site.revoked[:10]}, as site {site.name!r}",
                    remedy="have the hospital make new keys, and enrol those",
                )
        elif same and site.name == name:
            return site
        elif same:
            raise RunError(
                f"this key belongs to site {site.name!r}, which is enrolled already",
                remedy="each site has a key of its own: have this one make its own",
            )
        elif site.name == name:
            raise RunError(
                f"a site {name!r} is enrolled already, with key {site.fingerprint}",
                remedy=f"choose another name, or first revoke it: grandrounds server revoke DIR "
                f"{name}",
            )
    return None


def _register(home: Home, link: SuperLink) -> list[str]:
    """Bring SuperLink and sites.toml together; a SuperLink begun anew knows nobody."""
    nodes = {node.public_key: node for node in link.nodes()}
    before, sites, registered = read_sites(home), [], []
    for site in before:
        if site.revoked is None:
            public = read_public_key(home.folder / "sites" / f"{site.name}.pub")
            if node := nodes.get(public.pem):
                number = node.id
            else:
                number = link.register(public.pem, site.name)
                registered.append(site.name)
            site = site.model_copy(update={"node": number})
        sites.append(site)
    if tuple(sites) != before:
        _write(home, tuple(sites))
    return registered


def _unregister(home: Home, site: Site) -> None:
    link = superlink.of(home)
    try:
        if site.node is not None:
            link.unregister(site.node)
    except KeyError:
        pass  # a SuperLink begun anew does not know it
    except OSError as error:
        raise RunError(
            f"site {site.name!r} cannot be shut out: {error}",
            remedy=f"start the coordinator first: grandrounds server start {home.folder}",
        ) from None


def _write_kit(home: Home, site: Site) -> Path:
    """Write the kit: the same bytes for the same content."""
    digest = read_certificate(home.ca).fingerprint(hashes.SHA256()).hex(":").upper()
    values = {
        "address": home.config.address,
        "name": site.name,
        "federation": home.config.federation,
        "key": site.fingerprint,
    }
    words = {**values, "fingerprint": digest}
    files = {
        "README.txt": _README.format(**words),
        "ca.crt": home.ca.read_text(encoding="utf-8"),
        "nginx.txt": _NGINX.format(**words),
        "site.toml": dump_toml(values),
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as kit:
        for file, text in files.items():
            info = zipfile.ZipInfo(file)  # without the hour, which would change the bytes
            info.external_attr = 0o644 << 16
            kit.writestr(info, text)
    path = home.folder / "kits" / f"{site.name}.zip"
    write_atomic(path, content.getvalue())
    return path


def _write(home: Home, sites: tuple[Site, ...]) -> None:
    values: dict[str, Any] = {"site": [site.model_dump() for site in sites]}
    write_atomic(home.folder / _SITES, dump_toml(values))


def _checked_name(name: str) -> str:
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise RunError(
            f"name is {name!r}: it is not a plain name",
            remedy="use up to 64 of a-z, 0-9, '-' and '_', a letter or digit first",
        ) from None


def _kind(key: object) -> str:
    return f"ECDSA {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else "no ECDSA"


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Let one at a time change who is enrolled."""
    with (home.folder / "sites" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
