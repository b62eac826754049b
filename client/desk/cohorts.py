"""Which cohort a study reads, and which cohorts' studies one patient pays for.

A patient may be in several cohorts of a site, so what studies on them cost adds up. A cohort that
is marked `disjoint` stands alone: by the hospital's word none of its patients is, was or will be in
another, so a patient pays for its studies or for the others', never for both.

That word is worth what it was given for. A cohort stands alone only while all of this is so:

- cohort.toml names it and marks it disjoint;
- so did every approval under which anything was charged: what was charged while patients could be
  in another cohort too may have been theirs, and no later word gives it back to them;
- each of those approvals was for the path that it has now: a word about the patients at a new path
  says nothing of those who were read at the old one;
- no other cohort is at its path, or was when something was charged.

Otherwise it is counted with all others that do not stand alone. So joining is always possible, and
parting only while nothing was charged. For this to see every change, a study is refused while
cohort.toml differs from its newest approval in path or `disjoint` (`is_as_approved`). What the
ledger was charged without knowing the cohort, when it was reconciled, counts for every cohort.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.ledger import Account, Ledger
from client.site import MAIN, Site
from common.errors import SiteError
from common.plan import Plan


@dataclass(frozen=True)
class Terms:
    """What an approval says of the cohort that it is for.

    Attributes:
        cohort: Its name.
        path: Where it was, as cohort.toml had it; None where it was not recorded.
        disjoint: Whether the hospital vouched that it shares no patient with another.
    """

    cohort: str = MAIN
    path: str | None = None
    disjoint: bool = False

    @classmethod
    def of(cls, site: Site) -> Terms:
        """Return the terms of an approval that would be given now."""
        return cls(site.cohort_name, str(site.cohort.path), site.is_disjoint)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the ledger's entry."""
        return asdict(self)


def cohort_of(ledger: Ledger, digest: str) -> str:
    """Return the cohort for which a study was approved last; the main one where none was named."""
    found = approvals(ledger).get(digest, [Terms()])
    return found[-1].cohort


def site_of(site: Site, ledger: Ledger, digest: str) -> Site:
    """Return the site as an approved study sees it: with the cohort that it was approved for.

    Raises:
        SiteError: cohort.toml no longer has that cohort.
    """
    return site.view(cohort_of(ledger, digest))


def is_as_approved(site: Site, ledger: Ledger, digest: str) -> bool:
    """Tell whether the chosen cohort, its path and `disjoint` are those of the newest approval."""
    found = approvals(ledger).get(digest)
    if found is None:  # a simulated site's, whose plans are laid into its folder
        return site.cohort_name == MAIN
    now = Terms.of(site)
    return found[-1] in (now, Terms(now.cohort, None, now.disjoint))


def check_one_cohort(site: Site, ledger: Ledger, plan: Plan) -> bool:
    """Tell whether a study was charged; refuse it for another cohort than it was charged to."""
    if not any(a.events for a in ledger.accounts() if a.digest == plan.digest):
        return False
    own = cohort_of(ledger, plan.digest)
    if own != site.cohort_name:
        raise SiteError(
            f"--cohort is {site.cohort_name!r}, and study {plan.study.name!r} has used patients of "
            f"cohort {own!r}: one study has one cohort",
            remedy=f"give --cohort {own}, or ask the coordinator for the study under another name",
        )
    return True


def approvals(ledger: Ledger) -> dict[str, list[Terms]]:
    """Return the terms of each study's approvals, oldest first.

    An approval that came before anything was charged replaces those before it.
    """
    found: dict[str, list[Terms]] = {}
    for entry in ledger.entries("approval"):
        body = entry.body
        known = found.setdefault(str(body.get("digest")), [])
        if not body.get("charged", True):
            known.clear()
        path = body.get("path")
        known.append(
            Terms(
                str(body.get("cohort", MAIN)),
                None if path is None else str(path),
                bool(body.get("disjoint", False)),
            )
        )
    return found


def counted(site: Site, ledger: Ledger, accounts: Iterable[Account]) -> list[Account]:
    """Return the accounts that add up for the patients of the chosen cohort."""
    if not any(other.disjoint for other in site.config.cohorts.values()):
        return list(accounts)  # none can stand alone, and a round need not wait for the ledger
    return Groups(site, ledger).counted(accounts)


