"""A ledger that is behind what was released: charged with the most that can have been lost."""

from __future__ import annotations

from typing import Any

from client.desk.approval import runs_approved
from client.ledger import Charge, Ledger
from client.policy.spending import whole_price
from client.site import Site
from common.errors import GrandroundsError
from common.plan import Plan, read_plan


def reconcile(site: Site, ledger: Ledger, *, by: str, why: str = "") -> dict[str, Any]:
    """Charge the whole plan of every study that may have run, for every run approved.

    A ledger that was restored from a backup, or begun anew, does not know what was released since.
    What an approval covers is the most that can have been released unless a round was repeated
    after a crash, so it is charged on top of what the ledger holds. A study whose revocation the
    ledger does not know counts as approved: its plan is kept beside the board's record.

    Args:
        site: The site's folder, read.
        ledger: Gets the entry `reconciliation`, which charges.
        by: Who reconciles.
        why: What happened, in that person's words.

    Returns:
        `behind` (what was wrong) and `charged`: study, digest and runs of each.

    Raises:
        SiteError: the ledger is not behind, was edited, or a study whose plan is not here was
            released more often than the ledger says.
    """
    behind = ledger.behind
    with ledger.transaction():
        charges, charged = [], []
        for plan in _candidates(site, ledger).values():
            runs = runs_approved(ledger, plan.digest) or site.policy.runs
            releases = runs * (plan.study.rounds.count + 1)  # every round, and the evaluation
            price = whole_price(plan, runs=runs)
            charges.append(Charge(plan.digest, plan.delta, price, releases))
            charged.append({"study": plan.study.name, "digest": plan.digest, "runs": runs})
        ledger.reconcile(charges, why or "site reconcile", by=by)
    return {"behind": behind, "charged": charged}


def _candidates(site: Site, ledger: Ledger) -> dict[str, Plan]:
    """Return every approved plan, and those approved once of whose end the ledger knows nothing."""
    revoked = {e.body.get("digest") for e in ledger.entries("revocation")}
    seen = {e.body.get("digest") for e in ledger.entries("behind")}  # by the coordinator
    found = site.plans()
    for path in sorted((site.folder / "approvals").glob("*.toml")):
        if path.stem in found or path.stem in revoked - seen:
            continue
        try:
            found[path.stem] = read_plan(path)
        except GrandroundsError:
            continue  # of a version whose price this one cannot tell
    return found
