"""The few-shot table of a study: what a method's name means, and what is refused."""

import pytest

from common.errors import StudyError
from common.few_shot_spec import FewShot, Method
from tests.few_shot_world import few_shot_study


@pytest.mark.parametrize(
    ("given", "arm", "use", "beside"),
    [
        ("scratch", None, "scratch", ()),
        ("fedrep+prototype", "fedrep", "prototype", ()),
        ("fedrep+logistic+hog+pixels", "fedrep", "logistic", ("hog", "pixels")),
        ({"arm": "reptile", "use": "adapt"}, "reptile", "adapt", ()),
        ({"arm": "reptile", "use": "svm+hog", "name": "mine"}, "reptile", "svm", ("hog",)),
    ],
)
def test_a_method_is_its_name_or_a_table(given, arm, use, beside):
    method = Method.model_validate(given)
    assert (method.arm, method.use, method.beside) == (arm, use, beside)
    assert method.name == (given if isinstance(given, str) else given.get("name", "reptile+adapt"))
    assert Method.model_validate(method.model_dump(mode="json")) == method


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["fedrep+magic"]}, "methods"),
        ({"methods": ["logistic"]}, "says how to use a body and not whose"),
        ({"methods": ["fedrep+scratch"]}, "is a baseline and takes no arm"),
        ({"methods": ["fedrep+adapt+hog"]}, r"'\+hog' goes with a body's features"),
        ({"methods": ["nobody+prototype"]}, "arm 'nobody' is not known"),
        ({"methods": ["local+prototype"]}, "uses the body of arm 'local', which is not federated"),
        ({"methods": ["scratch", "scratch"]}, "methods has 'scratch' twice"),
        ({"shots": ["5-20"]}, "shots has '5-20'"),
        ({"shots": [0]}, "shots"),
        ({"shots": [5, 5]}, "shots has '5' twice"),
        ({"ways": 1}, "ways"),
        ({"ways": "some"}, "ways"),
        ({"queries": 0}, "queries"),
        ({"episodes": 0}, "episodes"),
        ({"extra": 1}, "unknown key"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, changes, said):
    with pytest.raises(StudyError, match=said) as error:
        few_shot_study(tmp_path, **changes)
    assert "simulation" in str(error.value)
    assert error.value.remedy


def test_the_arms_to_train_are_those_of_the_methods():
    named = ["scratch", "b+prototype", "untrained+svm", "a+svm", "b+svm"]
    assert FewShot.model_validate({"methods": named}).arms == ("b", "a")
