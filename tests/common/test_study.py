"""The study as data: what it accepts, and how it says what it does not."""

import copy
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.errors import StudyError
from common.study import CohortSchema, Feature, load_study, parse_study

STUDIES = sorted((Path(__file__).parents[2] / "simulations" / "studies").glob("*.toml"))

VALUES = {
    "name": "tiny",
    "cohort": {
        "label": {"column": "y", "classes": ["no", "yes"], "map": {"0": "no", "1": "yes"}},
        "features": [
            {"name": "age", "range": [0, 120]},
            {"name": "pain", "kind": "category", "categories": ["1", "2", "3"], "indicator": True},
            {"name": "test-missing", "kind": "missing", "column": "test"},
        ],
    },
    "learner": {"learning_rate": 0.1},
    "rounds": {"count": 2},
    "privacy": {"epsilon": 1.0, "delta": 1e-4},
}


def changed(path, value):
    """Return VALUES with one value set, or taken out where it is None."""
    values = copy.deepcopy(VALUES)
    *above, last = path.split(".")
    table = values
    for key in above:
        table = table[int(key)] if isinstance(table, list) else table.setdefault(key, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return values


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_shipped_studies_load(path):
    study = load_study(path)
    assert study.simulation is not None
    # Characters have no patients, and the papers' episodes no private form.
    assert (study.privacy is None) == (path.stem == "omniglot")


def test_the_width_of_the_inputs_counts_categories_and_indicators():
    # age 1, pain 3 categories and an indicator, test-missing 1.
    assert parse_study(VALUES, origin="t").cohort.input_shape == (6,)


def test_an_image_study_has_the_images_shape():
    label = {"classes": ["no", "yes"]}
    schema = CohortSchema.model_validate({"label": label, "image": {"size": 28, "channels": 3}})
    assert schema.input_shape == (3, 28, 28)


HOG = {"kind": "hog", "orientations": 8, "pixels_per_cell": 7, "cells_per_block": 2}


def test_an_image_study_with_maps_has_the_maps_width():
    # 28 / 7 = 4 cells a side, 3 blocks of 2 cells: 3 x 3 x 2 x 2 x 8 = 288; then 7 x 7 x 3 means.
    image = {"size": 28, "channels": 3, "maps": [HOG, {"kind": "pixels", "size": 7}]}
    schema = CohortSchema.model_validate({"label": {"classes": ["no", "yes"]}, "image": image})
    assert schema.input_shape == (288 + 147,)


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({"maps": [{**HOG, "cells_per_block": 5}]}, ["map 1", "5 cells of 7 pixels", "28 pixels"]),
        ({"maps": [HOG, {"kind": "pixels", "size": 8}]}, ["map 2", "8 pixels", "size 28"]),
        ({"maps": [{"kind": "sift"}]}, ["maps (entry 1).kind is 'sift'", "'hog' or 'pixels'"]),
        ({"maps": [{"size": 7}]}, ["maps (entry 1).kind' is missing"]),
        ({"maps": [{**HOG, "orientations": 1}]}, ["maps (entry 1).hog.orientations is 1"]),
        ({"maps": [{**HOG, "scale": 0.0}]}, ["maps (entry 1).hog.scale is 0.0"]),
        ({"maps": [{**HOG, "colour": 1}]}, ["unknown key", "maps (entry 1).hog.colour"]),
    ],
)
def test_maps_that_do_not_fit_are_one_message(values, fragments):
    image = {"size": 28, **values}
    cohort = {"label": {"classes": ["no", "yes"]}, "image": image}
    with pytest.raises(StudyError) as caught:
        parse_study({**VALUES, "cohort": cohort}, origin="t")
    assert [f for f in fragments if f not in caught.value.message] == [], caught.value.message


def test_images_have_no_complete_cases():
    cohort = {"label": {"classes": ["no", "yes"]}, "image": {"size": 28}, "complete_cases": True}
    with pytest.raises(StudyError, match="complete_cases is for tables"):
        parse_study({**VALUES, "cohort": cohort}, origin="t")


