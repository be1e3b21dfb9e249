"""Two networks of torch to train in a loop: a multilayer perceptron and a small transformer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Callable[[], Tensor]  # of the next batch

SEQUENCE, WIDTH, LAYERS, HEADS, BYTES = 64, 128, 2, 4, 256


def perceptron() -> tuple[nn.Module, Loss]:
    """784-256-256-10, batches of 64 images of noise: what it learns is of no matter here."""
    model = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    images, labels = torch.randn(50, 64, 784), torch.randint(10, (50, 64))
    turn = iter(range(1 << 62))

    def loss() -> Tensor:
        batch = next(turn) % len(images)
        return functional.cross_entropy(model(images[batch]), labels[batch])

    return model, loss


class Transformer(nn.Module):
    """Predicts the next byte of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, WIDTH)
        self.places = nn.Embedding(SEQUENCE, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, BYTES)
        mask = nn.Transformer.generate_square_subsequent_mask(SEQUENCE)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        """Logits, (batch, SEQUENCE, BYTES), for text, (batch, SEQUENCE)."""
        x = self.bytes(text) + self.places.weight
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=True)
        logits: Tensor = self.head(self.norm(x))
        return logits


def transformer() -> tuple[nn.Module, Loss]:
    """Two layers of width 128, batches of 16 sequences from Python's own library."""
    model = Transformer()
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8)

    def loss() -> Tensor:
        starts = torch.randint(len(text) - SEQUENCE, (16, 1))
        batch = text[starts + torch.arange(SEQUENCE + 1)].long()
        logits = model(batch[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    return model, loss
