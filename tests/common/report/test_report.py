"""The report and the model card: what they say, what they hide, what they survive."""

import copy
import math
import random
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from common.report import figures
from common.report.model_card import model_card
from common.report.page import EXACT, RELEASED, report_html, verdict

PICTURES = (
    figures.learning_curves,
    figures.arms,
    figures.epsilon_by_round,
    figures.calibration,
    figures.forest,
    figures.decision_curves,
)
HEART = {"cleveland": 300, "hungarian": 290, "switzerland": 120, "va": 200}
HOSTILE = "<script>alert('x')</script> & $x_1$ | \x00 `"


def example(sizes: dict[str, int] | None = None, *, rounds: int = 4, seeds: int = 20) -> Any:
    """Metrics shaped as a run prints them, with invented figures; one hospital is left out."""
    rng = random.Random(7)
    sizes = sizes or HEART
    arm_figures = {
        "reptile": ((0.840, 0.811), (0.846, 0.841)),
        "majority": ((0.500, 0.716), None),
        "local": ((0.850, 0.841), None),
        "pooled": ((0.836, 0.828), (0.838, 0.833)),
        "fedavg": ((0.839, 0.814), (0.843, 0.838)),
    }
    out = {"name": "riverside", "declared": 12, "status": "left out: declared 12, below 50"}
    out |= {"train_patients": None, "holdout_patients": None, "arms": {}, "private": None}
    sites = [_site(rng, name, size, list(arm_figures)) for name, size in sizes.items()]
    return {
        "schema": 1,
        "run_dir": "runs/example",
        "study": "heart",
        "title": "Coronary disease in four hospitals",
        "study_digest": "9f2c" * 16,
        "seconds": 41.27,
        "rounds": rounds,
        "seed": 0,
        "seeds": seeds,
        "engine": "inprocess",
        "main_arm": "reptile",
        "split": "keyed hash of the patient id",
        "versions": {"grandrounds": "0.1.0", "torch": "2.15.0", "opacus": "1.6.0"},
        "privacy": _privacy(rounds),
        "arms": {name: _arm(*forms, seeds) for name, forms in arm_figures.items()},
        "sites": [*sites, out],
        "curves": {"reptile": {s["name"]: _curve(rng, rounds) for s in sites}},
        "pooled_private": {"auc": 0.82, "low": 0.74, "high": 0.88, "prediction_low": 0.61}
        | {"prediction_high": 0.93, "tau2": 0.11, "k": len(sites), "method": "DerSimonian-Laird"},
    }


def _privacy(rounds: int) -> dict[str, Any]:
    return {
        "private": True,
        "epsilon": 1.0,
        "delta": 3e-4,
        "unit": "patient",
        "adjacency": "add/remove one patient",
        "accountant": "PLD (dp-accounting 0.6.0)",
        "sigma": 9.1,
        "clip": 1.0,
        "sampling_rate": 1.0,
        "steps": 5 * rounds,
        "epsilon_prv": 1.01,
        "statement": "Whoever sees all that the hospitals released learns little about a patient.",
        "epsilon_by_round": [math.sqrt((r + 1) / rounds) for r in range(rounds)],
        "noise": "seeded generator (simulation only; a real site uses a cryptographic source)",
        "releases": [
            {"what": "weight delta", "part": "train", "count": rounds, "sigma": 9.1, "epsilon": 1},
            {"what": "evaluation histogram", "part": "holdout", "count": 1, "sigma": 2.9}
            | {"epsilon": 0.98},
        ],
    }


def _arm(shared: Any, adapted: Any, seeds: int) -> dict[str, Any]:
    def form(pair: Any) -> dict[str, Any]:
        auc, accuracy = pair or (None, None)
        spread = None if seeds == 1 or pair is None else 0.035
        row = {"mean_auc": auc, "mean_accuracy": accuracy, "weighted_accuracy": accuracy}
        return row | {"mean_brier": 0.14, "sd_auc": spread, "sd_accuracy": spread and spread / 2}

    private = shared == (0.840, 0.811)
    note = "one line on what this arm is"
    row = form(shared) | {"epsilon": 1.0 if private else None, "private": private, "note": note}
    return row | {"adapted": form(adapted)}


def _curve(rng: random.Random, rounds: int) -> list[list[float | None]]:
    end = rng.uniform(0.72, 0.9)
    return [[r, end - (end - 0.5) * math.exp(-1.3 * r) + rng.gauss(0, 0.004)]
            for r in range(rounds + 1)]  # fmt: skip


