"""The catalogue names what the studies read; a file's state is told from its bytes."""

import json
import os
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.errors import DataError
from simulations.by_hand import BY_HAND
from simulations.datasets import (
    DATASETS,
    DataFile,
    digest_of,
    file_state,
    find_dataset,
    partial_path,
    studies_of,
)

FILES = [file for dataset in DATASETS for file in dataset.files]
DATA = os.environ.get("GRANDROUNDS_DATA")

# The sums of "abc": FIPS 180-2, appendix B.1, and RFC 1321, appendix A.5.
SHA256_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
MD5_ABC = "900150983cd24fb0d6963f7d28e17f72"


def test_the_heart_study_reads_the_files_of_the_heart_set():
    study = tomllib.loads((files("simulations") / "studies" / "heart.toml").read_text())
    read = {site["path"] for site in study["simulation"]["sites"].values()}
    assert read == {file.path for file in find_dataset("heart").files}


def test_every_file_that_a_study_reads_is_in_the_list_and_says_who_reads_it():
    """Fault it is for: five of eight studies read files of which `data list` said nothing."""
    listed = {path for dataset in (*DATASETS, *BY_HAND) for path in dataset.paths}
    named = {study for dataset in (*DATASETS, *BY_HAND) for study in studies_of(dataset)}
    for path in (files("simulations") / "studies").iterdir():
        simulation = tomllib.loads(path.read_text())["simulation"]
        hospitals = {k: v for k, v in simulation.items() if k in ("sites", "partition")}
        read = set(re.findall(r'"([^"]+\.(?:csv|npz|arff|data))"', json.dumps(hospitals)))
        assert read <= listed
        assert bool(read) == (Path(path.name).stem in named)


@pytest.mark.parametrize("dataset", BY_HAND, ids=lambda dataset: dataset.name)
def test_a_set_that_is_made_by_hand_says_how_and_where(dataset):
    with pytest.raises(DataError, match="cannot be fetched") as caught:
        find_dataset(dataset.name)
    for told in (dataset.home, dataset.licence, dataset.cite, *dataset.paths, *dataset.how):
        assert told in caught.value.remedy
    assert not {d.name for d in DATASETS} & {d.name for d in BY_HAND}


def test_names_and_paths_are_unique_and_paths_stay_below_the_folder():
    assert len({dataset.name for dataset in DATASETS}) == len(DATASETS)
    assert len({file.path for file in FILES}) == len(FILES)
    for file in FILES:
        assert not Path(file.path).is_absolute()
        assert ".." not in Path(file.path).parts


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path)
def test_each_file_has_an_official_address_and_a_checksum_of_its_algorithm(file):
    address = urlsplit(file.url)
    assert address.scheme == "https"
    assert address.hostname in {"archive.ics.uci.edu", "zenodo.org"}
    assert Path(address.path).name == Path(file.path).name
    assert len(file.digest) == {"sha256": 64, "md5": 32}[file.algorithm]
    assert set(file.digest) <= set("0123456789abcdef")
    assert file.size > 0


def test_an_unknown_name_lists_the_names():
    with pytest.raises(DataError, match="'hart'") as caught:
        find_dataset("hart")
    assert "heart, pneumoniamnist, pneumoniamnist_64, brain_mri, busi, ch" in caught.value.remedy
    assert find_dataset("pneumoniamnist-64").name == "pneumoniamnist_64"


def test_digests_are_those_of_the_standards(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert digest_of(tmp_path / "f", "sha256") == SHA256_ABC
    assert digest_of(tmp_path / "f", "md5") == MD5_ABC


def test_a_file_is_missing_partial_other_or_correct(tmp_path):
    """Fault: a state told from the size alone ('xyz' has the size of 'abc')."""
    file = DataFile("set/f", "https://zenodo.org/f", "sha256", SHA256_ABC, 3)
    path = tmp_path / "set" / "f"
    assert file_state(file, tmp_path) == "missing"
    path.parent.mkdir()
    partial_path(path).write_bytes(b"a")
    assert file_state(file, tmp_path) == "partial"
    path.write_bytes(b"xyz")
    assert file_state(file, tmp_path) == "differs"
    path.write_bytes(b"abc")
    assert file_state(file, tmp_path) == "correct"


def test_a_folder_in_a_files_place_is_one_message(tmp_path):
    file = DataFile("f", "https://zenodo.org/f", "md5", MD5_ABC, 3)
    (tmp_path / "f").mkdir()
    size = (tmp_path / "f").stat().st_size
    same_size = DataFile("f", file.url, "md5", MD5_ABC, size)
    with pytest.raises(DataError, match="cannot be read"):
        file_state(same_size, tmp_path)


@pytest.mark.skipif(not DATA, reason="GRANDROUNDS_DATA is not set: no real data here")
def test_the_heart_files_of_the_data_folder_are_the_published_ones():
    heart = find_dataset("heart")
    states = {file.path: file_state(file, Path(DATA)) for file in heart.files}
    if "missing" in states.values():
        pytest.skip("the data folder does not hold the heart files")
    assert set(states.values()) == {"correct"}
