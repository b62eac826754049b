"""The compiled study: every number of the promise, and the digest that stands for all of it."""

import copy
import math
from pathlib import Path

import pytest

from common.errors import StudyError
from common.plan import DIGEST_VERSION, Plan, compile_study, read_plan, write_plan
from common.review import bears, review
from common.study import load_study, parse_study

STUDIES = sorted((Path(__file__).parents[2] / "simulations" / "studies").glob("*.toml"))

TABLE = {
    "name": "tiny",
    "title": "Tiny",
    "cohort": {
        "patient": "id",
        "columns": ["id", "age", "pain", "test", "y"],
        "label": {"column": "y", "classes": ["no", "yes"], "map": {"0": "no", "1": "yes"}},
        "features": [
            {"name": "age", "range": [0, 120], "default": 50, "center": 60, "scale": 10},
            {"name": "pain", "kind": "category", "categories": ["1", "2"]},
            {"name": "test", "kind": "missing"},
        ],
    },
    "model": {"name": "mlp", "hidden": [8]},
    "learner": {"name": "fedprox", "learning_rate": 0.1, "sampling_rate": 0.5, "proximal": 0.1},
    "rounds": {"count": 4},
    "privacy": {"epsilon": 1.0, "delta": 1e-4},
    "evaluation": {"epsilon": 1.0},
}
IMAGES = {
    "name": "pictures",
    "cohort": {"label": {"classes": ["no", "yes", "unsure"]}, "image": {"size": 28}},
    "learner": {"learning_rate": 0.1},
    "rounds": {"count": 2},
    "privacy": {"sigma": 2.0, "delta": 1e-4},
}

MAPPED = {
    **IMAGES,
    "cohort": {
        **IMAGES["cohort"],
        "image": {"size": 28, "maps": [{"kind": "hog"}, {"kind": "pixels", "size": 7}]},
    },
}


META = {
    **TABLE,
    "learner": {"name": "maml", "learning_rate": 0.1, "meta": {"unit": "patient"}},
}


def plan_of(values, *, sigma=1.5, evaluation_sigma=2.5, query_sigma=0.5):
    """A plan with its noise given: the digest then rests on no accountant."""
    return Plan(parse_study(values, origin="t"), sigma, evaluation_sigma, query_sigma)


def changed(values, path, value):
    values = copy.deepcopy(values)
    *above, last = path.split(".")
    table = values
    for key in above:
        table = table[int(key)] if isinstance(table, list) else table.setdefault(key, {})
    table[int(last) if isinstance(table, list) else last] = value
    return values


