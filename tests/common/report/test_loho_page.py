"""The report of hospitals left out: what it claims, what it shows, what it survives."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from common.report.figures_loho import by_shots, forest
from common.report.figures_loho_sites import calibration, decision_curves
from common.report.loho_page import loho_html
from common.report.loho_tables import mean_groups, missing_tables, pooled_groups, site_groups
from common.report.loho_words import reach, verdict
from common.report.values import DASH
from common.report.words import EXACT
from tests.example_metrics import example as run_metrics
from tests.page_reader import Reader

PICTURES = (by_shots, forest, calibration, decision_curves)
HOSTILE = "<script>alert('x')</script> & $x_1$ | \x00 `"
HEART = {"cleveland": 300, "hungary": 290, "switzerland": 120, "va": 200}
SHARED = ("pooled", "fedavg", "reptile")
# AUC and log-loss: as it is, adapted
MEANS = {
    "pooled": ((0.81, 0.52), (0.81, 0.41)),
    "fedavg": ((0.83, 0.57), (0.84, 0.42)),
    "reptile": ((0.83, 0.57), (0.84, 0.42)),
    "local_weak": ((0.80, 0.46), None),
    "local_strong": ((0.84, 0.50), None),
    "pooled_recalibrated": ((0.81, 0.40), None),
}


def figures(auc: float, log_loss: float) -> dict[str, Any]:
    row = {"auc": auc, "accuracy": 0.8, "brier": 0.14, "log_loss": log_loss}
    row |= {"calibration_slope": 1.1, "calibration_intercept": -0.2, "observed_expected": 0.95}
    row |= {"auc_low": auc - 0.08, "auc_high": auc + 0.06, "draws": 30, "draws_with_auc": 30}
    benefit = [{"threshold": t, "value": 0.4 - t / 2, "treat_all": 0.4 - t} for t in (0.1, 0.5)]
    return row | {"net_benefit": benefit}


def arms_at(shots: int) -> dict[str, Any]:
    """As the metrics have them: an adapted arm inside its own, and local ones only with shots."""
    found: dict[str, Any] = {}
    for name, (plain, adapted) in MEANS.items():
        if shots or name in SHARED:
            found[name] = figures(*plain)
            if name in SHARED:
                found[name]["adapted"] = figures(*(adapted or plain) if shots else plain)
    return found


def random_effects(arms: dict[str, Any], k: int) -> dict[str, Any]:
    row = {"auc": 0.83, "ci_low": 0.71, "ci_high": 0.9, "prediction_low": 0.4}
    row |= {"prediction_high": 0.97, "tau2": 0.3, "k": k, "method": "random effects, logit scale"}
    return {name: row | ({"adapted": row} if "adapted" in arms[name] else {}) for name in arms}


def example(sizes: dict[str, int] | None = None, shots: tuple[int, ...] = (0, 16, 32)) -> Any:
    """Metrics shaped as `sim loho` prints them, with invented figures; one hospital is refused."""
    sizes = sizes or HEART
    run = run_metrics()
    kept = ("schema", "run_dir", "study", "title", "study_digest", "seconds", "rounds", "seed",
            "engine", "main_arm", "split", "versions", "privacy")  # fmt: skip
    centres: list[Any] = [
        {"name": name, "status": "took part", "declared": size, "patients": size + 3}
        | {
            "records": size + 3,
            "eligible": size + 3,
            "outcomes": size / 2,
            "missing": {"thal": 2, "slope": 0},
        }
        for name, size in sizes.items()
    ]
    centres.append({"name": "riverside", "status": "took no part: declared 12 is below 50"})
    tenths = [[0.15, 0.1, 40.0], [0.55, 0.6, 30.0], [0.95, 1.0, 9.0]]
    return {key: run[key] for key in kept} | {
        "description": "Disease from eleven bedside findings.",
        "shots": list(shots),
        "draws": 30,
        "private_arms": ["fedavg", "reptile"],
        "held_out": {name: {str(k): arms_at(k) for k in shots} for name in sizes},
        "mean": {str(k): arms_at(k) for k in shots},
        "pooled": {str(k): random_effects(arms_at(k), len(sizes)) for k in shots},
        "centres": centres,
        "calibration": {name: dict.fromkeys(SHARED, tenths) for name in sizes},
        "remarks": ["4 hospitals barely identify tau.", "Reptile and FedAvg are the same here."],
    }


@pytest.fixture(scope="module")
def page() -> str:
    return loho_html(example())


def test_page_is_whole_and_fetches_nothing(page: str) -> None:
    read = Reader(page)
    assert not read.open
    assert not {"script", "link"} & set(read.tags)
    assert all(link.startswith("#") for link in read.links)
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert all(part.startswith("#") for part in page.split("url(")[1:])


def test_page_says_what_a_reviewer_looks_for(page: str) -> None:
    for text in (
        "Leave one hospital out: Coronary disease in four hospitals",
        "4 hospitals barely identify tau.",
        "Reptile and FedAvg are the same here.",
        "took no part: declared 12 is below 50",
        "150 (50%)",  # outcomes at cleveland, of 303 patients: 49.5 in a hundred
        "0.75 to 0.89",  # 0.83 - 0.08 and 0.83 + 0.06
        "grandrounds report RUN_DIR",
        "delta 0.0003",
        EXACT,
    ):
        assert text in page
    assert page == loho_html(copy.deepcopy(example()))


def test_every_picture_has_a_text_alternative(page: str) -> None:
    read = Reader(page)
    assert len(read.pictures) == len(PICTURES)
    for draw in PICTURES:
        root = ElementTree.fromstring(draw(example()))
        assert root[0].text
        assert root[1].text
        assert root.attrib["role"] == "img"


def test_verdict_puts_every_opponent_on_the_side_the_table_shows() -> None:
    """For a flipped sign of log-loss, and for an opponent that stands in its worse form.

    At 16, reptile is adapted, .84 and .42. Pooled has three forms: .81 and .52 as it is, .81 and
    .41 adapted, .81 and .40 recalibrated; the best log-loss of the three is .40.
    """
    opening, (none, sixteen, _) = verdict(example())
    assert opening.startswith("With epsilon 1 at delta 0.0003, on average over 4 hospitals")
    assert none == (
        "with no labelled patient, reptile has AUC 0.830, better than pooled (0.810), and "
        "log-loss 0.570, worse than pooled (0.520);"
    )
    assert sixteen == (
        "with 16 labelled patients, reptile adapted to them has AUC 0.840, better than local_weak "
        "(0.800) and pooled (0.810), equal to local_strong (0.840), and log-loss 0.420, better "
        "than local_weak (0.460) and local_strong (0.500), worse than pooled_recalibrated "
        "(0.400);"
    )


def test_verdict_claims_nothing_without_the_main_arm() -> None:
    metrics = example()
    for arms in metrics["mean"].values():
        del arms["reptile"]
    assert verdict(metrics)[1] == []
    assert "supports no comparison" in loho_html(metrics)


def test_verdict_counts_the_hospitals_that_had_patients_enough() -> None:
    metrics = example()
    del metrics["held_out"]["va"]["32"]
    assert "with 32 labelled patients (3 of the hospitals), reptile" in verdict(metrics)[1][2]
    assert "too few patients for so many labelled ones" in loho_html(metrics)
    assert mean_groups(metrics)[2]["label"] == "With 32 labelled patients, 3 hospitals"


def test_hospitals_without_an_auc_are_not_counted_in_its_mean() -> None:
    metrics = example(shots=(0, 16))
    for arm in metrics["held_out"]["va"]["16"].values():
        for form in (arm, arm.get("adapted") or {}):
            form["auc"] = None
    label = "With 16 labelled patients, 4 hospitals (AUC: 3 hospitals)"
    assert [group["label"] for group in mean_groups(metrics)][1] == label
    clause = verdict(metrics)[1][1]
    assert "labelled patients (the AUC of 3, as it is not defined elsewhere), reptile" in clause


def test_a_hospital_that_took_no_part_says_why_in_the_forest() -> None:
    text = forest(example())
    assert ">took no part</text>" in text
    assert ">declared 12 is below 50</text>" in text
    assert "refused" not in text


@pytest.mark.slow
def test_missing_values_are_a_share_of_what_was_read() -> None:
    """Fault it is for: counts before incomplete records are left out, over a count after it."""
    metrics = example()
    metrics["centres"][0] |= {"records": 100, "eligible": 303, "missing": {"thal": 163}}
    assert missing_tables(metrics)[0]["rows"][0][1][0] == "163 (54%)"
    assert "before incomplete records are left out" in loho_html(metrics)
    assert "before incomplete" not in loho_html(example())


@pytest.mark.slow
def test_epsilon_is_said_to_be_spent_again_for_each_hospital_left_out() -> None:
    assert "A patient trained in 3 such models of each private arm" in reach(example())
    assert "such models" not in reach(example({"a": 300, "b": 200}))
    metrics = example() | {"privacy": {"private": False}}
    assert reach(metrics) == ""
    text = loho_html(metrics)
    assert '<h2 id="privacy">Not private</h2>' in text
    assert "Without privacy, on average" in text
    assert "trained privately" not in text


def test_without_a_labelled_patient_an_arm_has_one_form() -> None:
    none, sixteen, _ = mean_groups(example())
    assert [row["name"] for row in none["rows"]] == list(SHARED)
    assert [row["name"] for row in none["rows"] if row["main"]] == ["reptile"]
    assert [row["name"] for row in sixteen["rows"] if row["main"]] == ["reptile, adapted"]
    assert len(sixteen["rows"]) == 9
    assert [len(group["rows"]) for group in pooled_groups(example())] == [3, 9, 9]


def test_an_undefined_auc_is_said_to_be_so_and_other_gaps_are_dashes() -> None:
    metrics = example()
    for form in (arm := metrics["held_out"]["va"]["0"]["reptile"], arm["adapted"]):
        form |= {"auc": None, "auc_low": None, "auc_high": None, "calibration_slope": None}
    va = site_groups(metrics)[3]["rows"][0]
    assert va["auc"] == ("not defined", "")
    assert va["cells"][3] == DASH
    assert ">not defined</text>" in forest(metrics)
    assert "not defined" in loho_html(metrics)


def test_several_classes_have_no_calibration_and_no_net_benefit() -> None:
    metrics = example(shots=(0, 16))
    for arms in [a for site in metrics["held_out"].values() for a in site.values()]:
        for arm in arms.values():
            for form in (arm, arm.get("adapted") or {}):
                form |= {"net_benefit": [], "auc_low": None, "auc_high": None}
                form |= {"calibration_slope": None, "calibration_intercept": None}
    metrics["calibration"] = {name: {"reptile": []} for name in HEART}
    metrics["pooled"] = {"0": {}, "16": {}}
    text = loho_html(metrics)
    assert "Calibration is absent" in text
    assert "Decision curves are absent" in text
    assert "There are no random-effects figures" in text
    assert "The diamond" not in text
    assert len(Reader(text).pictures) == 2


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"only": 300}, {"one": 300, "two": 200}])
@pytest.mark.parametrize("shots", [(0,), (8,), (0, 8)])
def test_few_hospitals_and_few_shots(sizes: dict[str, int], shots: tuple[int, ...]) -> None:
    metrics = example(sizes, shots)
    for row in [r for arms in metrics["pooled"].values() for r in arms.values()]:
        row |= {"prediction_low": None, "prediction_high": None}
    text = loho_html(metrics)
    assert len(Reader(text).pictures) == len(PICTURES)
    over = "at the one hospital left out" if len(sizes) == 1 else "on average over 2 hospitals"
    assert over in text


@pytest.mark.slow
def test_many_hospitals_are_drawn_in_part_and_listed_in_full() -> None:
    metrics = example({f"hospital {i:02d}": 900 - 10 * i for i in range(30)})
    text = loho_html(metrics)
    assert len(text.encode()) < 1_500_000
    assert "Only the 12 largest of 30 hospitals are drawn." in text
    assert "Only the 24 largest of 31 hospitals are drawn." in text
    assert "riverside" not in forest(metrics)  # the refused come last
    assert text.count('<th scope="rowgroup" rowspan="3">') == 30
    assert [len(table["centres"]) for table in missing_tables(metrics)] == [8, 8, 8, 6]


def test_missing_arms_and_an_arm_of_another_name() -> None:
    metrics = example()
    for arms in [*metrics["mean"].values(), *metrics["pooled"].values()]:
        for name in ("local_weak", "fedavg", "pooled"):
            arms.pop(name, None)
        arms["fedprox"] = arms["reptile"]
    text = loho_html(metrics)
    assert "fedprox, adapted" in text
    assert "local_weak (" not in text


def test_hostile_text_is_inert() -> None:
    metrics = example({HOSTILE: 300, "北京": 200})
    metrics |= {"title": HOSTILE, "study": HOSTILE, "main_arm": HOSTILE, "description": HOSTILE}
    metrics |= {"remarks": [HOSTILE], "private_arms": [HOSTILE]}
    for arms in [a for site in metrics["held_out"].values() for a in site.values()]:
        arms[HOSTILE] = arms.pop("reptile")
    for arms in (*metrics["mean"].values(), *metrics["pooled"].values()):
        arms[HOSTILE] = arms.pop("reptile")
    metrics["calibration"] = {HOSTILE: {HOSTILE: [[0.5, 0.5, 10.0]]}}
    metrics["centres"][0]["missing"] = {HOSTILE: 4}
    metrics["centres"][-1] |= {"name": HOSTILE + "2", "status": HOSTILE}
    text = loho_html(metrics)
    assert "<script" not in text.lower()
    assert "script" not in Reader(text).tags
    assert len(Reader(text).pictures) == len(PICTURES)


def test_the_smallest_metrics_still_give_a_page() -> None:
    for metrics in ({}, {"held_out": None, "mean": None, "privacy": None, "shots": None}):
        text = loho_html(metrics)
        assert "supports no comparison" in text
        assert not Reader(text).open
        assert [draw(metrics) for draw in PICTURES] == [""] * len(PICTURES)


def test_no_value_of_the_language_reaches_the_page() -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: emptied(v) for k, v in value.items()}
        if isinstance(value, list):
            return [emptied(v) for v in value] if value and isinstance(value[0], dict) else []
        return value if isinstance(value, str) else None

    metrics = emptied(example()) | {"shots": [0, 16]}
    text = loho_html(metrics)
    assert "None" not in text
    assert ">nan<" not in text
    assert DASH in text
