"""`site retrieve` as the hospital's engineer meets it."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from client.commands.retrieve import register
from client.desk.received import keep
from client.ledger import Ledger
from client.site import CohortConfig, write_site
from common.codec import encode
from common.errors import DataError, GrandroundsError, SiteError
from common.models import build, params_of
from tests.small_world import PATIENTS, hospital, roomy, small_plan

PLAN = small_plan(
    cohort={"features": [], "max_records": 1, "image": {"size": 8}},
    model={"name": "mlp", "hidden": [3]},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.savez(
        folder / "patients.npz",
        images=rng.integers(0, 256, (PATIENTS, 8, 8)).astype(np.uint8),
        patient=np.array([f"p[{n}]" for n in range(PATIENTS)]),
        label=np.array(["well", "ill"])[np.arange(PATIENTS) % 2],
    )
    values = {"declared": PATIENTS, "split_key": "07" * 16, "device": "cpu"}
    cohort = CohortConfig(name="site", path=Path("patients.npz"), **values)
    write_site(folder, cohort=cohort, policy=roomy(PLAN), plans=[PLAN])
    ledger = Ledger(folder / "ledger.sqlite", durable=False)
    payload = encode(params_of(build(PLAN.study)))
    keep(folder, ledger=ledger, digest=PLAN.digest, run="run-1", payload=payload, card="")
    ledger.close()
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "new.png")
    return tmp_path / "new.png"


def said(*arguments: object) -> str:
    """Run the command, which succeeds, and return what it prints."""
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)  # one of a group's commands
    words = ["retrieve", *map(str, arguments)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    if isinstance(result.exception, GrandroundsError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_prints_the_neighbours_and_their_classes(folder: Path, image: Path) -> None:
    found = said(folder, image, "--top", 3)
    assert "does not leave the hospital" in " ".join(found.split())
    assert "p[" in found
    assert "Among them: " in found
    assert "of all cases here 50%" in found
    assert len([line for line in found.splitlines() if "train" in line or "holdout" in line]) >= 3


def test_it_writes_files_for_its_own_user(folder: Path, image: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out.csv", tmp_path / "page.html"
    found = said(folder, image, "--top", 4, "--out", out, "--pictures", page)
    assert found.count("It is not to leave the hospital") == 2
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert page.read_text().count("data:image/png") == 5
    for path in (out, page):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_as_plain_values(folder: Path, image: Path) -> None:
    found = json.loads(said(folder, image, "--top", 2, "--run", "run-1", "--json"))
    (query,) = found["queries"]
    assert [row["rank"] for row in query["neighbours"]] == [1, 2]
    assert found["distance"] == "cosine"
    assert sum(query["votes"].values()) == pytest.approx(1)
    assert found["records"] == found["patients"] == PATIENTS


@pytest.mark.parametrize("option", ["--out", "--pictures"])
@pytest.mark.parametrize("name", ["new.png", "site/patients.npz", "site/ledger.sqlite", "no/x"])
def test_it_writes_over_no_patients_and_no_file_of_the_site(
    folder: Path, image: Path, tmp_path: Path, option: str, name: str
) -> None:
    target = tmp_path / name
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(SiteError, match=f"{option} is "):
        said(folder, image, option, target)
    assert (target.read_bytes() if target.exists() else None) == before


def test_mistakes_are_told(folder: Path, image: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist or is no file"):
        said(folder, tmp_path / "absent.png")
    table = small_plan()
    hospital(tmp_path / "new", table)
    with pytest.raises(SiteError, match="no model has been delivered"):
        said(tmp_path / "new", image)
