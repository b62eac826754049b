"""Full context embeddings: a case is placed in view of the references it will be compared with.

Matching networks (Vinyals et al. 2016, appendix A): a bidirectional LSTM over the support set
changes each reference in view of the others; a case reads the references for some steps by an LSTM
with attention. The support set here is the classes' references, which were released before: what a
case's gradient has of other patients, it has through them alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.references import ABSENT, References


class _Cell(nn.Module):
    """One step of an LSTM, (rows, inputs) -> (rows, dim), in plain products: vmap can follow."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + dim, 4 * dim)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        inward, forget, outward, new = self.gates(torch.cat([x, hidden], 1)).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + inward.sigmoid() * new.tanh()
        return outward.sigmoid() * cell.tanh(), cell


class FullContext(nn.Module):
    """Places a case in view of the references, then compares it with them.

    Args:
        dim: Of the space.
        steps: How often a case reads the references.
        references: What it is compared with; the last layer, whose weights stay at the hospital.
    """

    by_record = True  # the cells over references are called in their order, not the records'

    def __init__(self, dim: int, steps: int, references: References) -> None:
        super().__init__()
        self._steps = steps
        self.reader = _Cell(2 * dim, dim)
        self.onward, self.homeward = _Cell(dim, dim), _Cell(dim, dim)
        self.references = references

    def forward(self, z: Tensor) -> Tensor:
        """Return the scores, (records, classes), of features (records, dim)."""
        place, own = self.references.place(z), self.references.weight
        shown = self._in_view_of_each_other(own.flatten(0, 1)).reshape(own.shape)
        return self.references.scores(self._read(place, shown), shown, self.references.bias)

    def _in_view_of_each_other(self, g: Tensor) -> Tensor:
        """Return g_i + forward h_i + backward h_i, (references, dim)."""
        return g + self._along(self.onward, g) + self._along(self.homeward, g.flip(0)).flip(0)

    @staticmethod
    def _along(step: _Cell, g: Tensor) -> Tensor:
        hidden = cell = torch.zeros_like(g[:1])
        seen = []
        for row in torch.split(g, 1):
            hidden, cell = step(row, hidden, cell)
            seen.append(hidden)
        return torch.cat(seen)

    def _read(self, place: Tensor, references: Tensor) -> Tensor:
        """Return places after `steps` readings: h' = LSTM([f, r]), h = h' + f, r by attention."""
        flat = references.flatten(0, 1)
        closed = (self.references.bias <= ABSENT / 2).repeat_interleave(references.shape[1])
        hidden, cell = place, torch.zeros_like(place)
        for _ in range(self._steps):
            attention = (hidden @ flat.T).masked_fill(closed, -torch.inf)
            read = F.softmax(attention, dim=1) @ flat
            moved, cell = self.reader(torch.cat([place, read], 1), hidden, cell)
            hidden = moved + place
        return hidden
