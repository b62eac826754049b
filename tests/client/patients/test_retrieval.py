"""Similar cases: the right records of the right patients, marked, and never of one who withdrew."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.desk.received import keep
from client.ledger import Ledger
from client.patients.neighbours import MARK
from client.patients.retrieval import page_of, retrieve_cases
from client.patients.withdrawal import withdraw
from client.site import CohortConfig, write_site
from common.codec import encode
from common.errors import DataError, SiteError
from common.models import build, params_of
from common.plan import Plan
from tests.page_reader import Reader
from tests.small_world import PATIENTS, hospital, roomy, small_plan

TABLE = small_plan()
_IMAGES = {"features": [], "max_records": 1, "image": {"size": 8}}
IMAGES = small_plan(cohort=_IMAGES, model={"name": "mlp", "hidden": [3]})
MAPPED = small_plan(
    cohort={**_IMAGES, "image": {"size": 8, "maps": [{"kind": "pixels", "size": 2}]}},
    model={"name": "mlp", "hidden": [3]},
)


def greys() -> np.ndarray:
    """Return an image for each patient, pN of one grey level 6 N, and a mark in its corner."""
    images = np.repeat(6 * np.arange(PATIENTS, dtype=np.uint8), 64).reshape(PATIENTS, 8, 8)
    images[:, 0, 0] = np.arange(PATIENTS)
    return images


def deliver(folder: Path, plan: Plan) -> Ledger:
    (folder / "keys").mkdir()
    (folder / "keys" / "secret").write_bytes(b"s" * 32)
    ledger = Ledger(folder / "ledger.sqlite", durable=False)
    payload = encode(params_of(build(plan.study, seed=3)))
    keep(folder, ledger=ledger, digest=plan.digest, run="run-1", payload=payload, card="")
    return ledger


def of_images(folder: Path, plan: Plan) -> Ledger:
    folder.mkdir()
    names = np.array([f"p{n}" for n in range(PATIENTS)])
    labels = np.array(["ill" if n % 4 == 0 else "well" for n in range(PATIENTS)])
    np.savez(folder / "patients.npz", images=greys(), patient=names, label=labels)
    values = {"declared": PATIENTS, "split_key": "07" * 16, "device": "cpu"}
    cohort = CohortConfig(name="site", path=Path("patients.npz"), **values)
    write_site(folder, cohort=cohort, policy=roomy(plan), plans=[plan])
    return deliver(folder, plan)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    ledger = of_images(folder, IMAGES)
    yield ledger
    ledger.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The file of an image that is exactly that of patient p20, record 21."""
    Image.fromarray(greys()[20]).save(tmp_path / "new.png")
    return tmp_path / "new.png"


def test_one_image_finds_the_records_nearest_in_the_models_space(
    folder: Path, ledger: Ledger, image: Path
) -> None:
    found = retrieve_cases(folder, ledger, image, top=5)
    (neighbours,) = found.neighbours
    # The same by hand: cosine distances of the hidden layer, from the weights themselves.
    params = params_of(build(IMAGES.study, seed=3))
    x = torch.from_numpy(greys()).float().reshape(PATIENTS, 64) / 127.5 - 1
    z = torch.relu(x @ params["body.1.weight"].T + params["body.1.bias"]).double()
    z = z / z.norm(dim=1, keepdim=True)
    away = 1 - z @ z[20]
    assert [one.distance for one in neighbours] == pytest.approx(away.sort().values[:5].tolist())
    assert neighbours[0].record == 21
    assert neighbours[0].patient == "p20"
    for one in neighbours:
        number = one.record - 1
        assert one.patient == f"p{number}"
        assert one.outcome == ("ill" if number % 4 == 0 else "well")
        assert one.distance == pytest.approx(away[number].item(), abs=1e-6)


def test_all_of_the_cohort_is_looked_at_both_parts(
    folder: Path, ledger: Ledger, image: Path
) -> None:
    found = retrieve_cases(folder, ledger, image, top=1000)
    (neighbours,) = found.neighbours
    assert sorted(one.record for one in neighbours) == list(range(1, PATIENTS + 1))
    cohort = found.gallery.cohort
    assert sum(one.part == "train" for one in neighbours) == cohort.train.patients
    assert sum(one.part == "holdout" for one in neighbours) == cohort.holdout.patients
    assert found.votes(0) == found.shares == {"well": 0.75, "ill": 0.25}


def test_a_patient_who_has_withdrawn_never_appears(
    folder: Path, ledger: Ledger, image: Path
) -> None:
    # Broken once: without `without` of the cohort's reader, p20 comes first.
    withdraw(folder, ledger, patient="p20")
    (neighbours,) = retrieve_cases(folder, ledger, image, top=1000).neighbours
    assert "p20" not in [one.patient for one in neighbours]
    assert len(neighbours) == PATIENTS - 1
    # The others keep their own numbers in the file.
    assert all(one.patient == f"p{one.record - 1}" for one in neighbours)