def _site(rng: random.Random, name: str, declared: int, arms: list[str]) -> dict[str, Any]:
    def row() -> dict[str, Any]:
        return {"auc": rng.uniform(0.7, 0.9), "accuracy": rng.uniform(0.7, 0.88), "brier": 0.14}

    holdout = declared // 3
    private: dict[str, Any] = {}
    middles = {"auc": 0.82, "accuracy": 0.8, "sensitivity": 0.78, "specificity": 0.79}
    middles |= {"brier": 0.15, "calibration_slope": 0.94, "calibration_intercept": -0.06}
    for key, middle in middles.items():
        value, half = middle + rng.uniform(-0.06, 0.06), 1.1 / math.sqrt(holdout)
        private |= {key: value, f"{key}_low": value - half, f"{key}_high": value + half}
    private["auc_high"] = min(private["auc_high"], 0.99)
    private["histogram"] = _histogram(rng, holdout)
    private["net_benefit"] = [_benefit(t / 20) for t in range(1, 17)]
    figures_of = {arm: row() | {"adapted": row() if arm == "reptile" else None} for arm in arms}
    site = {"name": name, "declared": declared, "status": "took part", "arms": figures_of}
    site |= {"train_patients": declared - holdout, "holdout_patients": holdout}
    return site | {"private": private}


def _histogram(rng: random.Random, holdout: int) -> dict[str, Any]:
    edges, sigma = [b / 10 for b in range(11)], 2.9
    weights = [2.2, 1.6, 1.1, 0.8, 0.7, 0.7, 0.8, 1.0, 1.3, 1.8]
    counts = [holdout * w / sum(weights) for w in weights]
    return {
        "edges": edges,
        "sigma": sigma,
        "positive": [c * (b + 0.5) / 10 + rng.gauss(0, sigma) for b, c in enumerate(counts)],
        "negative": [c * (9.5 - b) / 10 + rng.gauss(0, sigma) for b, c in enumerate(counts)],
    }


def _benefit(threshold: float) -> dict[str, float]:
    odds, share = threshold / (1 - threshold), 0.45
    value = 0.88 * share * (1 - threshold**2) - (1 - share) * odds * 0.3 * (1 - threshold)
    row = {"threshold": threshold, "value": value, "low": value - 0.06, "high": value + 0.06}
    return row | {"treat_all": share - (1 - share) * odds}


class Reader(HTMLParser):
    """Collects what a browser would fetch or run, and what a screen reader would say."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note every tag, its links and its id."""
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        self.links += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        self.ids += [str(values["id"])] if "id" in values else []
        self.pictures += [values] if tag == "svg" else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open and close at once."""
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br", "link"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Hold the page to closing what it opened, in order."""
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    """The report of the example."""
    return report_html(example())


def test_page_is_whole_and_fetches_nothing(page: str) -> None:
    read = Reader(page)
    assert not read.open
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert all(link.startswith("#") for link in read.links)
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert "@import" not in page
    assert all(part.startswith("#") for part in page.split("url(")[1:])


def test_every_picture_has_a_text_alternative(page: str) -> None:
    read = Reader(page)
    assert len(read.pictures) == len(PICTURES)
    for picture in read.pictures:
        assert picture["role"] == "img"
        assert set(str(picture["aria-labelledby"]).split()) <= set(read.ids)
    for draw in PICTURES:
        root = ElementTree.fromstring(draw(example()))
        title, description = root[0], root[1]
        assert title.tag.endswith("title")
        assert title.text
        assert description.tag.endswith("desc")
        assert description.text


def test_equal_metrics_give_equal_bytes(page: str) -> None:
    assert page == report_html(copy.deepcopy(example()))


def test_labels_tell_exact_from_released(page: str) -> None:
    assert EXACT in page
    assert RELEASED in page
    assert "left out: declared 12, below 50" in page
    assert "grandrounds report RUN_DIR" in page
    assert page.count("9f2c" * 16) == 1


def test_epsilon_never_stands_alone(page: str) -> None:
    for text in (page, model_card(example())):
        for term in ("delta 0.0003", "patient", "add/remove one patient", "PLD (dp-accounting"):
            assert term in text


def test_hostile_text_is_inert() -> None:
    metrics = example({HOSTILE: 300, "北京": 200})
    metrics |= {"title": HOSTILE, "study": HOSTILE, "main_arm": HOSTILE, "versions": {HOSTILE: "1"}}
    metrics["arms"] = {HOSTILE: metrics["arms"]["reptile"] | {"note": HOSTILE}}
    metrics["curves"] = {HOSTILE: metrics["curves"]["reptile"]}
    metrics["privacy"]["statement"] = metrics["split"] = HOSTILE
    metrics["privacy"]["releases"][0]["what"] = metrics["sites"][-1]["name"] = HOSTILE
    metrics["sites"][-1]["status"] = f"left out: {HOSTILE}"
    text = report_html(metrics)
    assert "<script" not in text.lower()
    assert "script" not in Reader(text).tags
    assert "&lt;script&gt;" in text
    assert "<script" not in model_card(metrics)