# One mutant a rule of TABLE; a rule without one fails the test of completeness below.
MUTANTS = {
    "name": "other",
    "title": "Other",
    "description": "More.",
    "cohort.patient": "pid",
    "cohort.max_records": 2,
    "cohort.train_fraction": 0.6,
    "cohort.min_declared": 30,
    "cohort.columns": ["id", "age", "pain", "y", "test"],
    "cohort.missing": ["", "NA"],
    "cohort.label.column": "age",
    "cohort.label.classes": ["yes", "no"],
    "cohort.label.ordinal": True,
    "cohort.label.map": {"0": "yes", "1": "no"},
    "cohort.features.0.name": "years",
    "cohort.features.0.column": "pain",
    "cohort.features.0.range": [0, 121],
    "cohort.features.0.default": 51,
    "cohort.features.0.center": 61,
    "cohort.features.0.scale": 11,
    "cohort.features.0.missing": ["0"],
    "cohort.features.0.indicator": True,
    "cohort.features.1.categories": ["2", "1"],
    "model.name": "logistic",
    "model.hidden": [9],
    "model.width": 16,
    "model.weights": "w.safetensors",
    "model.frozen": "body",
    "model.backbone_size": 64,
    "learner.local_steps": 6,
    "learner.learning_rate": 0.2,
    "learner.sampling_rate": 0.4,
    "learner.proximal": 0.2,
    "learner.augmentation": {"flip": True},
    "learner.optimizer": "adam",
    "learner.task": {"kind": "pairs"},
    "server.tau": 1e-4,
    "server.decay": "linear",
    "server.optimizer": "adam",
    "server.learning_rate": 0.5,
    "server.momentum": 0.8,
    "server.beta2": 0.9,
    "server.weights": "equal",
    "server.aggregation": "median",
    "server.liars": 1,
    "server.norm_bound": 3.0,
    "server.average": "tail",
    "server.average_decay": 0.8,
    "rounds.count": 5,
    "rounds.quorum": 3,
    "rounds.deadline_s": 60,
    "rounds.retries": 1,
    "privacy.epsilon": 1.1,
    "privacy.delta": 2e-4,
    "privacy.clip": 2.0,
    "privacy.clipping": "automatic",
    "evaluation.bins": 20,
    "evaluation.epsilon": 0.5,
    "adaptation.prior": 5.0,
    "adaptation.bias_prior": 2.0,
    "adaptation.max_steps": 50,
}
# Rules that cannot change alone: the mutants of their partners stand for them.
WHOLE_TABLES = {
    "learner": {"name": "fedavg", "learning_rate": 0.1, "sampling_rate": 0.5},
    "privacy": {"sigma": 1.0, "delta": 1e-4},
    "cohort.features.2": {"name": "test", "range": [0, 1]},
    "cohort": {**TABLE["cohort"], "features": TABLE["cohort"]["features"][::-1]},
}
COUPLED = {
    "cohort.label.own",  # with ways in place of classes: see OWN_CLASSES
    "cohort.label.ways",
    "cohort.text",  # in place of features
    "learner.metric",  # of a body: see SPACE_MUTANTS
    "cohort.complete_cases",
    "cohort.label.event",  # of survival: see SURVIVAL
    "cohort.label.edges",
    "cohort.label.horizon",
    "model.likelihood",
    "model.standardise_weights",  # of convolutions: see PICTURES
    "learner.name",
    "learner.meta",  # of other learners: see META_MUTANTS
    "learner.head_steps",
    "learner.alignment",  # of aligned: see ALIGNMENT_MUTANTS
    "model.backbone",  # of pictures: see below
    "learner.hypernetwork",  # of their own learners: see GENERATOR_MUTANTS
    "learner.metanet",
    "privacy.sigma",
    "cohort.features.kind",
    "cohort.image",
}


@pytest.mark.parametrize(("path", "value"), [*MUTANTS.items(), *WHOLE_TABLES.items()])
def test_every_rule_changes_the_digest(path, value):
    # Broken once: a field excluded from `rules()` lets a hospital's approval cover another study.
    assert plan_of(changed(TABLE, path, value)).digest != plan_of(TABLE).digest


IMAGE_MUTANTS = {
    "size": 56,
    "channels": 3,
    "file": "path",
    "maps": [],
    "maps.0.orientations": 9,
    "maps.0.pixels_per_cell": 4,
    "maps.0.cells_per_block": 2,
    "maps.0.center": 0.25,
    "maps.0.scale": 0.5,
    "maps.1.size": 14,
    "maps.1.center": 0.5,
    "maps.1.standardise": True,
    "maps.1.scale": 2.0,
}


@pytest.mark.parametrize(("path", "value"), IMAGE_MUTANTS.items())
def test_every_rule_of_images_changes_the_digest(path, value):
    other = changed(MAPPED, f"cohort.image.{path}", value)
    assert plan_of(other).digest != plan_of(MAPPED).digest


PICTURES = {
    **IMAGES,
    "model": {"name": "conv4"},
    "learner": {"learning_rate": 0.1, "augmentation": {"flip": True, "shift": 1}},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.standardise_weights", True),
        ("learner.augmentation.copies", 5),
        ("learner.augmentation.flip", False),
        ("learner.augmentation.shift", 2),
        ("learner.augmentation.rotation", 5),
    ],
)
def test_every_rule_of_pictures_changes_the_digest(path, value):
    assert plan_of(changed(PICTURES, path, value)).digest != plan_of(PICTURES).digest


def test_the_backbone_changes_the_digest():
    model = {"name": "backbone", "backbone": "resnet18", "weights": "w", "frozen": "body"}
    values = {**IMAGES, "model": model}
    other = changed(values, "model.backbone", "resnet50")
    assert plan_of(other).digest != plan_of(values).digest


