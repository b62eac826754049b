"""From the sources' episodes to the figures a user reads: what was promised, and what it gave."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from simulations.fewshot.run import NewHospital
from simulations.fewshot.sources import Sources, Tried


def source_tables(sites: Sequence[NewHospital]) -> dict[str, Any]:
    """Return `sources` and `source_choice`, each by new hospital; empty where nobody asked."""
    asked = {site.name: site.sources for site in sites if site.sources is not None}
    return {
        "sources": {
            name: {source: _row(source, tried, found) for source, tried in found.tried.items()}
            for name, found in asked.items()
        },
        "source_choice": {name: _choice(found) for name, found in asked.items()},
    }


def _row(name: str, tried: Tried, found: Sources) -> dict[str, Any]:
    """Average a source over episodes."""
    far = [row.distance for row in tried.choices if row.distance is not None]
    return {
        "evidence": statistics.fmean(row.evidence for row in tried.choices),
        "distance": statistics.fmean(far),
        "epsilon": tried.epsilon,
        "picked": found.picked.count(name),
        "accuracy": {
            found.shots: {
                way: statistics.fmean(one.accuracy for one in judged)
                for way, judged in tried.judged.items()
            }
        },
    }


def _choice(found: Sources) -> dict[str, Any]:
    """Say how often each way to choose picked a source that no other beat in that episode.

    What a source gives is the accuracy of logistic regression on its body's features. Sources may
    be equally good, so a blind choice is right more often than one in so many.
    """
    gives = [
        {s: tried.judged["logistic"][i].accuracy for s, tried in found.tried.items()}
        for i in range(len(found.picked))
    ]
    best = [max(row.values()) for row in gives]
    nearest = [
        min(found.tried, key=lambda s: found.tried[s].choices[i].distance or 0.0)
        for i in range(len(gives))
    ]
    blind = [_blind(row) for row in gives]
    chosen = {"evidence": found.picked, "distance": nearest}
    ways = {
        way: {
            "best": sum(row[s] == top for row, s, top in zip(gives, names, best, strict=True)),
            "accuracy": statistics.fmean(row[s] for row, s in zip(gives, names, strict=True)),
        }
        for way, names in chosen.items()
    }
    return {
        "episodes": len(gives),
        "shots": found.shots,
        **ways,
        "blind": {
            "best": sum(blind),
            "accuracy": statistics.fmean(statistics.fmean(row.values()) for row in gives),
        },
        "hindsight": statistics.fmean(best),
    }


def _blind(row: Mapping[str, float]) -> float:
    """Return how likely a source drawn at random is one of the best."""
    best = max(row.values())
    return sum(value == best for value in row.values()) / len(row)
