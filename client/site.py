"""A hospital's folder: which patients, under which policy, and the studies it approved.

DIR/cohort.toml      name, path of the data, declared size, split key, device; further cohorts
DIR/policy.toml      budget and what is allowed
DIR/approved/        plans, each named by its digest
DIR/approvals/       what a board files of each approval
DIR/ledger.sqlite    every release and its price
DIR/keys/            the site's own key pair, and the secret of its keyed hashes
DIR/kit/             what the coordinator gave: certificate, address, name
DIR/kept/            weights that stay here from round to round (a head under a shared body)
DIR/models/          finished models that were delivered
DIR/site.log         what only the hospital may see

A simulated site has no keys and no kit.
"""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from client.cohorts import MAIN as MAIN
from client.cohorts import CohortConfig as CohortConfig
from client.policy import Policy
from common.cohort.read import CohortSource
from common.errors import GrandroundsError, SiteError
from common.files import write_atomic
from common.plan import Plan, read_plan, write_plan
from common.schema import Table, dump_toml, explain, read_toml

T = TypeVar("T", bound=Table)

_LOG_BYTES = 16 * 2**20  # and one older file: a flood of requests must not fill the disk


@dataclass(frozen=True)
class Site:
    """A hospital's folder, read.

    Attributes:
        folder: The folder.
        config: cohort.toml as it stands.
        policy: policy.toml.
        cohort_name: Which of the cohorts `cohort` and `source` are of.
    """

    folder: Path
    config: CohortConfig
    policy: Policy
    cohort_name: str = MAIN

    @cached_property
    def cohort(self) -> CohortConfig:
        """The site's configuration with path, declared size and classes of the chosen cohort."""
        if self.cohort_name == MAIN:
            return self.config
        own = self.config.cohorts[self.cohort_name]
        chosen = {"path": own.path, "declared": own.declared, "classes": own.classes}
        return self.config.model_copy(update=chosen)

    @property
    def is_disjoint(self) -> bool:
        """Whether the hospital vouches that the chosen cohort shares no patient with another."""
        return self.cohort_name != MAIN and self.config.cohorts[self.cohort_name].disjoint

    def view(self, name: str) -> Site:
        """Return the site as a study on that cohort sees it.

        Raises:
            SiteError: cohort.toml has no such cohort.
        """
        known = (MAIN, *self.config.cohorts)
        if name not in known:
            raise SiteError(
                f"cohort {name!r} is not in {str(self.folder / 'cohort.toml')!r}; there is "
                f"{', '.join(known)}",
                remedy=f"use one of those, or add a table [cohorts.{name}] with path and declared",
            )
        return replace(self, cohort_name=name)

    def views(self) -> list[Site]:
        """Return the site as studies on each of its cohorts see it, the main one first."""
        return [self.view(name) for name in (MAIN, *self.config.cohorts)]

    @property
    def source(self) -> CohortSource:
        """What the cohort reader needs."""
        return self.cohort.source(self.folder)

    @property
    def ledger_path(self) -> Path:
        """Where the ledger lies."""
        return ledger_of(self.folder)

    @property
    def is_simulated(self) -> bool:
        """Whether a simulation wrote the folder: a real site has keys."""
        return not (self.folder / "keys").is_dir()

    @property
    def device(self) -> str:
        """The device to compute on; the policy's word comes first."""
        return self.policy.device or self.cohort.device

    def plan_path(self, digest: str) -> Path | None:
        """Return where the approved plan of that digest lies, or None where there is none."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            return None
        path = self.folder / "approved" / f"{digest}.toml"
        return path if path.is_file() else None

    def approved(self, digest: str) -> Plan | None:
        """Return the approved plan of that digest, or None.

        Raises:
            StudyError: the plan's file does not hold what its name says.
        """
        path = self.plan_path(digest)
        return None if path is None else read_plan(path)

    def plans(self) -> dict[str, Plan]:
        """Return every approved plan that can run, by its digest; see `stale` for the others."""
        return {digest: plan for digest, plan in self._plans() if isinstance(plan, Plan)}

    def stale(self) -> dict[str, GrandroundsError]:
        """Return the approvals that no longer hold: edited, or of a version with other rules."""
        return {digest: why for digest, why in self._plans() if not isinstance(why, Plan)}

    def _plans(self) -> Iterator[tuple[str, Plan | GrandroundsError]]:
        for path in sorted((self.folder / "approved").glob("*.toml")):
            try:
                yield path.stem, read_plan(path)
            except GrandroundsError as error:
                yield path.stem, error


def load_site(folder: Path, *, policy: Policy | None = None) -> Site:
    """Read a site's folder.

    Args:
        folder: The folder.
        policy: Stands in for policy.toml, which is then not read.

    Raises:
        SiteError: the folder is not there, or a file of it is malformed.
    """
    ledger_of(folder)
    config = _read_table(folder / "cohort.toml", CohortConfig)
    site = Site(folder=folder, config=config, policy=policy or load_policy(folder))
    _check_paths(site)
    return site


def ledger_of(folder: Path) -> Path:
    """Return where a site's ledger lies; neither cohort.toml nor the policy is read for that.

    Raises:
        SiteError: the folder is not there, or no site's.
    """
    if not folder.is_dir():
        raise SiteError(
            f"site folder {str(folder)!r} does not exist", remedy="check the path of the site"
        )
    if not (folder / "cohort.toml").is_file():
        raise SiteError(
            f"folder {str(folder)!r} is no site's: it has no cohort.toml",
            remedy="check the path, or make a site with grandrounds site init",
        )
    return folder / "ledger.sqlite"


def _check_paths(site: Site) -> None:
    """Refuse a cohort that shares its file with another and is said to share no patient."""
    found: dict[Path, Site] = {}
    for view in site.views():
        path = view.source.path.resolve()
        other = found.setdefault(path, view)
        if other is not view and (other.is_disjoint or view.is_disjoint):
            wrong = view if view.is_disjoint else other
            raise SiteError(
                f"{str(site.folder / 'cohort.toml')!r}: cohorts {other.cohort_name!r} and "
                f"{view.cohort_name!r} are both at {str(path)!r}, and "
                f"cohorts.{wrong.cohort_name}.disjoint is true",
                remedy="leave disjoint out, or give each cohort a file of its own patients",
            )


def load_policy(folder: Path) -> Policy:
    """Read a site's policy.

    Raises:
        SiteError: there is none, so nothing may run, or it is malformed.
    """
    path = folder / "policy.toml"
    if not path.is_file():
        raise SiteError(
            f"there is no policy file {str(path)!r}, so nothing runs here",
            remedy="restore it, or write one: grandrounds site init makes a first one",
        )
    return _read_table(path, Policy)


def _read_table(path: Path, table: type[T]) -> T:
    values = read_toml(path, what=path.stem)
    try:
        return table.model_validate(values)
    except ValidationError as error:
        cause = explain(error, str(path))
        raise SiteError(cause.message, remedy=cause.remedy) from None


def write_site(folder: Path, *, cohort: CohortConfig, policy: Policy, plans: list[Plan]) -> Site:
    """Write a site's folder; what is there already (its ledger above all) stays."""
    (folder / "approved").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "cohort.toml", cohort.to_toml())
    write_atomic(folder / "policy.toml", dump_toml(policy.model_dump(mode="json")))
    for plan in plans:
        write_plan(plan, folder / "approved")
    return Site(folder=folder, config=cohort, policy=policy)


def site_logger(site: Site) -> logging.Logger:
    """Return the logger that writes to the site's own file and nowhere else."""
    logger = logging.getLogger(f"grandrounds.site.{site.folder}")
    if not logger.handlers:
        handler = logging.handlers.RotatingFileHandler(
            site.folder / "site.log",
            maxBytes=_LOG_BYTES,
            backupCount=1,
            encoding="utf-8",
            delay=True,
        )
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