ALIGNMENT_MUTANTS = {
    "kind": "coral",
    "weight": 2.0,
    "radius": 3.0,
    "kernel": "rbf",
    "frequencies": 65,
    "bandwidth": 2.0,
}
ALIGNED = {
    **TABLE,
    "learner": {"name": "aligned", "learning_rate": 0.1, "alignment": {"kind": "mmd"}},
}


@pytest.mark.parametrize(("path", "value"), ALIGNMENT_MUTANTS.items())
def test_every_rule_of_alignment_changes_the_digest(path, value):
    other = changed(ALIGNED, f"learner.alignment.{path}", value)
    assert plan_of(other).digest != plan_of(ALIGNED).digest


def test_no_rule_of_alignment_lacks_a_mutant():
    rules = parse_study(ALIGNED, origin="t").rules()["learner"]["alignment"]
    assert leaves(rules) == ALIGNMENT_MUTANTS.keys()


SPACE = {
    **TABLE,
    "model": {"name": "mlp", "hidden": [8]},
    "learner": {
        "name": "matching",
        "learning_rate": 0.1,
        "metric": {"radius": 1.0},
        "task": {"kind": "classes", "ways": 2},
    },
}
SPACE_MUTANTS = {
    "metric.distance": "euclidean",
    "metric.references": 2,
    "metric.embedding": 4,
    "metric.radius": 2.0,
    "metric.temperature": 0.5,
    "metric.margin": 2.0,
    "metric.form": "distance",
    "metric.context": 1,
    "task.ways": 3,
    "task.queries": 6,
    "task.per_round": 2,
}


@pytest.mark.parametrize(("path", "value"), SPACE_MUTANTS.items())
def test_every_rule_of_a_space_and_its_problems_changes_the_digest(path, value):
    other = changed(SPACE, f"learner.{path}", value)
    assert plan_of(other).digest != plan_of(SPACE).digest


def test_no_rule_of_a_space_lacks_a_mutant():
    rules = parse_study(SPACE, origin="t").rules()["learner"]
    found = {f"{name}.{leaf}" for name in ("metric", "task") for leaf in leaves(rules[name])}
    # A loss is its learner's; kinds and shots exclude other rules: a mutant of the whole table.
    assert found - SPACE_MUTANTS.keys() == {"metric.loss", "task.kind", "task.shots"}
    pairs = changed(SPACE, "learner.task", {"kind": "pairs"})
    assert plan_of(pairs).digest != plan_of(SPACE).digest


def test_own_classes_change_the_digest():
    def of(label):
        return plan_of(changed(TABLE, "cohort.label", {"column": "y", **label})).digest

    own = {"own": True, "ways": 2}
    assert len({of({"classes": ["class 1", "class 2"]}), of(own), of({**own, "ways": 3})}) == 3


META_MUTANTS = {
    "unit": "episode",
    "pool": "shared",
    "query_fraction": 0.4,
    "curvature_clip": 2.0,
    "episodes": 7,
}


@pytest.mark.parametrize(("path", "value"), META_MUTANTS.items())
def test_every_rule_of_support_and_query_changes_the_digest(path, value):
    other = changed(META, f"learner.meta.{path}", value)
    assert plan_of(other).digest != plan_of(META).digest


SURVIVAL = {
    **{name: table for name, table in TABLE.items() if name != "privacy"},
    "cohort": {
        **TABLE["cohort"],
        "label": {"column": "t", "event": "e", "classes": ["no", "yes"], "edges": [1, 2, 3],
                  "horizon": 2},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cohort.label.event", "f"),
        ("cohort.label.edges", [1, 2, 4]),
        ("cohort.label.horizon", 3),
        ("model.likelihood", "cox"),
    ],
)
def test_every_rule_of_survival_changes_the_digest(path, value):
    assert plan_of(changed(SURVIVAL, path, value)).digest != plan_of(SURVIVAL).digest


GENERATOR_MUTANTS = {
    "hypernetwork.embedding": 9,
    "hypernetwork.hidden": [33],
    "hypernetwork.rate": 2.0,
    "metanet.hidden": 9,
    "metanet.rate": 2.0,
}


def generator(name):
    learner = {"name": name, "learning_rate": 0.1, name: {}}
    return {**TABLE, "learner": learner}


