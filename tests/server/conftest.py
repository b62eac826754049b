"""The federated worlds of the server's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.agent import close_agents
from tests.federated_world import World
from tests.small_world import small_plan


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds of the small study, with changed tables."""
    worlds: list[World] = []

    def new(**tables: Any) -> World:
        worlds.append(World(tmp_path / f"world-{len(worlds)}", small_plan(**tables)))
        return worlds[-1]

    close_agents()
    yield new
    for world in worlds:
        world.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """Make the small study's world."""
    return new_world()