def test_a_run_without_privacy_says_so() -> None:
    metrics = example()
    metrics["privacy"] = {"private": False, "epsilon": None, "statement": "not private: no noise"}
    text = report_html(metrics)
    assert '<h2 id="privacy">Not private</h2>' in text
    assert RELEASED not in text
    assert "Privacy statement" not in text
    assert "Without privacy" in text
    assert "**Not private.**" in model_card(metrics)


@pytest.mark.parametrize("epsilon", [None, math.inf, math.nan])
def test_private_without_a_finite_epsilon_is_not_private(epsilon: float | None) -> None:
    metrics = example()
    metrics["privacy"]["epsilon"] = epsilon
    assert '<h2 id="privacy">Not private</h2>' in report_html(metrics)


def test_sixty_four_hospitals_stay_small_and_readable() -> None:
    metrics = example({f"hospital {i:02d}": 900 - 10 * i for i in range(64)}, rounds=20)
    text = report_html(metrics)
    assert len(text.encode()) < 3_000_000
    assert "Only the 12 largest of 64 hospitals are drawn." in text
    assert "Only the 24 largest of 65 hospitals are drawn." in text
    assert figures.calibration(metrics).count("slope") == 2 * figures.MAX_PANELS


def test_missing_values_become_dashes_and_absent_sections_say_why() -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: emptied(v) for k, v in value.items()}
        if isinstance(value, list):
            return [emptied(v) for v in value] if value and isinstance(value[0], dict) else []
        return value if isinstance(value, str) else None

    text = report_html(emptied(example()))
    assert figures.DASH in text
    assert "None" not in text
    assert "nan" not in text.replace("hungarian", "")
    assert "No hospital released an AUC." in text
    assert "Learning curves are absent" in text
    assert "None" not in model_card(emptied(example()))


def test_the_smallest_metrics_still_give_a_page() -> None:
    for metrics in ({}, {"sites": [], "arms": {}, "privacy": None, "curves": None}):
        assert "Not private" in report_html(metrics)
        assert model_card(metrics).startswith("# Model card")
        assert [draw(metrics) for draw in PICTURES] == [""] * len(PICTURES)


def test_one_round_one_hospital_one_seed() -> None:
    metrics = example({"only": 300}, rounds=1, seeds=1)
    metrics["pooled_private"] = None
    text = report_html(metrics)
    assert "±" not in text
    assert "the spread is not known" in text
    assert "No random-effects mean" in text
    assert "over one hospital" in text


def test_some_hospitals_released_nothing() -> None:
    metrics = example()
    metrics["sites"][0]["private"] = None
    metrics["sites"][1]["private"] |= {"auc": None, "histogram": None, "net_benefit": []}
    assert len(Reader(report_html(metrics)).pictures) == len(PICTURES)
    assert f"cleveland {figures.DASH}" in figures.forest(metrics)


def test_verdict_claims_only_what_the_table_shows() -> None:
    metrics = example()
    said = verdict(metrics)
    assert "reptile adapted to each hospital reaches a mean AUC of 0.846 over 4 hospitals" in said
    assert "0.004 below each hospital training alone (0.850, not private) and" in said
    assert "0.008 above pooling all patients (0.838, adapted, not private), both within" in said
    metrics["arms"]["local"]["mean_auc"] = 0.7
    assert "0.146 above each hospital training alone" in verdict(metrics)
    assert "more than the spread over seeds" in verdict(metrics)
    metrics["arms"]["local"]["mean_auc"] = 0.846
    assert "equal to each hospital training alone" in verdict(metrics)


def test_reliability_drops_bins_the_noise_can_hide() -> None:
    histogram = {"edges": [0, 0.5, 1], "negative": [100, 3], "positive": [100, 2], "sigma": 2.9}
    ((middle, rate, low, high),) = figures.reliability(histogram)
    # Eased rate (100 + 1) / (200 + 2) = 0.5; variance 0.25 / 202 + 2.9^2 * 0.5 / 200^2.
    half = 1.96 * math.sqrt(0.25 / 202 + 2.9**2 * 0.5 / 200**2)
    assert (middle, rate) == (0.25, 0.5)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


def test_model_card_names_use_sites_and_how_to_load() -> None:
    card = model_card(example())
    assert "Not for clinical use" in card
    assert "| cleveland | 300 | took part |" in card
    assert "| riverside | 12 | left out: declared 12, below 50 |" in card
    assert 'load_file("model.safetensors")' in card
    assert "0.846 ± 0.035" in card