@pytest.mark.parametrize(("path", "value"), GENERATOR_MUTANTS.items())
def test_every_rule_of_generated_weights_changes_the_digest(path, value):
    values = generator(path.partition(".")[0])
    other = changed(values, f"learner.{path}", value)
    assert plan_of(other).digest != plan_of(values).digest


def test_no_rule_of_generated_weights_lacks_a_mutant():
    for name in ("hypernetwork", "metanet"):
        mine = {path.partition(".")[2] for path in GENERATOR_MUTANTS if path.startswith(name)}
        assert leaves(parse_study(generator(name), origin="t").rules()["learner"][name]) == mine


def test_the_heads_steps_change_the_digest():
    head = {**TABLE, "learner": {"name": "fedrep", "learning_rate": 0.1, "head_steps": 4}}
    other = changed(head, "learner.head_steps", 3)
    assert plan_of(other).digest != plan_of(head).digest
    without = {**TABLE, "learner": {"name": "fedrep", "learning_rate": 0.1}}
    assert parse_study(without, origin="t").rules()["learner"]["head_steps"] == 5


@pytest.mark.parametrize(
    ("table", "key", "why"),
    [
        ("learner", "private_inner", "one support patient moves every query"),
        ("model", "batch_norm", "statistics of a batch"),
        ("rounds", "early_stopping", "release of its own"),
        ("evaluation", "metrics", "without noise do not leave"),
        ("learner", "private_head", "a head trained without noise"),
    ],
)
def test_what_has_no_private_form_is_refused_with_the_reason(table, key, why):
    with pytest.raises(StudyError, match=rf"unknown key '{table}\.{key}': .*{why}"):
        parse_study(changed(TABLE, f"{table}.{key}", True), origin="t")


def test_no_rule_of_support_and_query_lacks_a_mutant():
    assert leaves(parse_study(META, origin="t").rules()["learner"]["meta"]) == set(META_MUTANTS)


def test_defaults_of_support_and_query_are_in_the_digest_though_not_written():
    without = {**META, "learner": {"name": "maml", "learning_rate": 0.1}}
    assert parse_study(without, origin="t").rules() == parse_study(META, origin="t").rules()


def test_no_rule_of_images_lacks_a_mutant():
    image = parse_study(MAPPED, origin="t").rules()["cohort"]["image"]
    mutated = {".".join(p for p in path.split(".") if not p.isdigit()) for path in IMAGE_MUTANTS}
    assert leaves(image) | {"maps"} == mutated | {"maps.kind"}


def test_complete_cases_change_the_digest():
    # TABLE has a feature of missingness, which complete cases exclude.
    some = changed(TABLE, "cohort.features", TABLE["cohort"]["features"][:2])
    complete = changed(some, "cohort.complete_cases", True)
    assert plan_of(some).digest != plan_of(complete).digest


def leaves(value, path=""):
    if isinstance(value, dict) and value and path != "cohort.label.map":
        return {leaf for k, v in value.items() for leaf in leaves(v, f"{path}.{k}".lstrip("."))}
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return {leaf for v in value for leaf in leaves(v, path)}
    return {path}


def test_no_rule_lacks_a_mutant():
    mutated = {".".join(p for p in path.split(".") if not p.isdigit()) for path in MUTANTS}
    assert leaves(parse_study(TABLE, origin="t").rules()) == mutated | COUPLED


@pytest.mark.parametrize(
    "noise", [{"sigma": 1.499}, {"evaluation_sigma": 2.499}, {"query_sigma": 1}]
)
def test_the_compiled_noise_changes_the_digest(noise):
    assert plan_of(TABLE, **noise).digest != plan_of(TABLE).digest


# Hospitals have approved digests. If these change, a rule was added, renamed or given another
# default, or the encoding changed: raise DIGEST_VERSION, put the new digests here, and say in the
# changelog that studies must be approved anew.
TABLE_DIGEST = "fed52fb2dddea9b545cf26458d016b40dcc267b84dee337cbf3d3d2290d7707a"
IMAGES_DIGEST = "8f2d2a5f64e2d62101981c5e965568b78a4476586654fde7e1510e9e079ac779"
MAPPED_DIGEST = "e34e22600714925bfcc4a9ec4eb7b55aa3443551472284ddede8b4258e478964"


