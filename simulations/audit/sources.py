"""Streams that an audit hands to an engine in place of a site's own, to see what it draws.

An engine cannot tell them from others: they are the `Source` that it would be given anyway.
"""

from __future__ import annotations

import numpy as np

from common.privacy.noise import Floats, Source
from common.seeds import derive

_SURE = 1e-9  # times a uniform: below any sampling rate that a study can have


class Recorded:
    """Passes a stream on, and keeps what was drawn.

    Attributes:
        uniforms: What each call for uniforms got.
        normals: How many normals were drawn.
    """

    def __init__(self, source: Source) -> None:
        self.secure = source.secure
        self.uniforms: list[Floats] = []
        self.normals = 0
        self._source = source

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1), (n,)."""
        self.uniforms.append(self._source.uniform(n))
        return self.uniforms[-1].copy()

    def normal(self, n: int) -> Floats:
        """Return n standard normals, (n,)."""
        self.normals += n
        return self._source.normal(n)


class Quiet:
    """The same choices of patients as a recorded stream, without any noise."""

    secure = False

    def __init__(self, recorded: Recorded) -> None:
        self._uniforms = iter(recorded.uniforms)

    def uniform(self, n: int) -> Floats:
        """Return the n numbers that were drawn at this call; more than there were are 1 - 2^-53."""
        drawn = next(self._uniforms, np.empty(0))[:n]
        return np.concatenate([drawn, np.full(n - len(drawn), 1 - 2.0**-53)])

    def normal(self, n: int) -> Floats:
        """Return zeros, (n,)."""
        return np.zeros(n)


class Silenced:
    """A stream whose uniforms are its own and whose normals are zero."""

    def __init__(self, source: Source) -> None:
        self.secure = source.secure
        self._source = source

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1), (n,)."""
        return self._source.uniform(n)

    def normal(self, n: int) -> Floats:
        """Return zeros, (n,)."""
        return np.zeros(n)


class Coupled:
    """Equal randomness for neighbouring data sets: a draw depends on its place, not on the others.

    Call number c for n uniforms gives the first n of a stream of its own, so that a patient more
    at the end changes nobody else's draw, and normals do not mind how many uniforms there were.

    Args:
        seed: Of all streams.
        everyone: Whether every patient is sampled, or nobody; None for a sample as a site draws it.
        amplitude: What the normals are multiplied with; 0 takes the noise off.
    """

    secure = False

    def __init__(self, seed: int, *, everyone: bool | None = True, amplitude: float = 1.0) -> None:
        self.normals = 0
        self._seed, self._everyone, self._amplitude = seed, everyone, amplitude
        self._calls = {"uniform": 0, "normal": 0}

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1), (n,): next to 0 for everyone, next to 1 for nobody."""
        drawn = self._stream("uniform").random(n)
        if self._everyone is None:
            return drawn
        draws = _SURE * drawn
        return draws if self._everyone else 1 - 2.0**-53 - draws

    def normal(self, n: int) -> Floats:
        """Return n normals, (n,)."""
        self.normals += n
        return self._amplitude * self._stream("normal").standard_normal(n)

    def _stream(self, kind: str) -> np.random.Generator:
        self._calls[kind] += 1
        key = derive(self._seed, kind, self._calls[kind])
        return np.random.Generator(np.random.Philox(key=key))