class Groups:
    """A site's cohorts, in groups whose studies add up, as ledger and cohort.toml stand now.

    Args:
        site: The site's folder, read, with the cohort in question chosen.
        ledger: Its ledger.
        asked: Digest of a study that is about to be approved for that cohort.
    """

    def __init__(self, site: Site, ledger: Ledger, *, asked: str | None = None) -> None:
        charged = {a.digest for a in ledger.accounts() if a.events}
        revoked = {e.body.get("digest"): e.seq for e in ledger.entries("revocation")}
        newest = {e.body.get("digest"): e.seq for e in ledger.entries("approval")}
        self._site = site
        self._cohort: dict[str, str] = {}
        self._binding: dict[str, list[Terms]] = {name: [] for name in (MAIN, *site.config.cohorts)}
        for digest, terms in approvals(ledger).items():
            self._cohort[digest] = terms[-1].cohort
            if digest == asked and digest not in charged:
                continue  # the new approval will replace these
            if digest in charged or revoked.get(digest, 0) < newest[digest]:
                self._bind(terms)
        if asked is not None:
            self._cohort[asked] = site.cohort_name
            self._bind([Terms.of(site)])
        self._lost = {
            charge.get("digest")
            for entry in ledger.entries("reconciliation")
            for charge in entry.body.get("charges", ())
        }

    def _bind(self, terms: Iterable[Terms]) -> None:
        for one in terms:
            self._binding.setdefault(one.cohort, []).append(one)

    @property
    def names(self) -> tuple[str, ...]:
        """Every cohort that cohort.toml or an approval names, the main one first."""
        return tuple(self._binding)

    def cohort(self, digest: str) -> str:
        """Return the cohort that a study was approved for; the main one where none was named."""
        return self._cohort.get(digest, MAIN)

    def groups(self) -> list[tuple[str, ...]]:
        """Return the groups; in the first are all cohorts that do not stand alone."""
        alone = [name for name in self.names if self.shared_because(name) is None]
        rest = tuple(name for name in self.names if name not in alone)
        return [rest, *((name,) for name in alone)]

    def group(self, name: str) -> tuple[str, ...]:
        """Return the cohorts with which one is counted, itself among them."""
        return next(group for group in self.groups() if name in group)

    def paying(self, digest: str) -> list[tuple[str, ...]]:
        """Return the groups whose patients a study is charged to."""
        return [group for group in self.groups() if not self._is_elsewhere(digest, group)]

    def counted(self, accounts: Iterable[Account], *, cohort: str | None = None) -> list[Account]:
        """Return the accounts that add up for the patients of a cohort; of the chosen one."""
        own = self.group(cohort or self._site.cohort_name)
        return [a for a in accounts if not self._is_elsewhere(a.digest, own)]

    def _is_elsewhere(self, digest: str, group: tuple[str, ...]) -> bool:
        known = self._cohort.get(digest)
        return known is not None and known not in group and digest not in self._lost

    def shared_because(self, name: str) -> str | None:
        """Say why a cohort is counted with others, or None where it stands alone."""
        if name == MAIN:
            return "the main cohort"
        if name not in self._site.config.cohorts:
            return "cohort.toml no longer names it"
        if not self._site.config.cohorts[name].disjoint:
            return "it is not marked disjoint"
        if not all(terms.disjoint for terms in self._binding[name]):
            return "a study was approved for it while it was not marked disjoint"
        if len(self._paths(name)) > 1:
            return "a study was approved for it at another path"
        others = [n for n in self.names if n != name and self._paths(n) & self._paths(name)]
        return f"cohort {others[0]!r} is or was at the same path" if others else None

    def _paths(self, name: str) -> frozenset[Path]:
        """Return where a cohort is, and where it was when a study was approved."""
        found = {terms.path for terms in self._binding[name]} - {None}
        if name == MAIN:
            found.add(str(self._site.config.path))
        elif name in self._site.config.cohorts:
            found.add(str(self._site.config.cohorts[name].path))
        return frozenset((self._site.folder / path).resolve() for path in found if path)
