"""Where randomness comes from: a cryptographic source at a site, a seeded one in simulation.

Both give standard normals in float64 and uniforms in [0, 1) with 53 bits. A Gaussian computed in
floating point is not the real-valued one: its low bits can betray the sum it was added to (Mironov
2012), for Box-Muller too (Jin et al. 2022). Two mitigations, neither a proof: the secure source
adds up four independent draws, so that an attacker who would invert the sampler faces four unknown
pairs at once (Holohan and Braghin 2021), and sum and noise are added in float64 and released in
single precision, which rounds the low bits away.
"""

from __future__ import annotations

import math
import os
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from common.params import Params, unflatten

Floats = NDArray[np.float64]

_SUMMANDS = 4
_PIECE = 2**18  # values worked on at once in float64: of a large model's, all would be too many


class Source(Protocol):
    """A stream of random numbers."""

    secure: bool
    """Whether the stream is unpredictable to everybody else."""

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1), (n,)."""
        ...

    def normal(self, n: int) -> Floats:
        """Return n standard normals, (n,)."""
        ...


class SeededSource:
    """Reproducible randomness for simulations and tests: whoever knows the seed knows the noise.

    >>> bool((SeededSource(1).normal(3) == SeededSource(1).normal(3)).all())
    True
    """

    secure = False

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1), (n,)."""
        return self._generator.random(n)

    def normal(self, n: int) -> Floats:
        """Return n standard normals, (n,)."""
        return self._generator.standard_normal(n)


class SecureSource:
    """AES-256 in counter mode under a key from the operating system, never stored or repeated.

    Each normal is half the sum of four Box-Muller draws, whose variance is 4/4 = 1, from 53-bit
    uniforms. One draw reaches sqrt(2 ln 2^53) = 8.57 standard deviations, beyond which lies a
    probability of 1.1e-17, so the sum reaches 17.1.
    """

    secure = True

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream = cipher.encryptor()

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1), (n,)."""
        words = np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8")
        return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)

    def normal(self, n: int) -> Floats:
        """Return n standard normals, (n,)."""
        total = self._box_muller(n)
        for _ in range(_SUMMANDS - 1):
            total += self._box_muller(n)
        return total / math.sqrt(_SUMMANDS)

    def _box_muller(self, n: int) -> Floats:
        """Return n standard normals; draws i and i + n/2 share a pair of uniforms."""
        pairs = (n + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(pairs)))  # 1 - u is in (0, 1]
        angle = 2.0 * np.pi * self.uniform(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]


def with_noise(total: Params, source: Source, *, scale: float) -> Params:
    """Return `total` plus N(0, scale^2): a stream gives in pieces the numbers it gives at once.

    They are added in float64 and the sum alone is rounded. Noise rounded before would leave the
    total's own last bits wherever the two nearly cancel: such sums tell a total of 0 from others.
    """
    size = sum(v.numel() for v in total.values())
    if scale == 0:
        return total
    if size <= _PIECE:
        noise = unflatten(torch.from_numpy(scale * source.normal(size)), total)
        return {k: (v.double() + noise[k]).to(v) for k, v in total.items()}
    noisy = {k: v.clone() for k, v in total.items()}
    for value in noisy.values():
        for piece in torch.split(value.view(-1), _PIECE):
            piece.copy_(piece.double() + torch.from_numpy(scale * source.normal(piece.numel())))
    return noisy
