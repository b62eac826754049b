"""From what a comparison did to the figures of a run."""

from common.embedded import find_study
from common.study import load_study, parse_study
from simulations.results import metrics_of
from simulations.runner import compare, prepare


def test_a_hospital_too_small_under_one_seed_has_figures_of_the_others(tmp_path):
    """Fault it is for: a KeyError, as a partition draws the sizes anew for each seed."""
    lines = ["x,y", *(f"{i % 7},{i % 2}" for i in range(150))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values["cohort"] |= {
        "patient": None,
        "min_declared": 50,
        "features": [{"name": "x", "range": [0, 6]}],
        "label": {"column": "y", "classes": ["0", "1"]},
    }
    rules = {"source": "rows", "path": "t.csv", "hospitals": 3, "alpha": 20.0}
    values["simulation"] |= {"seed": 0, "seeds": 3, "data": str(tmp_path), "partition": rules}
    values["simulation"] |= {"arms": ["majority"]}
    del values["privacy"]
    study = parse_study(values, origin="test")
    prepare(study, tmp_path / "run")
    found = compare(study, tmp_path / "run", engine="inprocess", say=lambda line: None)
    seeds = found.outcomes["majority"]
    sizes = {h.name: sum(h.name in outcome.sites for outcome in seeds) for h in found.hospitals}
    assert {1, 2} & set(sizes.values())  # some took part under some seeds only
    metrics = metrics_of(found, tmp_path / "run", engine="inprocess", seconds=1.0)
    for site in metrics["sites"]:
        assert bool(site["arms"]) == (site["status"] == "took part")
