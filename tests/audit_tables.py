"""What `make audit` prints: which tests find which fault, and sound engines under twenty seeds."""

from __future__ import annotations

from rich.console import Console
from rich.progress import track
from rich.table import Table

from simulations.audit.engine import FULL, QUICK, audit_engine
from simulations.audit.installation import ways_of
from tests.broken_engines import FAULTS

LETTERS, SEEDS = "ABSCP", 20


def fault_table() -> Table:
    """Return fault x test: the letters of the tests that failed, and the one that had to."""
    table = Table("fault", *LETTERS, "found by the test it should", title="planted faults")
    for name, fault in track(FAULTS.items(), "faults", console=Console(stderr=True)):
        failed = {t.name for t in audit_engine(fault.ways(), QUICK, seed=0).audit.failed}
        marks = ["x" if any(f.startswith(letter) for f in failed) else "" for letter in LETTERS]
        table.add_row(name, *marks, fault.caught_by if fault.caught_by in failed else "NOT FOUND")
    return table


def sound_table() -> Table:
    """Return seed x verdict of sound engines, with epsilon as measured.

    Sigma 1, one patient in twenty, a hundred steps, 2000 patients and 5000 canaries.
    """
    ways = ways_of("mlp", "reptile", device="cpu", full=False)
    table = Table("seed", "verdict", "failed", "epsilon as measured", title="sound engines")
    for seed in track(range(SEEDS), "seeds", console=Console(stderr=True)):
        audit = audit_engine(ways, FULL, seed=seed).audit
        ends = audit.parametric
        measured = "" if ends is None else f"{ends.low:.3g} to {ends.high:.3g}"
        names = ", ".join(t.name for t in audit.failed)
        table.add_row(str(seed), audit.verdict, names, f"{measured} of {audit.claimed_epsilon:.3g}")
    return table


if __name__ == "__main__":
    console = Console(width=110)
    console.print(fault_table())
    console.print(sound_table())
