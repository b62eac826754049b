"""Fetching over HTTP, from a server on this machine: whole, resumed, refused, and never half."""

import errno
import hashlib
import json
import os
import re
import resource
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import simulations.datasets
import simulations.fetch
from common.errors import DataError, RunError
from simulations.datasets import DataFile, Dataset, partial_path
from simulations.fetch import fetch
from tests.command_line import run_command

BODY = bytes(i * 7 % 251 for i in range(20_000))
SECOND = b"the second file"


class Home:
    """A server of files with HTTP ranges, and with faults to choose."""

    def __init__(self):
        self.files = {"/a.data": BODY, "/b.data": SECOND}
        self.requests = []  # (path, Range header)
        self.stop_after = None  # close the connection after so many bytes of an answer
        self.resumes = True
        self.says_length = True
        self.shift = 0  # answer a range from another place than asked
        self.status = None

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        if self.status:
            handler.send_response(self.status)
            handler.end_headers()
            return
        body, start = self.files[handler.path], 0
        if asked and self.resumes:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + self.shift
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        body = body[start:]
        if self.says_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.stop_after])


@pytest.fixture
def home(monkeypatch):
    """A running server; its `dataset` names its files with their true sums."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Home()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.dataset = dataset_at(f"http://127.0.0.1:{server.server_port}")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def dataset_at(base):
    files = (
        DataFile("set/a.data", f"{base}/a.data", "sha256", hashlib.sha256(BODY).hexdigest(),
                 len(BODY)),
        DataFile("set/b.data", f"{base}/b.data", "md5", hashlib.md5(SECOND).hexdigest(),
                 len(SECOND)),
    )  # fmt: skip
    return Dataset("tiny", "Tiny", "CC0", base, "10.1/1", 2, "files", files)


def quietly(dataset, folder):
    """Fetch; return the paths, what was said, and the progress of each file."""
    said, progress = [], []
    paths = fetch(
        dataset, folder, say=said.append, meter=lambda f, done: progress.append((f.path, done))
    )
    return paths, "\n".join(said), progress


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_file_arrives_whole_under_its_name_alone(home, tmp_path):
    paths, said, progress = quietly(home.dataset, tmp_path / "new")
    assert paths == [tmp_path / "new/set/a.data", tmp_path / "new/set/b.data"]
    assert contents(tmp_path) == {"a.data": BODY, "b.data": SECOND}
    assert "20,000 bytes, sha256 correct" in said
    done = [bytes_ for path, bytes_ in progress if path == "set/a.data"]
    assert done[0] == 0
    assert done[-1] == len(BODY)
    assert done == sorted(done)


def test_what_is_there_and_correct_is_not_fetched(home, tmp_path):
    quietly(home.dataset, tmp_path)
    home.requests.clear()
    _, said, _ = quietly(home.dataset, tmp_path)
    assert home.requests == []
    assert said.count("already there") == 2


@pytest.mark.parametrize("says_length", [True, False])
def test_an_interrupted_download_is_kept_and_goes_on(home, tmp_path, says_length):
    """Faults: a short file taken for whole; a resume from 0, or appended to the wrong place."""
    home.stop_after, home.says_length = 7_000, says_length
    with pytest.raises(RunError, match="interrupted") as caught:
        quietly(home.dataset, tmp_path)
    assert contents(tmp_path) == {"a.data.part": BODY[:7_000]}
    assert "7,000 of 20,000 bytes" in caught.value.message
    home.stop_after = None
    _, _, progress = quietly(home.dataset, tmp_path)
    assert home.requests[1] == ("/a.data", "bytes=7000-")
    assert progress[0] == ("set/a.data", 7_000)
    assert contents(tmp_path) == {"a.data": BODY, "b.data": SECOND}


def test_a_server_that_does_not_resume_sends_it_all_again(home, tmp_path):
    """Fault: the whole file appended to the part."""
    home.stop_after = 7_000
    with pytest.raises(RunError):
        quietly(home.dataset, tmp_path)
    home.stop_after, home.resumes = None, False
    quietly(home.dataset, tmp_path)
    assert contents(tmp_path)["a.data"] == BODY


def part_of(tmp_path, content):
    part = partial_path(tmp_path / "set/a.data")
    part.parent.mkdir()
    part.write_bytes(content)
    return part


def test_a_part_that_is_whole_needs_no_request(home, tmp_path):
    part_of(tmp_path, BODY)
    quietly(home.dataset, tmp_path)
    assert [path for path, _ in home.requests] == ["/b.data"]


def test_a_part_longer_than_the_file_is_begun_again(home, tmp_path):
    part_of(tmp_path, BODY + b"more")
    quietly(home.dataset, tmp_path)
    assert home.requests[0] == ("/a.data", None)
    assert contents(tmp_path)["a.data"] == BODY


def test_a_wrong_checksum_says_both_sums_and_leaves_nothing(home, tmp_path):
    changed = BODY[:-1] + b"!"
    home.files["/a.data"] = changed
    with pytest.raises(RunError) as caught:
        quietly(home.dataset, tmp_path)
    assert hashlib.sha256(changed).hexdigest() in caught.value.message
    assert hashlib.sha256(BODY).hexdigest() in caught.value.message
    assert "removed" in caught.value.message
    assert contents(tmp_path) == {}


def test_a_part_of_another_file_fails_its_checksum_and_the_next_fetch_succeeds(home, tmp_path):
    part_of(tmp_path, b"x" * 100)
    with pytest.raises(RunError, match="sha256 is"):
        quietly(home.dataset, tmp_path)
    quietly(home.dataset, tmp_path)
    assert contents(tmp_path) == {"a.data": BODY, "b.data": SECOND}


@pytest.mark.parametrize("says_length", [True, False])
def test_an_answer_longer_than_the_file_is_refused(home, tmp_path, says_length):
    home.files["/a.data"], home.says_length = BODY + b"and more", says_length
    with pytest.raises(RunError, match="not the published file of 20,000 bytes"):
        quietly(home.dataset, tmp_path)
    assert contents(tmp_path) == {}


def test_a_login_page_does_not_cost_what_came_before(home, tmp_path):
    part = part_of(tmp_path, BODY[:9_000])
    home.files["/a.data"], home.resumes = b"<html>please log in</html>", False
    with pytest.raises(RunError, match="26 bytes") as caught:
        quietly(home.dataset, tmp_path)
    assert "login page" in caught.value.remedy
    assert part.read_bytes() == BODY[:9_000]


def test_a_range_from_another_place_is_refused(home, tmp_path):
    part = part_of(tmp_path, BODY[:9_000])
    home.shift = 10
    with pytest.raises(RunError, match="the bytes from 9,000 on"):
        quietly(home.dataset, tmp_path)
    assert part.read_bytes() == BODY[:9_000]


@pytest.mark.parametrize("status", [403, 404, 416, 503])
def test_a_servers_refusal_is_named_with_a_way_round(home, tmp_path, status):
    home.status = status
    with pytest.raises(RunError, match=f"127.0.0.1 answers {status} ") as caught:
        quietly(home.dataset, tmp_path)
    assert "by hand" in caught.value.remedy
    assert home.dataset.home in caught.value.remedy
    assert "when the network is there" not in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["", "mine"])
def test_a_fetch_that_brought_nothing_leaves_no_folder_of_its_own(home, tmp_path, there):
    home.status = 404
    (tmp_path / there).mkdir(exist_ok=True)
    with pytest.raises(RunError):
        quietly(home.dataset, tmp_path / there / "deep")
    assert [p.name for p in tmp_path.rglob("*")] == ([there] if there else [])


def no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return dataset_at(f"http://127.0.0.1:{free.getsockname()[1]}")


def test_without_a_network_the_message_says_how_to_fetch_by_hand(tmp_path):
    dataset = no_server()
    with pytest.raises(RunError) as caught:
        quietly(dataset, tmp_path)
    assert caught.value.exit_code == 3
    assert caught.value.message.startswith("cannot reach 127.0.0.1")
    assert "nothing of it was written" in caught.value.message
    for file in dataset.files:
        assert file.url in caught.value.remedy
        assert str(tmp_path / file.path) in caught.value.remedy
        assert file.checksum in caught.value.remedy
    assert "--to" in caught.value.remedy
    assert contents(tmp_path) == {}


def test_a_file_placed_by_hand_is_taken(tmp_path):
    dataset = no_server()
    for file, content in zip(dataset.files, (BODY, SECOND), strict=True):
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes(content)
    assert len(quietly(dataset, tmp_path)[0]) == 2


def test_a_file_of_the_users_own_is_never_replaced(home, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/b.data").write_bytes(b"mine")
    with pytest.raises(DataError, match="not the published file") as caught:
        quietly(home.dataset, tmp_path)
    assert hashlib.md5(b"mine").hexdigest() in caught.value.message
    assert home.requests == []
    assert contents(tmp_path) == {"b.data": b"mine"}


def test_a_folder_that_cannot_be_written_is_the_users_mistake(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be"):
        quietly(home.dataset, tmp_path / "file")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(simulations.fetch.Path, "mkdir", refused)
    with pytest.raises(DataError, match="cannot be written: Permission denied") as caught:
        quietly(home.dataset, tmp_path / "new")
    assert caught.value.exit_code == 2
    assert "--to DIR" in caught.value.remedy


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_what_came_and_goes_on(home, tmp_path):
    with files_of_at_most(6_000), pytest.raises(RunError, match="disk is full") as caught:
        quietly(home.dataset, tmp_path)
    assert "free some space" in caught.value.remedy
    assert contents(tmp_path) == {"a.data.part": BODY[:6_000]}
    quietly(home.dataset, tmp_path)
    assert home.requests[1] == ("/a.data", "bytes=6000-")
    assert contents(tmp_path)["a.data"] == BODY


def test_two_fetches_do_not_write_one_file(home, tmp_path):
    part = part_of(tmp_path, BODY[:100])
    with (
        simulations.fetch._only_writer(part),
        pytest.raises(RunError, match="another fetch is writing"),
    ):
        quietly(home.dataset, tmp_path)
    assert part.read_bytes() == BODY[:100]


def test_network_settings_that_cannot_be_used_are_one_message(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "carrier-pigeon://loft")
    with pytest.raises(RunError, match="network settings") as caught:
        quietly(home.dataset, tmp_path)
    assert "ALL_PROXY" in caught.value.remedy


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        return run_command(monkeypatch, capsys, *arguments)

    return run


def test_the_command_fetches_and_the_list_shows_it(cli, home, monkeypatch):
    monkeypatch.setattr(simulations.datasets, "DATASETS", (home.dataset,))
    code, out, _ = cli("data", "list")
    assert code == 0
    assert re.search(r"tiny +Tiny: 2 files, 20 kB, CC0 +- +\n +no study of ours", out)
    code, out, err = cli("data", "fetch", "tiny", "--to", "here")
    assert code == 0
    assert out.split() == [os.path.join("here", "set", n) for n in ("a.data", "b.data")]
    assert "CC0" in err
    monkeypatch.setenv("GRANDROUNDS_DATA", "here")
    _, out, _ = cli("data", "list")
    assert re.search(r"CC0 +set ", out)
    os.remove("here/set/a.data")
    assert "1 of 2 files" in cli("data", "list")[1]


def test_the_list_as_json_has_what_a_script_needs(cli):
    code, out, err = cli("data", "list", "--json", "--data", "nowhere")
    listed = json.loads(out)
    assert (code, err, listed["folder"]) == (0, "", "nowhere")
    heart = listed["sets"][0]
    assert (heart["name"], heart["count"], heart["unit"]) == ("heart", 920, "patients")
    assert {"title", "licence", "home", "cite", "bytes"} <= set(heart)
    assert {"path", "url", "sha256", "bytes", "state"} == set(heart["files"][0])
    assert {file["state"] for file in heart["files"]} == {"missing"}


def test_mistakes_and_mishaps_have_their_exit_codes(cli, monkeypatch):
    code, out, err = cli("data", "fetch", "hart")
    assert (code, out) == (2, "")
    assert "heart, pneumoniamnist" in err
    monkeypatch.setattr(simulations.datasets, "DATASETS", (no_server(),))
    code, out, err = cli("data", "fetch", "tiny")
    assert (code, out) == (3, "")
    assert "remedy:" in err
    assert "Traceback" not in err


def test_what_is_got_by_hand_is_listed_and_its_fetch_says_how(cli):
    Path("data/indo_rct").mkdir(parents=True)
    Path("data/indo_rct/indo_rct.csv").write_text("id\n")
    sets = {s["name"]: s for s in json.loads(cli("data", "list", "--json")[1])["sets"]}
    assert sets["indo_rct"]["studies"] == ["indomethacin", "indomethacin_effect"]
    assert sets["indo_rct"]["files"] == [{"path": "indo_rct/indo_rct.csv", "state": "present"}]
    assert [file["state"] for file in sets["chestxray"]["files"]] == ["missing", "missing"]
    assert "chestxray_subtype" in cli("data", "list")[1]
    code, out, err = cli("data", "fetch", "chestxray")
    assert (code, out) == (2, "")
    assert "by hand" in err
    assert "chestxray/chestxray_28.npz" in err


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(cli, home, monkeypatch, tmp_path):
    monkeypatch.setattr(simulations.datasets, "DATASETS", (home.dataset,))
    write = simulations.fetch._write_all

    def interrupted(out, chunk):
        write(out, chunk[:500])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulations.fetch, "_write_all", interrupted)
        code, _, err = cli("data", "fetch", "tiny")
    assert code == 130
    assert "go on with: grandrounds data fetch tiny --to data" in err
    assert contents(tmp_path) == {"a.data.part": BODY[:500]}
    assert cli("data", "fetch", "tiny")[0] == 0


def test_every_data_command_has_help_with_an_example(cli):
    for command in ("list", "fetch"):
        code, out, _ = cli("data", command, "--help")
        assert code == 0
        assert "Example: grandrounds data" in out
