"""One program a folder: found, refused a second time, stopped, and started on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import RunError
from common.running import daemon

# A program for tests: it holds a pid file until SIGTERM.
_HOLDS = """
import sys, time
from pathlib import Path
from common.running.daemon import hold
from common.running.supervision import until_signal
with hold(Path(sys.argv[1])), until_signal() as stop:
    print("held", flush=True)
    stop.wait()
"""


def holding(pid_file: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(pid_file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_holds_the_file_is_found_and_a_second_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    assert daemon.holder(path) is None
    with daemon.hold(path):
        assert daemon.holder(path) == os.getpid()
        with pytest.raises(RunError, match=rf"process {os.getpid()}"), daemon.hold(path):
            pass
    assert daemon.holder(path) is None


def test_a_file_left_behind_by_a_crash_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text(f"{os.getpid()}\n")  # a number that another process has by now
    assert daemon.holder(path) is None
    assert not daemon.stop(path, timeout_s=1)
    with daemon.hold(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_another_process_is_stopped_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    with holding(path) as process:
        assert daemon.holder(path) == process.pid
        assert daemon.stop(path, timeout_s=20)
        assert process.wait(timeout=20) == 0
    assert daemon.holder(path) is None


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    with holding(path) as process:
        process.kill()
        process.wait()
        assert daemon.holder(path) is None


def test_a_program_that_ends_at_once_is_told_with_its_own_words(tmp_path: Path) -> None:
    error = daemon.complain(RunError("the port is taken", remedy="take another"))
    module = tmp_path / "dies.py"
    module.write_text(f"import sys; sys.exit({error!r})")
    with pytest.raises(RunError) as caught:
        daemon.start(
            "dies",
            log=tmp_path / "log",
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            ready=lambda: False,
            timeout_s=30,
        )
    assert caught.value.message == "the port is taken"
    assert caught.value.remedy == "take another"


def test_a_program_that_fails_otherwise_shows_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("raise ValueError('oops')")
    with pytest.raises(RunError, match="oops"):
        daemon.start(
            "dies",
            log=tmp_path / "log",
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            ready=lambda: False,
            timeout_s=30,
        )


def test_a_program_goes_on_in_a_log_that_was_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(
        "import time\nfrom pathlib import Path\nprint('one', flush=True)\n"
        "while not Path('go').exists(): time.sleep(0.02)\nprint('two', flush=True)\n"
    )
    log = tmp_path / "log"
    daemon.start(
        "talks",
        log=log,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        ready=lambda: log.read_text() == "one\n",
        timeout_s=30,
    )
    os.truncate(log, 0)
    (tmp_path / "go").touch()
    end = time.monotonic() + 30
    while not log.stat().st_size:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert log.read_bytes() == b"two\n"
