"""A hospital's folder: what is read from it, what is refused, and where its secrets are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.policy import Policy
from client.site import load_site, site_logger
from common.errors import GrandroundsError, SiteError, StudyError
from common.plan import Plan
from tests.small_world import hospital, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


def test_a_folder_is_read_as_it_was_written(tmp_path: Path, plan: Plan) -> None:
    written = hospital(tmp_path / "alpha", plan)
    site = load_site(tmp_path / "alpha")
    assert site == written
    assert site.approved(plan.digest) == plan
    assert site.source.path == tmp_path / "alpha" / "patients.csv"
    assert site.source.split_key == b"\x07" * 16


def test_writing_a_folder_again_keeps_its_ledger_and_its_approvals(
    tmp_path: Path, plan: Plan
) -> None:
    hospital(tmp_path / "alpha", plan)
    (tmp_path / "alpha" / "ledger.sqlite").write_bytes(b"spent")
    other = small_plan(name="other")
    site = hospital(tmp_path / "alpha", other, policy=Policy(epsilon=3, delta=0))
    assert site.ledger_path.read_bytes() == b"spent"
    assert site.approved(plan.digest) == plan
    assert load_site(site.folder).policy.epsilon == 3


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="absent"):
        load_site(tmp_path / "absent")


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("policy.toml", "epsilon", "epsilom", "unknown key 'epsilom'"),
        ("policy.toml", "runs = 1", "runs = 0", "runs is 0"),
        ("policy.toml", "delta = 0.001", "delta = 1.5", "delta is 1.5"),
        ("policy.toml", "delta = 0.001", "delta = [", "policy"),
        (
            "policy.toml",
            "learners = []",
            'learners = ["reptil"]',
            "'reptil': it should be 'reptile'",
        ),
        ("policy.toml", "models = []", 'models = ["mlp", "cnn"]', "models (entry 2) is 'cnn'"),
        ("cohort.toml", "declared = 40", 'declared = "many"', "declared is 'many'"),
        ("cohort.toml", "declared = 40", "", "'declared' is missing"),
        ("cohort.toml", "07" * 16, "xyz", "split_key"),
        ("cohort.toml", "07" * 16, "07" * 15, "split_key"),
        ("cohort.toml", 'name = "alpha"', 'name = "../alpha"', "name"),
    ],
)
def test_a_malformed_file_is_refused_with_the_field_that_is_wrong(
    tmp_path: Path, plan: Plan, file: str, old: str, new: str, named: str
) -> None:
    path = hospital(tmp_path / "alpha", plan).folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(GrandroundsError) as caught:
        load_site(path.parent)
    assert named in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("file", ["policy.toml", "cohort.toml"])
def test_a_missing_file_is_refused(tmp_path: Path, plan: Plan, file: str) -> None:
    path = hospital(tmp_path / "alpha", plan).folder / file
    path.unlink()
    with pytest.raises(GrandroundsError, match=file):
        load_site(path.parent)


def test_a_digest_is_never_a_path(tmp_path: Path, plan: Plan) -> None:
    site = hospital(tmp_path / "alpha", plan)
    approved = site.folder / "approved" / f"{plan.digest}.toml"
    (site.folder / "x.toml").write_bytes(approved.read_bytes())
    for digest in ["../x", "x", "", "." * 64, plan.digest.upper(), plan.digest[:-1], "0" * 64]:
        assert site.approved(digest) is None
    long = "../approved/" + "./" * 26  # 64 characters that lead to a folder
    assert len(long) == 64
    assert site.approved(long) is None


def test_an_approved_plan_that_was_edited_is_refused(tmp_path: Path, plan: Plan) -> None:
    site = hospital(tmp_path / "alpha", plan)
    path = site.folder / "approved" / f"{plan.digest}.toml"
    path.write_text(path.read_text().replace("clip = 1.0", "clip = 9.0"))
    with pytest.raises(StudyError, match="does not hold the study"):
        site.approved(plan.digest)


def test_the_log_is_the_sites_own_and_goes_nowhere_else(
    tmp_path: Path, plan: Plan, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    alpha, beta = (hospital(tmp_path / name, plan) for name in ("alpha", "beta"))
    for site in (alpha, beta, alpha):
        site_logger(site).warning("clamped at %s", site.cohort.name)
    assert (alpha.folder / "site.log").read_text().count("clamped at alpha") == 2
    assert "alpha" not in (beta.folder / "site.log").read_text()
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    for site in (alpha, beta):
        logger = site_logger(site)
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)


def test_the_sites_log_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.site._LOG_BYTES", 1000)
    site = hospital(tmp_path / "alpha", small_plan())
    logger = site_logger(site)
    for number in range(200):
        logger.info("refused: %d", number)
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    sizes = {path.name: path.stat().st_size for path in site.folder.glob("site.log*")}
    assert set(sizes) == {"site.log", "site.log.1"}
    assert max(sizes.values()) <= 1000
    assert "refused: 199" in (site.folder / "site.log").read_text()