def test_the_digest_of_a_study_stays_what_it_is():
    assert DIGEST_VERSION == 5
    assert plan_of(TABLE).digest == TABLE_DIGEST
    assert plan_of(IMAGES).digest == IMAGES_DIGEST
    assert plan_of(MAPPED).digest == MAPPED_DIGEST


def test_the_simulation_is_not_in_the_digest():
    sites = {"a": {"path": "a.csv", "declared": 100}}
    one = plan_of({**TABLE, "simulation": {"sites": sites}})
    other = plan_of({**TABLE, "simulation": {"sites": sites, "seeds": 7, "split": "stratified"}})
    assert plan_of(TABLE).digest == one.digest == other.digest


def reversed_keys(value):
    if isinstance(value, dict):
        return {k: reversed_keys(v) for k, v in reversed(value.items())}
    return [reversed_keys(v) for v in value] if isinstance(value, list) else value


def test_the_order_of_keys_is_not_in_the_digest():
    assert plan_of(reversed_keys(TABLE)).digest == plan_of(TABLE).digest


def test_a_default_that_is_written_out_is_not_in_the_digest():
    study = parse_study(TABLE, origin="t")
    assert plan_of(study.rules()).digest == plan_of(TABLE).digest


def test_the_formatting_of_the_file_is_not_in_the_digest(tmp_path):
    texts = [
        """
        name = "x"
        [cohort.label]
        classes = ["a", "b"]
        [[cohort.features]]
        name = "age"
        range = [0, 120]
        [learner]
        learning_rate = 0.1
        [rounds]
        count = 2
        """,
        """
        # the same, otherwise written
        rounds = { count = 0x2 }
        learner.learning_rate = 1e-1
        name = 'x'
        [cohort]
        features = [ { range = [0.0, 1.2e2], name = "age" } ]
        label = { classes = [
            "a",
            'b',
        ] }
        """,
    ]
    digests = set()
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        digests.add(compile_study(load_study(path)).digest)
    assert len(digests) == 1


def test_another_target_epsilon_is_another_digest():
    study = parse_study(TABLE, origin="t")
    digests = {
        Plan(s, 1.5, 2.5).digest for s in (study, study.with_epsilon(3.0), study.with_epsilon(None))
    }
    assert len(digests) == 3


_QUICK = ("breast_cancer", "brca", "omniglot", "heart")


@pytest.mark.parametrize(
    "path",
    [p if p.stem in _QUICK else pytest.param(p, marks=pytest.mark.slow) for p in STUDIES],
    ids=lambda p: p.stem,
)
def test_a_shipped_studys_plan_comes_back_whole(path, tmp_path):
    plan = compile_study(load_study(path))
    file = write_plan(plan, tmp_path)
    again = read_plan(file)
    assert file.name == f"{plan.digest}.toml"
    assert again.digest == plan.digest
    assert again == Plan(
        plan.study.model_copy(update={"simulation": None}), plan.sigma, plan.evaluation_sigma
    )
    promised = math.inf if plan.study.privacy is None else plan.study.privacy.epsilon
    assert plan.epsilon <= promised


