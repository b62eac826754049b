"""A copy of a site's folder to carry away: everything but the patients and the models."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

from client.ledger import Ledger
from common.errors import SiteError

_FILES = ("cohort.toml", "policy.toml", "report.html")
_FOLDERS = ("keys", "kit", "approved", "approvals")


def back_up(folder: Path, ledger: Ledger, target: Path) -> list[str]:
    """Write a zip archive, readable by this user alone; it holds the site's keys and secrets.

    The ledger is copied as of one moment, whatever the agent does meanwhile. Who restores it must
    reconcile: what was spent since is not in it.

    Args:
        folder: The site's folder.
        ledger: The site's ledger.
        target: The archive; it must not be there yet.

    Returns:
        The names in the archive.

    Raises:
        SiteError: the ledger cannot be copied, or the archive is there already.
        OSError: it cannot be written.
    """
    if target.exists():
        raise SiteError(
            f"FILE is {str(target)!r}, which is there already",
            remedy="give a new name; an older backup is not overwritten",
        )
    if not target.parent.is_dir():
        raise SiteError(
            f"FILE is {str(target)!r}, and {str(target.parent)!r} is no folder",
            remedy="make the folder, or give another path",
        )
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                names = _fill(archive, folder, ledger)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return names


def _fill(archive: zipfile.ZipFile, folder: Path, ledger: Ledger) -> list[str]:
    paths = [folder / name for name in _FILES]
    paths += [path for name in _FOLDERS for path in sorted((folder / name).glob("*"))]
    with tempfile.TemporaryDirectory() as scratch:
        ledger.backup(Path(scratch) / "ledger.sqlite")
        for copy in sorted(Path(scratch).iterdir()):
            archive.write(copy, copy.name)
    for path in paths:
        if path.is_file():
            archive.write(path, str(path.relative_to(folder)))
    return archive.namelist()