def test_the_privacy_table_may_be_absent():
    assert parse_study(changed("privacy", None), origin="t").privacy is None


def test_sigma_may_stand_in_place_of_epsilon():
    study = parse_study(changed("privacy", {"sigma": 2.0, "delta": 1e-4}), origin="t")
    assert (study.privacy.sigma, study.privacy.epsilon) == (2.0, None)


def test_a_study_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        parse_study(VALUES, origin="t").rounds.count = 3


BAD = {  # where, what, and what the message must name (None takes the key out)
    "misspelt key": ("lerner", {}, ["unknown key 'lerner'"]),
    "misspelt feature key": ("cohort.features.1.indicater", True, ["features (entry 2).indicater"]),
    "missing table": ("learner", None, ["'learner' is missing"]),
    "missing key": ("learner.learning_rate", None, ["'learner.learning_rate' is missing"]),
    "no rounds": ("rounds.count", 0, ["rounds.count is 0", "greater than or equal to 1"]),
    "rate above 1": ("learner.sampling_rate", 1.5, ["learner.sampling_rate is 1.5"]),
    "train on all": ("cohort.train_fraction", 1.0, ["cohort.train_fraction is 1.0"]),
    "unknown model": ("model.name", "bert", ["model.name is 'bert'", "'logistic'"]),
    "a layer of none": ("model.hidden", [8, 0], ["model.hidden (entry 2) is 0"]),
    "odd bins": ("evaluation.bins", 7, ["evaluation.bins is 7", "multiple of 2"]),
    "negative epsilon": ("privacy.epsilon", -1, ["privacy.epsilon is -1"]),
    "epsilon without end": ("privacy.epsilon", float("inf"), ["privacy.epsilon is inf"]),
    "epsilon true": ("privacy.epsilon", True, ["privacy.epsilon is True"]),
    "both epsilon and sigma": ("privacy.sigma", 2.0, ["privacy", "epsilon is 1 and sigma is 2"]),
    "neither": ("privacy.epsilon", None, ["privacy", "neither epsilon nor sigma"]),
    "tiny sigma": ("privacy", {"sigma": 0.01, "delta": 1e-4}, ["privacy.sigma is 0.01"]),
    "delta of 1": ("privacy.delta", 1, ["privacy.delta is 1"]),
    "no delta": ("privacy.delta", None, ["'privacy.delta' is missing"]),
    "clip of 0": ("privacy.clip", 0, ["privacy.clip is 0"]),
    "mu without fedprox": ("learner.proximal", 0.5, ["proximal is 0.5", "'reptile'"]),
    "fedprox without mu": ("learner.name", "fedprox", ["proximal is 0.0", "'fedprox'"]),
    "image and table": ("cohort.image", {"size": 28}, ["cohort.features", "cohort.image"]),
    "neither image nor table": ("cohort.features", [], ["cohort.features", "cohort.image"]),
    "small image": ("cohort.image", {"size": 4}, ["cohort.image.size is 4"]),
    "one class": ("cohort.label.classes", ["no"], ["cohort.label.classes is ['no']"]),
    "class twice": ("cohort.label.classes", ["no", "yes", "no"], ["names a class twice"]),
    "map to nowhere": ("cohort.label.map", {"2": "maybe"}, ["'maybe'", "label.classes"]),
    "feature twice": ("cohort.features.2.name", "age", ["feature 'age' stands twice"]),
    "column twice": ("cohort.columns", ["a", "b", "a"], ["cohort.columns names a column twice"]),
    "range upside down": ("cohort.features.0.range", [9, 1], ["'age'", "range = [9.0, 1.0]"]),
    "range of three": ("cohort.features.0.range", [1, 2, 3], ["range is [1, 2, 3]"]),
    "no range": ("cohort.features.0.range", None, ["'age'", "no range"]),
    "default in words": ("cohort.features.0.default", "old", ["'age'", "default 'old'"]),
    "default out of range": ("cohort.features.0.default", 500, ["default 500", "[0, 120]"]),
    "default a list": ("cohort.features.0.default", [1], ["features (entry 1).default", "[1]"]),
    "number with categories": ("cohort.features.0.categories", ["1"], ["'age'", "no categories"]),
    "category with range": ("cohort.features.1.range", [0, 1], ["'pain'", "takes no range"]),
    "category without any": ("cohort.features.1.categories", None, ["'pain'", "categories"]),
    "indicator of itself": ("cohort.features.2.indicator", True, ["'test-missing'", "indicator"]),
    "complete and missing": ("cohort.complete_cases", True, ["complete_cases", "'pain'"]),
    "unknown aggregation": ("server.aggregation", "max", ["server.aggregation is 'max'", "'krum'"]),
    "liars below none": ("server.liars", -1, ["server.liars is -1"]),
    "liars in words": ("server.liars", True, ["server.liars is True"]),
    "nothing trimmed": ("server.aggregation", "trimmed_mean", ["liars is 0", "nothing would be"]),
    "bound of 0": ("server.norm_bound", 0, ["server.norm_bound is 0"]),
    "endless bound": ("server.norm_bound", float("inf"), ["server.norm_bound is inf"]),
    "retries below none": ("rounds.retries", -1, ["rounds.retries is -1"]),
    "a name with spaces": ("name", "My Study", ["name is 'My Study'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_that_names_the_field_and_the_value(case):
    path, value, fragments = BAD[case]
    with pytest.raises(StudyError) as caught:
        parse_study(changed(path, value), origin="tiny.toml")
    message = caught.value.message
    assert message.startswith("tiny.toml: ")
    assert "\n" not in message
    assert caught.value.remedy
    assert [f for f in fragments if f not in message] == [], message


def test_a_missing_study_file_says_which():
    with pytest.raises(StudyError, match=r"study file 'none\.toml' does not exist"):
        load_study(Path("none.toml"))


def test_a_malformed_study_file_says_where(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('name = "x"\n[cohort\n')
    with pytest.raises(StudyError, match=r"study\.toml' is not TOML: .*line 2"):
        load_study(path)


def test_an_empty_study_file_says_what_it_lacks(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("")
    with pytest.raises(StudyError, match="'name' is missing"):
        load_study(path)


def test_with_epsilon_changes_the_target_and_nothing_else():
    study = parse_study(VALUES, origin="t")
    other = study.with_epsilon(3.0)
    assert other.privacy.epsilon == 3.0
    assert other.with_epsilon(1.0) == study
    assert study.privacy.epsilon == 1.0


def test_with_epsilon_replaces_sigma():
    study = parse_study(changed("privacy", {"sigma": 2.0, "delta": 1e-4}), origin="t")
    privacy = study.with_epsilon(3.0).privacy
    assert (privacy.epsilon, privacy.sigma) == (3.0, None)


def test_with_epsilon_none_takes_the_promise_away():
    assert parse_study(VALUES, origin="t").with_epsilon(None).privacy is None


def test_with_epsilon_keeps_the_simulation():
    study = load_study(STUDIES[0])
    assert study.with_epsilon(3.0).simulation == study.simulation


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 51.0, float("nan"), float("inf")])
def test_an_epsilon_out_of_bounds_is_refused_by_name(epsilon):
    with pytest.raises(StudyError, match=f"--epsilon: privacy.epsilon is {epsilon}"):
        parse_study(VALUES, origin="t").with_epsilon(epsilon)


def test_an_epsilon_without_a_privacy_table_is_refused():
    with pytest.raises(StudyError, match="--epsilon is 1, but study 'tiny' has no") as caught:
        parse_study(changed("privacy", None), origin="t").with_epsilon(1.0)
    assert "delta and clip" in caught.value.remedy


def test_a_feature_is_read_from_its_own_column_unless_it_names_another():
    assert Feature(name="a", range=(0, 1)).source == "a"
    assert Feature(name="a", column="b", range=(0, 1)).source == "b"