@pytest.mark.parametrize("values", [TABLE, IMAGES, MAPPED], ids=["table", "images", "maps"])
def test_a_plan_comes_back_whole_with_every_kind_of_rule(values, tmp_path):
    plan = plan_of(values, sigma=0.1 + 0.2, evaluation_sigma=3.0)
    assert read_plan(write_plan(plan, tmp_path)) == plan


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sigma = 1.5", "sigma = 0.5"),
        ("count = 4", "count = 400"),
        ("clip = 1.0", "clip = 10.0"),
        ("train_fraction = 0.7", "train_fraction = 0.1"),
        ("sigma = 1.5", "sigma = nan"),
    ],
)
def test_an_edited_plan_is_refused(old, new, tmp_path):
    # Broken once: without the comparison a site would run the coordinator's weaker noise.
    path = write_plan(plan_of(TABLE), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(StudyError, match="does not hold the study of that digest") as caught:
        read_plan(path)
    assert "do not edit" in caught.value.remedy


def test_a_renamed_plan_is_refused(tmp_path):
    path = write_plan(plan_of(TABLE), tmp_path)
    with pytest.raises(StudyError, match="does not hold the study of that digest"):
        read_plan(path.rename(tmp_path / f"{plan_of(IMAGES).digest}.toml"))


@pytest.mark.parametrize(
    "table",
    [
        "",
        "compiled = 3",
        "[compiled]\nsigma = 1.5",
        "[compiled]\nsigma = 'high'\nevaluation_sigma = 1.0",
    ],
)
def test_a_plan_without_its_noise_is_refused(table, tmp_path):
    path = write_plan(plan_of(TABLE), tmp_path)
    rules = path.read_text().partition("[compiled]")[0]
    path.write_text(f"{table}\n{rules}" if table.startswith("compiled") else f"{rules}\n{table}")
    with pytest.raises(StudyError, match=r"no readable \[compiled\]"):
        read_plan(path)


def test_a_missing_plan_says_so(tmp_path):
    with pytest.raises(StudyError, match=r"plan file .* does not exist"):
        read_plan(tmp_path / "none.toml")


def test_a_full_disk_leaves_no_half_plan(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_plan(plan_of(TABLE), tmp_path)
    assert list(tmp_path.iterdir()) == []


def private(**privacy):
    values = {**TABLE, "privacy": {"delta": 1e-4, **privacy}}
    return {k: v for k, v in values.items() if k != "evaluation"}


def test_a_target_epsilon_fixes_sigma_and_is_kept():
    plan = compile_study(parse_study(private(epsilon=2.0), origin="t"))
    assert 1.98 < plan.epsilon_after(4) <= 2.0
    assert plan.epsilon <= 2.0
    assert plan.private


def test_a_given_sigma_stands_and_epsilon_follows():
    plan = compile_study(parse_study(private(sigma=3.0), origin="t"))
    assert plan.sigma == 3.0
    # The evaluation is calibrated to what training costs, so it never costs a patient more.
    assert plan.epsilon == plan.epsilon_after(4)
    assert 0.0 == plan.epsilon_after(0) < plan.epsilon_after(1) < plan.epsilon_after(4)


def test_an_evaluation_may_have_a_target_of_its_own():
    values = {**private(epsilon=2.0), "evaluation": {"epsilon": 0.5}}
    own = compile_study(parse_study(values, origin="t"))
    shared = compile_study(parse_study(private(epsilon=2.0), origin="t"))
    assert own.sigma == shared.sigma
    assert own.evaluation_sigma > shared.evaluation_sigma


def test_without_a_privacy_table_nothing_is_promised():
    values = {k: v for k, v in TABLE.items() if k != "privacy"}
    plan = compile_study(parse_study(values, origin="t"))
    assert not plan.private
    assert (plan.sigma, plan.evaluation_sigma, plan.delta) == (0.0, 0.0, 0.0)
    assert plan.clip == plan.epsilon == plan.epsilon_after(1) == math.inf


def test_a_target_that_no_noise_reaches_is_refused_by_name():
    # 200 rounds of 100 steps at q = 1 and epsilon .001: sigma 10,000 is too little.
    values = {
        **private(epsilon=0.001),
        "rounds": {"count": 200},
        "learner": {"learning_rate": 0.1, "local_steps": 100},
    }
    with pytest.raises(StudyError, match=r"privacy\.epsilon is 0\.001: no noise") as caught:
        compile_study(parse_study(values, origin="t"))
    assert "rounds.count" in caught.value.remedy


def test_a_target_that_only_the_evaluation_misses_names_the_evaluation():
    # Broken once: the message named privacy.epsilon, which was not at fault.
    values = {**private(epsilon=1.0, delta=1e-9), "evaluation": {"epsilon": 1e-7}}
    with pytest.raises(StudyError, match=r"evaluation\.epsilon is 1e-07") as caught:
        compile_study(parse_study(values, origin="t"))
    assert "evaluation.epsilon" in caught.value.remedy


def test_public_constants_equal_hand_derived_ones():
    plan = plan_of(TABLE)
    assert plan.steps == 5 * 4  # local steps times rounds
    assert plan.denominator(200) == pytest.approx(0.5 * 200 * 0.7)  # q, declared, train fraction
    (price,) = plan.training_prices(rounds=3)
    assert (price.count, price.sampling_rate, price.sigma, price.part) == (15, 0.5, 1.5, "train")


@pytest.mark.parametrize(("values", "histograms"), [(TABLE, 1), (IMAGES, 3)])
def test_an_evaluation_of_more_than_two_classes_pays_for_each(values, histograms):
    # Broken once: a patient of three classes lies in three histograms and would pay for one.
    price = plan_of(values).evaluation_price()
    assert plan_of(values).histograms == price.count == histograms
    assert (price.sampling_rate, price.sigma, price.part) == (1.0, 2.5, "holdout")


def aggregating(quorum, **server):
    values = {**TABLE, "rounds": {"count": 4, "quorum": quorum}, "server": server}
    return parse_study({k: v for k, v in values.items() if k != "evaluation"}, origin="t")


@pytest.mark.parametrize(
    ("aggregation", "liars", "quorum"),
    [("median", 1, 3), ("trimmed_mean", 1, 3), ("trimmed_mean", 2, 5), ("krum", 0, 3),
     ("krum", 1, 5), ("krum", 2, 7)],
)  # fmt: skip
def test_liars_need_a_quorum_that_bears_them(aggregation, liars, quorum):
    # 2 f + 1 for the median and the trimmed mean, 2 f + 3 for Krum; one less is refused.
    server = {"aggregation": aggregation, "liars": liars}
    compile_study(aggregating(quorum, **server))
    with pytest.raises(StudyError) as caught:
        compile_study(aggregating(quorum - 1, **server))
    assert f"server.liars is {liars}" in caught.value.message
    assert f"rounds.quorum is {quorum - 1}" in caught.value.message
    assert f"raise rounds.quorum to {quorum}," in caught.value.remedy


def test_a_mean_bears_no_liar():
    with pytest.raises(StudyError, match=r"server\.liars is 1.*'mean', which bears none") as caught:
        compile_study(aggregating(9, liars=1))
    assert "median" in caught.value.remedy


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({}, "the mean of all hospitals' changes, weighted by declared size"),
        ({"aggregation": "median"}, "the median of all hospitals' changes"),
        ({"aggregation": "trimmed_mean", "liars": 1}, "the smallest and the largest 1 of all"),
        ({"aggregation": "krum"}, "that is nearest to most others (Krum)"),
        ({"norm_bound": 2.5}, "after scaling each down to an L2 norm of 2.5"),
    ],
)
def test_a_review_says_what_the_coordinator_makes_of_the_changes(server, words):
    [sentence] = [s for s in review(compile_study(aggregating(3, **server))).leaves if words in s]
    assert sentence.startswith("the coordinator takes") or "leaves out" in sentence
    ignores = "declared sizes do not count" in sentence
    assert ignores is (server.get("aggregation", "mean") != "mean")


