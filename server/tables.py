"""The tables of the run store, and their rows as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

TOOK_PART = "took part"
SEEDED = "seeded"

metadata = sa.MetaData()
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),  # running, finished, failed, interrupted
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("remedy", sa.Text, nullable=False, default=""),
    sa.Column("code", sa.Text, nullable=False, default=""),  # where the code that ran lay
    sa.Column("remark", sa.Text, nullable=False, default=""),  # what its aggregation bears
)
members = sa.Table(
    "members",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("declared", sa.Integer),
    sa.Column("status", sa.Text, nullable=False),  # took part, or why not
    sa.Column("node", sa.Text, nullable=False, default=""),  # Flower's ids exceed 63 bits
    sa.Column("noise", sa.Text, nullable=False, default=""),  # 'seeded' where it says so
)
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("replies", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("clipped", sa.Integer, nullable=False, default=0),  # deltas above the norm bound
)
replies = sa.Table(
    "replies",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("phase", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),  # ok, refused, failed, silent, dropped, absent
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("epsilon", sa.Float),  # null where it is infinite
    sa.Column("reserves", sa.Integer),
    sa.Column("norm", sa.Float),  # L2 norm of the released delta: post-processing of it
    sa.Column("fingerprint", sa.Text, nullable=False, default=""),  # SHA-256 of the delta
    sa.Column("tag", sa.Text),  # the site's own, over `reserves`
)
histograms = sa.Table(
    "histograms",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("sigma", sa.Float, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),  # JSON, (histograms, 2, bins)
)


@dataclass(frozen=True)
class Introduction:
    """Who a site says it is, and whether it took part or why not.

    Attributes:
        noise: 'seeded' where the site says that its noise can be repeated, which is no protection.
    """

    site: str
    declared: int | None
    status: str
    node: str = ""
    noise: str = ""

    @property
    def takes_part(self) -> bool:
        """Whether it is a member."""
        return self.status == TOOK_PART


@dataclass(frozen=True)
class Reply:
    """How one site answered one request.

    Attributes:
        status: ok, refused, failed, silent, dropped (it came and does not count) or absent (no
            member of the job then).
        epsilon: The receipt's, where it is finite; the site's own claim, as `reserves` is.
        tag: The receipt's, by which the site knows `reserves` again; only the site can check it.
        norm: L2 norm of the delta.
        fingerprint: SHA-256 of the delta's values.
    """

    site: str
    status: str
    reason: str = ""
    epsilon: float | None = None
    reserves: int | None = None
    norm: float | None = None
    fingerprint: str = ""
    tag: str | None = None


@dataclass(frozen=True)
class Receipt:
    """What a site's receipts come to: the highest count with its tag, and the highest epsilon."""

    reserves: int = 0
    tag: str | None = None
    epsilon: float = 0.0


@dataclass(frozen=True)
class Past:
    """What was had from the sites of a job before they are asked for a phase of a round.

    Attributes:
        receipts: Site -> what its receipts come to.
        answered: The sites that answered this very request before.
    """

    receipts: Mapping[str, Receipt]
    answered: frozenset[str]

    def receipt(self, site: str) -> Receipt:
        """Return what a site's receipts come to; nothing where there was none."""
        return self.receipts.get(site, Receipt())