def test_a_known_patients_own_records_are_left_out(
    folder: Path, ledger: Ledger, tmp_path: Path
) -> None:
    np.savez(tmp_path / "new.npz", images=greys()[[20, 5]], patient=np.array(["p20", "other"]))
    found = retrieve_cases(folder, ledger, tmp_path / "new.npz", top=3)
    assert [len(neighbours) for neighbours in found.neighbours] == [3, 3]
    assert "p20" not in [one.patient for one in found.neighbours[0]]
    assert found.neighbours[1][0].distance == pytest.approx(0, abs=1e-6)
    assert found.notes == ("left out: 1 records of the new cases' own patients",)


def test_everything_is_marked_as_not_to_leave(folder: Path, ledger: Ledger, image: Path) -> None:
    found = retrieve_cases(folder, ledger, image, top=4)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["use"] for row in rows} == {MARK}
    assert "does not leave the hospital" in MARK
    assert MARK in found.about[0]
    assert found.to_json()["use"] == MARK
    assert MARK in page_of(found, folder, ledger, image)


def test_how_far_to_trust_it_stands_beside_chance(
    folder: Path, ledger: Ledger, image: Path
) -> None:
    found = retrieve_cases(folder, ledger, image, top=4)
    holdout = found.gallery.cohort.holdout.patients
    assert found.about[1].startswith(f"Of {holdout} holdout patients' 4 nearest training records")
    assert "by chance" in found.about[1]


@pytest.mark.parametrize("plan", [IMAGES, MAPPED])
def test_the_page_shows_the_new_case_and_its_neighbours(
    tmp_path: Path, plan: Plan, image: Path
) -> None:
    ledger = of_images(tmp_path / "site", plan)
    found = retrieve_cases(tmp_path / "site", ledger, image, top=2)
    page = page_of(found, tmp_path / "site", ledger, image)
    ledger.close()
    links = [link for link in Reader(page).links if link.startswith("data:")]
    assert len(links) == 3
    # Maps or not, the pictures are those of the files.
    shown = [Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) for link in links]
    numbers = [20, *(one.record - 1 for one in found.neighbours[0])]
    for picture, number in zip(shown, numbers, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), greys()[number])
    assert not re.search(r"https?://", page)


def test_a_table_works_on_its_rows_and_has_no_pictures(tmp_path: Path) -> None:
    folder, new = tmp_path / "site", tmp_path / "new.csv"
    hospital(folder, TABLE)
    ledger = deliver(folder, TABLE)
    new.write_text("patient,number,pressure\nx1,17,130\np5,5,130\n")
    found = retrieve_cases(folder, ledger, new, top=3)
    assert "of the inputs themselves" in found.about[0]
    assert all(one.patient != "p5" for one in found.neighbours[1])
    assert found.neighbours[0][0].row(1)["patient"].startswith("p")
    with pytest.raises(DataError, match="--pictures is given, and the study reads a table"):
        page_of(found, folder, ledger, new)
    ledger.close()


def test_an_incomplete_case_has_no_neighbours_where_the_study_takes_complete_ones(
    tmp_path: Path,
) -> None:
    plan, new = small_plan(cohort={"complete_cases": True}), tmp_path / "new.csv"
    hospital(tmp_path / "site", plan)
    ledger = deliver(tmp_path / "site", plan)
    new.write_text("patient,number,pressure\nx1,,130\nx2,5,130\n")
    found = retrieve_cases(tmp_path / "site", ledger, new, top=2)
    ledger.close()
    assert [len(neighbours) for neighbours in found.neighbours] == [0, 2]
    assert found.notes[-1] == "1 records miss a feature and have no neighbours"
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [(row["query"], row["rank"]) for row in rows] == [("1", ""), ("2", "1"), ("2", "2")]


def test_what_cannot_be_searched_is_told(
    folder: Path, ledger: Ledger, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(SiteError, match="--run is 'run-2'"):
        retrieve_cases(folder, ledger, image, run="run-2")
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:40])
    with pytest.raises(DataError, match=r"input file .*cut\.png' cannot be decoded"):
        retrieve_cases(folder, ledger, tmp_path / "cut.png")
    np.savez(tmp_path / "depth.npz", images=greys()[:1] / 255, patient=np.array(["x"]))
    with pytest.raises(DataError, match="not whole numbers from 0 to 255"):
        retrieve_cases(folder, ledger, tmp_path / "depth.npz")
    hospital(tmp_path / "new", TABLE)
    with pytest.raises(SiteError, match="no model has been delivered"):
        retrieve_cases(tmp_path / "new", ledger, image)


def test_a_table_study_refuses_an_image(tmp_path: Path, image: Path) -> None:
    hospital(tmp_path / "site", TABLE)
    ledger = deliver(tmp_path / "site", TABLE)
    with pytest.raises(DataError, match="is an image, and the study expects a table"):
        retrieve_cases(tmp_path / "site", ledger, image)
    ledger.close()