def sentences(values):
    found = review(compile_study(parse_study({**values, "evaluation": {}}, origin="t")))
    return "; ".join((*found.computes, *found.leaves))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (changed(TABLE, "privacy.clipping", "automatic"), "scaled to a length just below 1"),
        (changed(TABLE, "model.frozen", "body"), "trains the last layer alone"),
        (changed(TABLE, "model.frozen", "body"), "the change of the last layer's weights"),
        (changed(TABLE, "server.average", "tail"), "the mean of the weights after rounds 3 to 4"),
        (changed(TABLE, "server.average", "ema"), "each counting 0.9 times as much as the one"),
        (PICTURES, "4 copies of it, each mirrored at random and moved by up to 1 pixels"),
        (changed(PICTURES, "model.standardise_weights", True), "weights of convolutions standard"),
    ],
)
def test_a_review_says_each_rule_that_is_not_the_usual_one(values, words):
    assert words in sentences(values)
    assert words not in sentences(TABLE)


def test_what_an_aggregation_bears_is_said_for_the_members():
    plan = compile_study(aggregating(5, aggregation="krum", liars=1, norm_bound=2.0))
    assert bears(plan, 7) == (
        "aggregation krum, norms bounded by 2: bears 1 lying of 7 hospitals "
        "(at most: mean 0, median 3, trimmed_mean 3, krum 2)"
    )
    assert "aggregation mean: bears 0 lying of 2 hospitals" in bears(plan_of(TABLE), 2)
