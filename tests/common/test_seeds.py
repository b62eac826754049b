"""Named seeds: stable over versions, and unrelated for unrelated names."""

from itertools import product

import pytest

from common.seeds import derive


def test_seeds_stay_what_they_are_over_versions():
    # sha256("7\0str:va\0int:3"), its first eight bytes, big-endian, halved. Saved runs rest on it.
    assert derive(7, "va", 3) == 7_984_414_786_728_672_694


def test_seeds_are_63_bit_and_differ_over_masters_and_names():
    seeds = [derive(s, n, i) for s, n, i in product(range(10), ["split", "noise"], range(50))]
    assert all(0 <= s < 2**63 for s in seeds)
    assert len(set(seeds)) == len(seeds)  # by chance two agree with probability 5e-14


@pytest.mark.parametrize(
    ("one", "other"),
    [((0, 1), (0, "1")), ((0, "ab", "c"), (0, "a", "bc")), ((1, "a"), (0, "1", "a")), ((0,), (1,))],
)
def test_names_that_only_look_alike_give_different_seeds(one, other):
    # Broken once: joining str() of the names without their types or a separator.
    assert derive(*one) != derive(*other)
