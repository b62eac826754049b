"""A deployment's speed beside stock Flower's, a site's start, its ledger: `make bench-deployment`.

Four hospitals and the coordinator are real processes on loopback, with TLS and node authentication,
driven by the command line; stock Flower runs the same model and the same number of local steps with
its own defaults, right after. Machines are noisy: nothing here is a test, and the load is printed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from client.rpc.admin import health
from common.errors import EngineError, GrandroundsError
from common.schema import dump_toml
from common.study import Study
from simulations.benchmark import speed_study
from simulations.deployed import Deployed
from simulations.hospitals import hospitals_of
from simulations.ledger_timed import CHARGED_ROUNDS, ENTRIES, ledger_seconds
from simulations.partitions.types import Hospital
from simulations.rounds_timed import Round, Spread, logged_at, logged_rounds, spread
from simulations.stock_flower.loopback import stock_rounds
from simulations.world import scenario_of

HOSPITALS, ROUNDS = 4, 10

OVERHEAD_S, START_S, VERIFY_S, CACHED_S = 5.0, 15.0, 5.0, 1.0
"""What is aimed at: at most so many seconds."""

_HEALTHY_WITHIN_S = 180.0
_POLL_S = 0.05
_WIDTH = 100  # of the table where it goes to a file


def deployed_rounds(
    folder: Path, study: Study, hospitals: list[Hospital]
) -> tuple[list[Round], dict[str, list[float]]]:
    """Run a study over a deployment; return its rounds, and how long sites and agents started."""
    (folder / "study.toml").write_text(dump_toml(study.rules()), encoding="utf-8")
    with Deployed(folder) as world:
        for one in hospitals:
            world.enrol(one.name, one.path, declared=one.declared)
            world.run("site", "approve", one.name, "study.toml", "--by", "benchmark")
        world.run("server", "start", "coordinator")
        starts = [seconds_to_healthy(world, one.name) for one in hospitals]
        _await_online(world, len(hospitals))
        told = world.json("server", "run", "coordinator", "study.toml", timeout_s=3600.0)
    if told["missed"]:
        raise EngineError(f"hospitals missed rounds: {told['missed']}", remedy="try again")
    logs = [(folder / one.name / "run" / "agent.log").read_text() for one in hospitals]
    seconds = {"site": [site for site, _ in starts], "agent": [agent for _, agent in starts]}
    return logged_rounds([log.splitlines() for log in logs], told["run"]), seconds


def seconds_to_healthy(world: Deployed, name: str) -> tuple[float, float]:
    """Start a site until its agent says that it is well; return the seconds since the command.

    The second figure is since the agent's own process was started.
    """
    started, folder = time.time(), world.sites[name]
    command = world.start("site", "start", name, "--log-format", "json")
    while not _is_well(folder):
        if time.time() - started > _HEALTHY_WITHIN_S:
            raise EngineError(f"the agent of {name} is not healthy", remedy="see its agent.log")
        time.sleep(_POLL_S)
    healthy = time.time()
    command.communicate(timeout=_HEALTHY_WITHIN_S)
    log = (folder / "run" / "site.log").read_text(encoding="utf-8").splitlines()
    began = logged_at(log, "agent started") or started
    return healthy - started, healthy - began


def _is_well(folder: Path) -> bool:
    try:
        return health(folder)["agent"] == "SERVING"
    except GrandroundsError:  # it does not answer yet
        return False


def _await_online(world: Deployed, count: int) -> None:
    """Wait until the coordinator sees its hospitals, so that none joins late."""
    end = time.monotonic() + _HEALTHY_WITHIN_S
    while time.monotonic() < end:
        sites = world.json("server", "status", "coordinator")["sites"]
        if sum(site["state"] == "online" for site in sites) == count:
            return
    raise EngineError("not all hospitals are online", remedy="see their logs")


def measure(
    folder: Path, *, hospitals: int = HOSPITALS, rounds: int = ROUNDS, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure everything; return plain values.

    Args:
        folder: Takes the files; its path is short.
        hospitals: How many, on each side.
        rounds: How many each side runs.
        say: Told what begins.
    """
    say("ledger")
    ledger = ledger_seconds(folder)
    study = speed_study(hospitals=hospitals, rounds=rounds)
    found = hospitals_of(study, scenario_of(study), folder=folder / "data", seed=0)
    say(f"grandrounds: {hospitals} hospitals, {rounds} rounds")
    loads = [os.getloadavg()[0]]
    ours, starts = deployed_rounds(folder, study, found)
    loads.append(os.getloadavg()[0])
    say(f"stock Flower: {hospitals} SuperNodes, {rounds} rounds")
    learner = study.learner
    stock = stock_rounds(
        folder / "stock",
        [one.path for one in found],
        rounds=rounds,
        local_steps=learner.local_steps,
        learning_rate=learner.learning_rate,
    )
    loads.append(os.getloadavg()[0])
    return figures({"grandrounds": ours, "stock_flower": stock}, starts, ledger, loads=loads)


