"""The [simulation] table: hospitals, partitions, arms."""

import pytest
from pydantic import ValidationError

from common.partition_spec import BreastCancer, PartitionSite
from common.scenario import FEDERATED, Arm, Simulation

SITES = {"va": {"path": "va.csv", "declared": 200}}
SITE = {"name": "a", "patients": 10, "positives": 4, "declared": 10}


def simulation(**values):
    return Simulation.model_validate({"sites": SITES, **values})


def test_standard_arms_exist_and_only_federated_ones_follow_the_privacy_table():
    for name in ("majority", "local", "pooled", "fedavg", "fedprox", "reptile"):
        arm = simulation().arm_named(name)
        assert arm.kind == name
        assert arm.follows_privacy == (name in FEDERATED)


def test_an_arm_may_say_itself_whether_it_is_private():
    assert Arm(kind="local", private=True).follows_privacy
    assert not Arm(kind="reptile", private=False).follows_privacy


def test_a_study_may_name_its_own_arms_even_by_a_standard_name():
    own = simulation(
        arms=["strong", "reptile"],
        arm={"strong": {"kind": "fedprox", "proximal": 1.0}, "reptile": {"kind": "fedavg"}},
    )
    assert own.arm_named("strong").proximal == 1.0
    assert own.arm_named("reptile").kind == "fedavg"


BAD = {
    "unknown arm": ({"arms": ["magic"]}, "arm 'magic' is not known; the arms are majority, local"),
    "arm twice": ({"arms": ["local", "local"]}, "names an arm twice"),
    "no hospitals": ({"sites": {}}, "either simulation.sites or simulation.partition"),
    "two kinds of hospitals": (
        {"partition": {"source": "breast_cancer", "hospitals": [SITE]}},
        "either simulation.sites or simulation.partition",
    ),
    "negative seed": ({"seed": -1}, "greater than or equal to 0"),
    "no seeds": ({"seeds": 0}, "greater than or equal to 1"),
    "unknown split": ({"split": "random"}, "'keyed', 'stratified' or 'given'"),
    "unknown key": ({"arm_s": []}, "Extra inputs"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_contradictory_simulation_is_refused(case):
    values, message = BAD[case]
    with pytest.raises(ValidationError, match=message):
        simulation(**values)


@pytest.mark.parametrize(
    ("kind", "proximal", "message"),
    [("fedprox", None, "fedprox needs one"), ("reptile", 0.1, "proximal is 0.1")],
)
def test_mu_belongs_to_fedprox_and_to_no_other_arm(kind, proximal, message):
    with pytest.raises(ValidationError, match=message):
        Arm(kind=kind, proximal=proximal)


def test_a_hospital_cannot_have_more_positives_than_patients():
    # Broken once: a negative count of the others took nearly all of them, without a word.
    with pytest.raises(ValidationError, match="'a' has 11 positives of 10 patients"):
        PartitionSite.model_validate({**SITE, "positives": 11})


def test_a_partition_has_hospitals_of_different_names():
    with pytest.raises(ValidationError, match="at least 1 item"):
        BreastCancer(source="breast_cancer", hospitals=())
    with pytest.raises(ValidationError, match="names a hospital twice"):
        BreastCancer.model_validate({"source": "breast_cancer", "hospitals": [SITE, SITE]})


@pytest.mark.parametrize("repeat", [(0.9, 0.3), (-0.1, 0.3)])
def test_the_range_of_measurement_errors_is_a_range(repeat):
    with pytest.raises(ValidationError, match="0 <= low <= high"):
        BreastCancer.model_validate(
            {"source": "breast_cancer", "hospitals": [SITE], "repeat": list(repeat)}
        )
