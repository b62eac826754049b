"""Whether the cohort is still the one that was approved: a keyed digest of the site's files.

The digest is an HMAC under the site's secret, so that it tells nobody who reads the ledger what
the files hold. It covers the cohort's file and, where a study reads images by an index, every image
that the index names. An image that is added without being named does not count.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from client.ledger import Ledger
from client.patients.withdrawal import SECRET, read_secret
from client.site import MAIN, Site
from common.cohort.schema import CohortSchema
from common.cohort.table import read_table
from common.errors import DataError

_CHUNK = 1 << 20


def images_column(schema: CohortSchema, path: Path) -> str:
    """Return the column of the index that names images; empty where the file holds everything."""
    return "" if schema.image is None or path.suffix == ".npz" else schema.image.file


def cohort_digest(site: Site, schema: CohortSchema) -> str | None:
    """Return the keyed digest, in hex, of the files that a study would read at this site.

    Returns:
        None at a simulated site, which has no secret.

    Raises:
        DataError: a file is missing or unreadable.
        SiteError: the secret is damaged.
    """
    if not (site.folder / SECRET).exists():
        return None
    path = site.source.path
    mac = hmac.new(read_secret(site.folder), b"cohort", hashlib.sha256)
    files = [path, *_images(path, schema)]
    for file in files:
        mac.update(_digest_of(file))
    return mac.hexdigest()


def _images(path: Path, schema: CohortSchema) -> list[Path]:
    column = images_column(schema, path)
    return [path.parent / name for name in read_table(path, schema)[column]] if column else []


def _digest_of(file: Path) -> bytes:
    mac = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                mac.update(chunk)
    except OSError as error:
        raise DataError(
            f"cohort file {str(file)!r} cannot be read: {error.strerror}",
            remedy="check path in cohort.toml, and that the agent's user may read it",
        ) from None
    return mac.digest()


def confirmed_digest(site: Site, ledger: Ledger, schema: CohortSchema) -> str | None:
    """Return the digest last approved or confirmed for such a study of the cohort, if any was."""
    column = images_column(schema, site.source.path)
    own = {"images": column, "cohort": site.cohort_name}
    default = {"images": "", "cohort": MAIN}
    bodies = ({**default, **e.body} for e in ledger.entries("cohort"))
    known = [body for body in bodies if own.items() <= body.items()]
    return str(known[-1]["digest"]) if known else None


def has_changed(site: Site, ledger: Ledger, schema: CohortSchema) -> bool:
    """Tell whether the files are others than those approved; never at a simulated site."""
    before = confirmed_digest(site, ledger, schema)
    return before is not None and cohort_digest(site, schema) not in (None, before)


def confirm_cohort(site: Site, ledger: Ledger, schema: CohortSchema, *, by: str) -> bool:
    """Write the digest of the files as they are now into the ledger, unless it is there.

    Returns:
        Whether the files were others than those confirmed before, if any were.
    """
    now, before = cohort_digest(site, schema), confirmed_digest(site, ledger, schema)
    if now is None or now == before:
        return False
    column = images_column(schema, site.source.path)
    body = {"digest": now, "images": column, "cohort": site.cohort_name, "by": by}
    ledger.record("cohort", body)
    return before is not None