def figures(
    rounds: Mapping[str, list[Round]],
    starts: Mapping[str, list[float]],
    ledger: Mapping[str, float],
    *,
    loads: list[float],
) -> dict[str, Any]:
    """Return the figures as plain values; seconds, medians with their range.

    Args:
        rounds: Of `grandrounds` and of `stock_flower`.
        starts: Seconds that each `site`, and its `agent` alone, took to start.
        ledger: As `ledger_seconds` returns them.
        loads: The machine's load before, between and after.
    """
    sides = {name: _of_rounds(found) for name, found in rounds.items()}
    ours, stock = (sides[name]["overhead"]["median"] for name in ("grandrounds", "stock_flower"))
    return {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "load": loads},
        "hospitals": len(starts["site"]),
        "rounds": {**sides, "ratio": ours / stock},
        "start": {name: asdict(spread(values)) for name, values in starts.items()},
        "ledger": {"entries": ENTRIES, "rounds": CHARGED_ROUNDS, **ledger},
    }


def _of_rounds(found: list[Round]) -> dict[str, Any]:
    return {
        "overhead": asdict(spread(r.overhead for r in found)),
        "compute": asdict(spread(r.compute for r in found)),
        "whole": asdict(spread(r.seconds for r in found)),
        "each": [r.seconds for r in found],
    }


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table: what, measured, aim."""
    sides, ledger = found["rounds"], found["ledger"]
    ours, stock = sides["grandrounds"], sides["stock_flower"]
    entries, charged = f"{ledger['entries']:,}", ledger["rounds"]
    return [
        ("round beyond compute: grandrounds", _range(ours["overhead"]), f"≤ {OVERHEAD_S:g} s"),
        ("round beyond compute: stock Flower", _range(stock["overhead"]), ""),
        ("ratio of the medians", f"{sides['ratio']:.2f}", ""),
        ("whole round: grandrounds", _range(ours["whole"]), ""),
        ("whole round: stock Flower", _range(stock["whole"]), ""),
        ("slowest site's compute: grandrounds", _range(ours["compute"]), ""),
        ("slowest site's compute: stock Flower", _range(stock["compute"]), ""),
        ("agent: start to healthy", _range(found["start"]["agent"]), f"< {START_S:g} s"),
        ("agent: healthy after `site start`", _range(found["start"]["site"]), ""),
        (f"ledger: verify {entries} entries", f"{ledger['verify']:.2f} s", f"< {VERIFY_S:g} s"),
        (f"ledger: spent after {charged} rounds, cold", f"{ledger['cold']:.3f} s", ""),
        (
            f"ledger: spent after {charged} rounds, cached",
            f"{ledger['cached']:.4f} s",
            f"< {CACHED_S:g} s",
        ),
    ]


def _range(values: Mapping[str, float]) -> str:
    found = Spread(**values)  # type: ignore[arg-type]
    return f"{found.median:.2f} s ({found.least:.2f} to {found.most:.2f}, n = {found.count})"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds on each side.")] = ROUNDS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure, and print one table."""
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    # A Unix socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="gr-", dir="/tmp") as folder:
        found = measure(Path(folder), rounds=rounds, say=messages.print)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    machine = found["machine"]
    load = ", ".join(f"{value:.1f}" for value in machine["load"])
    table = Table("what", "median (range)", "aim", title_justify="left")
    table.title = (
        f"{found['hospitals']} hospitals on loopback, mlp; {machine['cpus']} CPUs, load {load}"
    )
    for row in rows(found):
        table.add_row(*row)
    Console(highlight=False, width=_WIDTH if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    typer.run(main)
