"""Fetch a public data set: resumed where it stopped, checked, and only then given its name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import httpx

from common.errors import DataError, GrandroundsError, RunError, is_disk_full
from simulations.datasets import DataFile, Dataset, digest_of, file_state, partial_path

Meter = Callable[[DataFile, int], None]  # told how many bytes of a file are here

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_NOT_REACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)


def fetch(
    dataset: Dataset, folder: Path, *, say: Callable[[str], None], meter: Meter
) -> list[Path]:
    """Make a data set's files be below a data folder, and return their paths.

    A file that is there and correct is left alone; one that is there and differs is never replaced.
    A file grows under another name (`.part`) and is renamed when its checksum is right. What an
    interrupted download brought is kept there, and the next call asks for the rest.

    Args:
        say: Takes one line for the user.
        meter: Takes the progress.

    Raises:
        DataError: a file that is there differs, or the folder cannot be written.
        RunError: the server cannot be reached or sends something else, or the disk is full.
    """
    missing = _missing(dataset, folder, say)
    if missing:
        with _client() as client:
            for index, file in enumerate(missing):
                say(f"{file.path}: fetching {file.url}")
                try:
                    with _no_empty_folders(folder / file.path):
                        _fetch_file(client, file, folder / file.path, meter)
                except httpx.HTTPError as error:
                    raise _lost(error, missing[index:], folder, home=dataset.home) from None
                except OSError as error:
                    raise _not_written(error, folder / file.path) from None
                say(f"{file.path}: {file.size:,} bytes, {file.algorithm} correct")
    return [folder / file.path for file in dataset.files]


def _missing(dataset: Dataset, folder: Path, say: Callable[[str], None]) -> list[DataFile]:
    missing = []
    for file in dataset.files:
        state = file_state(file, folder)
        if state == "correct":
            say(f"{file.path}: already there, {file.algorithm} correct")
        elif state == "differs":
            raise DataError(
                f"{str(folder / file.path)!r} is not the published file: its {file.algorithm} is "
                f"{digest_of(folder / file.path, file.algorithm)} and not {file.digest}",
                remedy="it is left as it is: move it away, or fetch into another folder (--to DIR)",
            )
        else:
            missing.append(file)
    return missing


def _client() -> httpx.Client:
    try:
        # Compressed on the way, a file's bytes could not be counted or resumed.
        headers = {"Accept-Encoding": "identity"}
        return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers=headers)
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        raise RunError(
            f"the network settings of the environment cannot be used: {error}",
            remedy="check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE",
        ) from None


@contextmanager
def _no_empty_folders(path: Path) -> Iterator[None]:
    """Take away the folders that were made for a file of which nothing came."""
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        yield
    finally:
        for parent in made:
            with suppress(OSError):  # something is in it
                parent.rmdir()


def _fetch_file(client: httpx.Client, file: DataFile, path: Path, meter: Meter) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = partial_path(path)
    with _only_writer(part) as out:
        if out.tell() > file.size:
            out.truncate(out.seek(0))
        if out.tell() < file.size:
            _stream(client, file, out, meter)
        os.fsync(out.fileno())
        found = digest_of(part, file.algorithm)
        if found != file.digest:
            part.unlink()
            raise RunError(
                f"{file.url} is not the published file: its {file.algorithm} is {found} and not "
                f"{file.digest}; it was removed",
                remedy="fetch again; if it stays so, the file or a proxy on the way has changed it",
            )
        part.replace(path)


@contextmanager
def _only_writer(part: Path) -> Iterator[FileIO]:
    """Open a partial file at its end; an empty one does not stay."""
    with FileIO(part, "a") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our opening it and locking it, another may have finished and renamed it.
            ours = part.exists() and os.path.samestat(os.fstat(out.fileno()), part.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            raise RunError(
                f"another fetch is writing {str(part)!r}", remedy="wait until it is done"
            )
        try:
            out.seek(0, os.SEEK_END)
            yield out
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()


def _stream(client: httpx.Client, file: DataFile, out: FileIO, meter: Meter) -> None:
    start = out.tell()
    headers = {"Range": f"bytes={start}-"} if start else {}
    with client.stream("GET", file.url, headers=headers) as response:
        response.raise_for_status()
        done = 0 if response.status_code == httpx.codes.OK else start
        _check_answer(response, file, done)
        out.truncate(done)  # to nothing where the server does not resume
        meter(file, done)
        for chunk in response.iter_raw():
            done += len(chunk)
            if done > file.size:
                out.truncate(0)
                raise _other_file(file, f"more than {file.size:,} bytes")
            _write_all(out, chunk)
            meter(file, done)
    if done < file.size:
        raise httpx.RemoteProtocolError("the server stopped early")


def _check_answer(response: httpx.Response, file: DataFile, start: int) -> None:
    """Refuse, before anything is written, an answer that cannot be the rest of the file."""
    if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise _other_file(file, f"something else than the bytes from {start:,} on")
    length = response.headers.get("Content-Length")
    if length is not None and start + int(length) != file.size:
        raise _other_file(file, f"{start + int(length):,} bytes")


def _write_all(out: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)  # without a buffer, so that what has come is in the file at once
    while rest:
        rest = rest[out.write(rest) :]


def _other_file(file: DataFile, sent: str) -> RunError:
    return RunError(
        f"{file.url} is not the published file of {file.size:,} bytes: the server sends {sent}",
        remedy="a login page or a proxy may have answered in its place: open the address in a "
        "browser, then fetch again",
    )


def _lost(
    error: httpx.HTTPError, missing: Sequence[DataFile], folder: Path, *, home: str
) -> RunError:
    file = missing[0]
    host, reason = httpx.URL(file.url).host, str(error) or type(error).__name__
    if isinstance(error, httpx.HTTPStatusError):
        answer = f"{error.response.status_code} {error.response.reason_phrase}".strip()
        what = f"{host} answers {answer} to {file.url}"
    elif isinstance(error, _NOT_REACHED):
        what = f"cannot reach {host} ({reason}); tried {file.url}"
    else:
        what = f"the download of {file.url} was interrupted ({reason})"
    part = partial_path(folder / file.path)
    kept = "nothing of it was written"
    if part.exists():
        kept = f"the {part.stat().st_size:,} of {file.size:,} bytes that came are kept in {part}"
    again = "fetch again when the network is there"
    if isinstance(error, httpx.HTTPStatusError):
        # Resuming or a better network would not help where the file is not, or not for us.
        again = f"see at {home} whether the file has moved, or fetch again later"
    if "CERTIFICATE" in reason:
        again = "name your organisation's certificates in SSL_CERT_FILE and fetch again"
    lines = [f"{again} (what is kept is not fetched twice), or fetch by hand, also on another"]
    lines[0] += " machine, check the sums, and place the files so (--to DIR: another folder):"
    for one in missing:
        lines += [f"    {one.url}", f"      to {folder / one.path}", f"      {one.checksum}"]
    return RunError(f"{what}; {kept}", remedy="\n".join(lines))


def _not_written(error: OSError, path: Path) -> GrandroundsError:
    if is_disk_full(error):
        return RunError(
            f"the disk is full; what came of {path.name} is kept in {partial_path(path)}",
            remedy="free some space and fetch again: it goes on from there; or give --to DIR",
        )
    return DataError(
        f"{str(path)!r} cannot be written: {error.strerror}",
        remedy="give a folder that you can write to: --to DIR",
    )
