"""Which hospital's body would serve a new one best: a ranking, beside what each really gives.

Every other hospital, a source, trains the arm's plan alone, by the same private steps, and releases
two things: the body, and moments of its patients' features. The new hospital ranks the sources by
its few labelled cases (`common.transfer.choice`) and, as this is a simulation, is told how right it
was. Two spaces are looked at:

    the body's features    which need no release but the body: LogME's evidence and 'logistic'.
    the released space     each record's features at length 1, turned onto a few public random
                           directions (Johnson and Lindenstrauss 1984), and drawn in to length 1:
                           the distance, 'prototype', and all that goes through a map.

What a map h between the two hospitals can honestly mean depends on their classes.

    Classes agree          The source's released means of the classes judge the new hospital's cases
                           after h: 'moments' (`mapping.by_moments`, no label is looked at) and
                           'labels' (`mapping.to_prototypes`).
    Classes are its own    (`cohort.label.own`, or an episode of some classes only.) The source's
                           means are of other diseases, and to judge by them would be to guess. h by
                           moments brings the cases into the source's space, where the nearest mean
                           of the *own* labelled cases judges: 'mapped'. Such an h is linear and can
                           be undone, so it knows nothing of the new classes; all it changes is the
                           metric, |C_s^(1/2) C_t^(-1/2) (x - m)|: 'prototype' is the same without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from common.few_shot_spec import FewShot, per_class
from common.plan import Plan
from common.privacy.moments import Moments
from common.seeds import derive
from common.transfer import choice, heads, mapping, spaces
from common.transfer.cases import Cases, Method
from simulations.fewshot.episodes import Episode, Judged, episodes_of, ways_of
from simulations.fewshot.methods import Ready, judged_by
from simulations.fewshot.released import Released, placed, released
from simulations.fewshot.rules import everybody
from simulations.world import Say, World


@dataclass(frozen=True)
class Tried:
    """One source at a new hospital.

    Attributes:
        choices: Its row of each episode's ranking.
        judged: What was made of its body -> a judgement an episode.
    """

    epsilon: float | None
    choices: list[choice.Choice]
    judged: Mapping[str, list[Judged]]


@dataclass(frozen=True)
class Sources:
    """All sources at a new hospital, on the same episodes.

    Attributes:
        shots: Labelled patients a class: the most that the study asks for.
        tried: Source -> what came of it.
        picked: The first of each episode's ranking.
    """

    shots: str
    tried: Mapping[str, Tried]
    picked: list[str]


def sources_of(
    name: str, world: World, others: World, rules: FewShot, plans: Mapping[str, Plan], say: Say
) -> Sources | None:
    """Rank and try every other hospital's own body at a new one; None where nobody asked.

    Args:
        name: Of the new hospital.
        world: With its patients.
        others: The sources.
        rules: The study's.
        plans: Arm -> plan, that of `rules.source_arm` among them.
        say: Told of every body that is trained.
    """
    arm, spec = rules.source_arm, rules.sources
    if spec is None or arm is None:
        return None
    plan, shots = plans[arm], max(rules.shots, key=lambda k: sum(per_class(k)))
    part, classes = everybody(plan.study, world, name)
    rules = rules.model_copy(update={"episodes": min(rules.episodes, spec.episodes)})
    seed = derive(world.seed, "fewshot", name)  # the methods' own episodes
    episodes = list(episodes_of(part, classes, rules, shots, seed=seed))
    agree = not plan.study.cohort.label.own and ways_of(rules, classes) == classes
    given = {s: released(s, others, arm, plan, spec, say) for s in others.cohorts}
    seen = {s: _views(one, part.x, agree=agree) for s, one in given.items()}
    rows = [_ranked(given, seen, episode) for episode in episodes]
    tried = {
        s: Tried(
            given[s].epsilon,
            [row[s] for row in rows],
            {way: [judged_by(view, e) for e in episodes] for way, view in seen[s].items()},
        )
        for s in given
    }
    return Sources(str(shots), tried, [next(iter(row)) for row in rows])


def _views(source: Released, x: Tensor, *, agree: bool) -> dict[str, Ready]:
    """Return what can be made of a source at a new hospital, by name."""
    features, moments = spaces.features(source.model, x), source.moments
    places = placed(features, source.directions)
    found = {
        "logistic": Ready(features, heads.logistic),
        "prototype": Ready(places, heads.prototype),
    }
    if not agree:
        return {**found, "mapped": Ready(places, _own_means_after(moments))}
    means = moments.prototypes
    assert means is not None  # released by classes
    judge = mapping.nearest_prototype(means)
    by_moments = mapping.mapped(lambda c: _towards(moments, c), judge)
    by_labels = mapping.mapped(lambda c: mapping.to_prototypes(c, means), judge)
    return {**found, "moments": Ready(places, by_moments), "labels": Ready(places, by_labels)}


def _towards(moments: Moments, cases: Cases) -> mapping.Mapping:
    return mapping.by_moments(mapping.own_moments(cases.x), moments)


def _own_means_after(moments: Moments) -> Method:
    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        h = _towards(moments, cases)
        mapped: Tensor = heads.prototype(Cases(h(cases.x), cases.y, cases.ways), h(x), seed)
        return mapped

    return learn


def _ranked(
    given: Mapping[str, Released], seen: Mapping[str, Mapping[str, Ready]], episode: Episode
) -> dict[str, choice.Choice]:
    """Return source -> its row of the episode's ranking, which is in that order."""
    known = {
        s: choice.Source(
            episode.cases(views["logistic"].space),
            given[s].moments,
            episode.cases(views["prototype"].space),
        )
        for s, views in seen.items()
    }
    return {row.name: row for row in choice.ranking(known)}
