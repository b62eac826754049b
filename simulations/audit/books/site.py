"""A site's books: its ledger's entries against its policy and the plans that it approved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.desk.approval import runs_approved
from client.desk.cohorts import Groups
from client.ledger import Ledger
from client.site import Site, load_site
from common.auditing.outcome import Outcome, judge
from common.errors import SiteError
from common.privacy.accounting import ACCOUNTANT, ADJACENCIES, UNIT, epsilon
from common.privacy.events import PoissonGaussian, one_adjacency
from simulations.audit.books.entries import Study, fold
from simulations.audit.books.recompute import Recomputed, recompute
from simulations.audit.books.values import Books, accountants, at_most, released

_SEEDED = "SEEDED: whoever knows noise_seed can take the noise off"
_SIMULATED = "seeded generator (simulation; a real site uses a cryptographic source)"
_SECURE = "AES-256 in counter mode, keyed by the operating system, fresh for every release"


def site_books(folder: Path) -> Books:
    """Return a site's books with their tests.

    Raises:
        SiteError: there is no ledger or nothing in it, its chain is broken, or it lost entries.
        GrandroundsError: it holds an event of an unknown kind, or events that do not add up.
    """
    site = load_site(folder)
    if not site.ledger_path.is_file():
        raise _nothing(site)
    with closing(Ledger(site.ledger_path, durable=not site.is_simulated)) as ledger:
        _check(ledger)
        studies = fold(ledger.entries(), site.plans())
        if not studies:
            raise _nothing(site)
        said = {a.digest: epsilon(a.events, delta=a.delta) for a in ledger.accounts() if a.events}
        found = {s.digest: recompute(s.events, delta=s.delta) for s in studies}
        tests = [t for s in studies for t in _tests(s, found[s.digest], said[s.digest], site)]
        for study in studies:
            approved = runs_approved(ledger, study.digest)
            if approved is not None:
                tests.append(_runs(study, approved))
        totals = _totals(site, ledger, studies, found)
    tests += [t for total in totals for t in total.tests(site)] + _generator(site)
    most = max(totals, key=lambda total: total.cost.pld)
    is_open = all(math.isinf(s.claim) and not s.is_protected for s in studies)
    return Books(
        f"Ledger of {site.config.name}",
        math.inf if is_open or math.isinf(most.cost.pld) else site.policy.epsilon,
        site.policy.delta,
        most.cost,
        tuple(tests),
        tuple(_line(s, found[s.digest], said[s.digest]) for s in studies),
        _privacy(site, most, studies),
        tuple(_remarks(studies)),
    )


def _nothing(site: Site) -> SiteError:
    return SiteError(
        f"the ledger of {str(site.folder)!r} holds no event: nothing was released about patients",
        remedy="audit it after the first round; grandrounds site log shows what it holds",
    )


def _check(ledger: Ledger) -> None:
    verdict = ledger.verify()
    if not verdict.ok:
        raise SiteError(
            f"the ledger's chain is broken: {verdict.what}",
            remedy="find out who writes to it and restore it from a backup: what it comes to "
            "cannot be known",
        )
    if ledger.behind is not None:
        raise SiteError(
            f"the ledger must be reconciled first: {ledger.behind}",
            remedy="charge what may be missing: grandrounds site reconcile DIR",
        )


def _tests(study: Study, found: Recomputed, said: float, site: Site) -> list[Outcome]:
    name, most = study.name, max(study.answers.values(), default=0)
    tests = accountants(name, found, said=said)
    tests.append(
        judge(
            f"L {name}: answers",
            statistic=most,
            threshold=1,
            detail=f"a request was answered {most} times with a price each",
        )
    )
    if study.plan is not None:
        words = f"{study.misfits} of {len(study.paid)} charges are not the plan's price"
        tests.append(judge(f"L {name}: prices", statistic=study.misfits, threshold=0, detail=words))
    if math.isfinite(study.claim):
        answered = recompute(study.answered, delta=study.delta).pld
        words = f"what was answered comes to epsilon {answered:.4g}, its plan to {study.claim:.4g}"
        tests.append(at_most(f"L {name}: plan", answered, study.claim, words))
        limit = site.policy.study_epsilon
        if limit is not None:
            words = f"epsilon {found.pld:.4g} of study_epsilon {limit:g} in policy.toml"
            tests.append(at_most(f"L {name}: study_epsilon", found.pld, limit, words))
    return tests


def _runs(study: Study, approved: int) -> Outcome:
    words = f"{len(study.begun)} runs were begun, {approved} approved"
    return judge(
        f"L {study.name}: runs", statistic=len(study.begun), threshold=approved, detail=words
    )


@dataclass(frozen=True)
class _Total:
    """What the studies of cohorts that are counted together come to."""

    cohorts: tuple[str, ...]
    cost: Recomputed
    delta: float
    adjacency: str

    def tests(self, site: Site) -> list[Outcome]:
        """Return the tests against the policy."""
        policy, name = site.policy, ", ".join(self.cohorts)
        words = f"epsilon {self.cost.pld:.4g} of {policy.epsilon:g} in policy.toml"
        limit = policy.epsilon
        if policy.allow_unprotected and math.isinf(self.cost.pld):
            limit = math.inf
        delta = f"delta {self.delta:.3g} of {policy.delta:g} in policy.toml"
        return [
            at_most(f"L cohort {name}: epsilon", self.cost.pld, limit, words),
            judge(
                f"L cohort {name}: delta",
                statistic=self.delta,
                threshold=policy.delta * (1 + 1e-9),
                detail=delta,
            ),
        ]


def _totals(
    site: Site, ledger: Ledger, studies: Iterable[Study], found: Mapping[str, Recomputed]
) -> list[_Total]:
    """Add up studies, (epsilon, delta) each, for the patients of every group of cohorts."""
    groups, totals = Groups(site, ledger), []
    for group in groups.groups():
        own = [s for s in studies if group in groups.paying(s.digest)]
        if not own:
            continue
        one_adjacency(event for s in own for event in s.events)
        costs = [found[s.digest] for s in own]
        cost = Recomputed(math.fsum(c.pld for c in costs), math.fsum(c.prv for c in costs))
        adjacency = ADJACENCIES[own[0].events[0].adjacency]
        totals.append(_Total(group, cost, math.fsum(s.delta for s in own), adjacency))
    return totals


def _generator(site: Site) -> list[Outcome]:
    """A real site's noise must be nobody's to repeat; a simulated one says that it is seeded."""
    if site.is_simulated:
        return []
    is_seeded = site.policy.noise_seed is not None
    words = "policy.toml has noise_seed: " + _SEEDED if is_seeded else _SECURE
    return [judge("L noise: generator", statistic=is_seeded, threshold=0, detail=words)]


def _line(study: Study, found: Recomputed, said: float) -> dict[str, Any]:
    planned = None if study.plan is None else study.plan.steps * max(1, len(study.begun))
    sums = sum(e.count for e in study.answered if e.part != "holdout")
    return {
        "name": study.name,
        "digest": study.digest,
        "delta": study.delta,
        "claimed": study.claim,
        "said": said,
        "pld": found.pld,
        "prv": found.prv,
        "sums": sums,
        "planned": planned,
    }


def _privacy(site: Site, most: _Total, studies: Iterable[Study]) -> dict[str, Any]:
    """Return what the patients who have spent most were promised, in a report's terms."""
    is_seeded = site.policy.noise_seed is not None
    private = math.isfinite(most.cost.pld) and not (is_seeded and not site.is_simulated)
    rows = [
        row
        for s in studies
        for row in released(s.name, Counter(s.events).items(), delta=s.delta)
    ]  # fmt: skip
    noise = (_SIMULATED if site.is_simulated else _SEEDED) if is_seeded else _SECURE
    promise = f"({most.cost.pld:.3g}, {most.delta:.3g})-differential privacy so far"
    return {
        "private": private,
        "epsilon": most.cost.pld,
        "delta": most.delta,
        "unit": UNIT,
        "adjacency": most.adjacency,
        "accountant": ACCOUNTANT,
        "epsilon_prv": most.cost.prv,
        "steps": sum(e.count for s in studies for e in s.events if e.part != "holdout"),
        "sampling_rate": min(
            (e.sampling_rate for s in studies for e in s.events if isinstance(e, PoissonGaussian)),
            default=1.0,
        ),
        "noise": noise,
        "releases": rows,
        "statement": f"{promise} for each patient of {site.config.name}, over all its studies"
        if private
        else f"NOT PRIVATE: {_SEEDED if is_seeded else 'something was released without noise'}",
    }


def _remarks(studies: Iterable[Study]) -> Iterable[str]:
    for study in studies:
        open_ones = len(study.paid) - study.reconciled - study.answers.total()
        if open_ones > 0:
            yield (
                f"{study.name}: {open_ones} releases were paid for and not answered (a crash, a "
                "failure, or a request that is under way); they count as spent"
            )
        if study.reconciled:
            yield f"{study.name}: {study.reconciled} charges are a reconciliation's"
        if study.plan is None:
            yield (
                f"{study.name}: its plan is not approved any more, or is of another version, so "
                "that what each release should have cost is not known here"
            )
