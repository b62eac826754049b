"""Speed as ratios in one run: whole commands, in turn, medians. `make bench` runs this.

Machines are noisy, so nothing here is a test; it prints what it measured.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console

from common.embedded import find_study
from common.privacy.accounting import delta_limit
from common.privacy.noise import SecureSource, SeededSource, Source
from common.schema import dump_toml
from common.study import Study, load_study, parse_study
from server.store import Store
from simulations.deployed import COMMAND

HOSPITALS, ROUNDS, REPEATS = 64, 20, 3


def speed_study(*, hospitals: int = HOSPITALS, rounds: int = ROUNDS) -> Study:
    """Return a study for comparing speeds: a small network, by default of the engines' comparison.

    The 569 patients of the default study in equal shares: for speed, not for learning.
    """
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    declared = round(569 / hospitals)
    sites = [
        {
            "name": f"h{i:02d}",
            "patients": _share(569, i, hospitals),
            "positives": _share(212, i, hospitals),
            "declared": declared,
        }
        for i in range(hospitals)
    ]
    values["name"] = "speed"
    values["cohort"]["min_declared"] = 5
    values["model"] = {"name": "mlp", "hidden": [32]}
    values["adaptation"]["max_steps"] = 5
    values["rounds"] |= {"count": rounds, "quorum": hospitals}
    values["privacy"] |= {"epsilon": 1.0, "delta": min(0.01, delta_limit(declared))}
    values["simulation"] |= {"seeds": 1, "arms": ["reptile"], "split": "stratified"}
    values["simulation"]["partition"] = {"source": "breast_cancer", "hospitals": sites}
    return parse_study(values, origin="benchmark")


def _share(total: int, i: int, shares: int) -> int:
    """Return the i-th of some shares of a total that differ by one at most."""
    return total // shares + (total % shares > i)


def timed(*arguments: str) -> float:
    """Run the command line with these arguments and return how long it took, in seconds."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def compare_engines(console: Console, scratch: Path) -> None:
    """Time the same study under both engines, in turn."""
    file = scratch / "speed.toml"
    file.write_text(dump_toml(speed_study().model_dump(mode="json")), encoding="utf-8")
    seconds: dict[str, list[float]] = {"inprocess": [], "flower": []}
    rounds: dict[str, list[float]] = {"inprocess": [], "flower": []}
    for repeat in range(REPEATS):
        for engine in seconds:
            out = scratch / f"{engine}-{repeat}"
            options = ("--engine", engine, "--out", str(out), "--json")
            seconds[engine].append(timed("sim", "run", str(file), *options))
            store = Store(out)
            spent = sum(r["seconds"] for r in store.rounds("reptile-seed-0"))
            store.close()
            rounds[engine].append(ROUNDS / spent)
    console.print(f"mlp, {HOSPITALS} hospitals, {ROUNDS} rounds, {REPEATS} runs each, in turn")
    for engine, values in seconds.items():
        console.print(
            f"  {engine}: whole command {statistics.median(values):.1f} s (median), "
            f"{statistics.median(rounds[engine]):.1f} rounds/s"
        )
    pairs = zip(seconds["inprocess"], seconds["flower"], strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    console.print(f"  in process / flower, whole command: {ratio:.2f} (median of pairs)")


def time_studies(console: Console, scratch: Path) -> None:
    """Time the demo, with its peak memory, and the heart study where its data are."""
    seconds = timed("sim", "run", "--out", str(scratch / "demo"))
    # Before the engines: this is the largest of all child processes so far, in kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    console.print(f"demo: {seconds:.1f} s, peak memory {peak:.0f} MB")
    if not os.environ.get("GRANDROUNDS_DATA"):
        console.print("heart, 5 seeds, all arms: not run, GRANDROUNDS_DATA is not set")
        return
    seconds = timed("sim", "run", "heart", "--seeds", "5", "--out", str(scratch / "heart"))
    console.print(f"heart, 5 seeds, all arms: {seconds:.1f} s")


def time_noise(console: Console) -> None:
    """Time a million normals of each generator, in turn."""
    sources: dict[str, Source] = {"a site's": SecureSource(), "a simulation's": SeededSource(0)}
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(10 * REPEATS):
        for name, source in sources.items():
            started = time.perf_counter()
            source.normal(1_000_000)
            found[name].append(1e3 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in found.items()}
    words = ", ".join(f"{name} {value:.0f} ms" for name, value in medians.items())
    ratio = medians["a site's"] / medians["a simulation's"]
    console.print(f"a million normals: {words}; ratio {ratio:.1f} (medians)")


def main() -> None:
    """Print every figure."""
    console = Console(highlight=False, soft_wrap=True)
    time_noise(console)
    with tempfile.TemporaryDirectory() as folder:
        time_studies(console, Path(folder))
        compare_engines(console, Path(folder))


if __name__ == "__main__":
    main()
