"""Atomic files: whole or not there, and nothing left behind."""

import errno
import os
import subprocess
import sys

import pytest

from common.errors import is_disk_full
from common.files import write_atomic


@pytest.mark.parametrize("content", ["é\n", b"\x00\xff", "", b""])
def test_writes_text_as_utf8_and_bytes_as_they_are(tmp_path, content):
    path = tmp_path / "file"
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o644


def test_replaces_a_file_and_leaves_only_it(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "a long first version")
    write_atomic(path, "second")
    assert path.read_text() == "second"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(tmp_path, monkeypatch):
    # Broken once: writing into `path` itself loses the old content; no unlink leaves '.file.xyz'.
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, "new")
    assert is_disk_full(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_ctrl_c_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == []


def test_a_name_taken_by_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_atomic(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomic(tmp_path / "nowhere" / "file", "new")


def test_the_content_is_on_disk_before_the_name(tmp_path, monkeypatch):
    # Broken once: fsync after replace; a power cut between the two leaves an empty file.
    path, sync, seen = tmp_path / "file", os.fsync, []

    def watched(descriptor):
        sync(descriptor)
        seen.append((path.exists(), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", watched)
    write_atomic(path, b"12345")
    assert seen == [(False, 5)]


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are a POSIX matter")
def test_a_real_size_limit_is_seen_as_a_full_disk(tmp_path):
    # The kernel refuses the write itself here, not a stand-in for it.
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from common.errors import is_disk_full\n"
        "from common.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_atomic(Path(sys.argv[1]), b'x' * 2000)\n"
        "except OSError as error:\n"
        "    sys.exit(7 if is_disk_full(error) else 1)\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert os.listdir(tmp_path) == []
