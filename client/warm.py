"""An approved study with what a site's agent keeps warm for it: model and patients."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from client.ledger import Ledger
from client.patients.withdrawal import withdrawn_at
from client.policy import Reason, Refused
from client.site import Site
from common.cohort.parts import Cohort
from common.cohort.read import read_cohort
from common.errors import DataError
from common.models import build, pick_device, shapes_of, trained
from common.params import Params
from common.plan import Plan
from common.privacy.engine import PrivateModel

Stamp = tuple[int, int, int]
"""Changes whenever a file does: inode, size, time of the last change in ns."""


@dataclass
class WarmStudy:
    """An approved plan with what the agent keeps for it.

    Attributes:
        site: The site's folder, read.
        plan: What was approved.
        stamp: Of the plan's file; another one means another approval.
        runs: How many runs the approval covers; None where it does not say.
        log: The site's own.
    """

    site: Site
    plan: Plan
    stamp: Stamp
    runs: int | None
    log: logging.Logger = field(repr=False)
    _withdrawn: frozenset[str] = field(default=frozenset(), repr=False)
    _cohort: Cohort | None = field(default=None, repr=False)

    @property
    def model(self) -> torch.nn.Module:
        """The study's model on the site's device; weights are loaded for each use."""
        return _model(self.plan, pick_device(self.site.device))

    @property
    def private_model(self) -> PrivateModel:
        """Another of the same, checked, for the gradients of single patients."""
        return _private_model(self.plan, pick_device(self.site.device))

    @cached_property
    def like(self) -> Params:
        """Names, shapes and types of the study's weights, without values: what comes in."""
        return shapes_of(self.plan.study)

    @cached_property
    def delta_like(self) -> Params:
        """The same of what is trained: what a delta may hold, and nothing else goes out."""
        return trained(self.plan.study, self.like)

    def is_warm(self, ledger: Ledger) -> bool:
        """Tell whether the patients are loaded, without those who have withdrawn."""
        return self._cohort is not None and self._withdrawn == ledger.withdrawn()

    def cohort(self, ledger: Ledger) -> Cohort:
        """Return the site's patients; read when first needed, which is after the first reserve.

        Whoever has withdrawn since they were read is left out now: they are read again.
        """
        if not self.is_warm(ledger) or self._cohort is None:
            self._cohort = None  # the old one need not be held while the new one is read
            withdrawn, without = ledger.withdrawn(), withdrawn_at(self.site.folder, ledger)
            try:
                cohort = read_cohort(self.site.source, self.plan.study.cohort, without=without)
            except DataError as error:  # what is wrong with patients is for the site alone
                self.log.error("%s", error)
                raise Refused(Reason.COHORT_CHANGED) from None
            for note in cohort.notes:
                self.log.warning("%s", note)
            self._cohort, self._withdrawn = cohort, withdrawn
        return self._cohort


# The sites of a simulation take turns with a plan's models; nothing is built before it is needed.
@lru_cache(maxsize=4)
def _model(plan: Plan, device: torch.device) -> torch.nn.Module:
    return build(plan.study).to(device)


@lru_cache(maxsize=4)
def _private_model(plan: Plan, device: torch.device) -> PrivateModel:
    return PrivateModel(build(plan.study).to(device))


def forget_models() -> None:
    """Let go of every warm model: its study was revoked, or the policy has changed."""
    _model.cache_clear()
    _private_model.cache_clear()


def needed_gb(like: Params) -> float:
    """Return what a model needs, in 10^9 bytes: weights, their copy, gradients and delta."""
    return 4 * sum(v.numel() * v.element_size() for v in like.values()) / 1e9


def stamp_of(path: Path) -> Stamp | None:
    """Return a file's stamp, or None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
