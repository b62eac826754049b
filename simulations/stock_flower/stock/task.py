"""The model, a hospital's patients, and training."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LABEL, PATIENT, POSITIVE = "diagnosis", "patient", "malignant"
_BATCH = 32


class Net(nn.Module):
    """Ten measurements, one hidden layer, two outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (patients, 2), of x: (patients, 10)."""
        return torch.as_tensor(self.body(x))


def load_data(path: Path) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Return a hospital's patients in batches, standardised."""
    table = pd.read_csv(path)
    x = torch.tensor(table.drop(columns=[PATIENT, LABEL]).to_numpy(), dtype=torch.float32)
    y = torch.tensor((table[LABEL] == POSITIVE).to_numpy(), dtype=torch.long)
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    return DataLoader(TensorDataset(x, y), batch_size=_BATCH, shuffle=True)


def train(
    net: nn.Module,
    batches: DataLoader[tuple[torch.Tensor, ...]],
    *,
    steps: int,
    learning_rate: float,
) -> float:
    """Take so many steps of gradient descent; return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    total = 0.0
    for x, y in islice(cycle(batches), steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    return total / steps
