"""A small transformer learns Python, character by character, with AdamW of roofstep and of torch.

Its text is the source of `argparse`. `train` is given the one class or the other, with the same
groups, schedule and clipping; nothing else differs.
"""

import argparse
import inspect
import time

import numpy as np
import torch

import roofstep.torch

characters = inspect.getsource(argparse).encode()
alphabet = sorted(set(characters))
text = torch.tensor([alphabet.index(c) for c in characters])
CONTEXT, WIDTH, STEPS = 64, 64, 100


class Transformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.characters = torch.nn.Embedding(len(alphabet), WIDTH)
        self.positions = torch.nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True
        )
        self.layers = torch.nn.TransformerEncoder(layer, num_layers=2)
        self.head = torch.nn.Linear(WIDTH, len(alphabet))

    def forward(self, x):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        x = self.characters(x) + self.positions
        return self.head(self.layers(x, mask=mask, is_causal=True))


def train(optimizer_class):
    """Yields the loss of each batch, and the seconds that its step took."""
    torch.manual_seed(0)
    model = Transformer()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = optimizer_class(groups, lr=3e-3, weight_decay=0.1, fused=True)  # the one line
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=STEPS)
    random = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        begins = torch.randint(len(text) - CONTEXT, (16, 1), generator=random)
        window = text[begins + torch.arange(CONTEXT + 1)]
        logits = model(window[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        began = time.perf_counter()
        optimizer.step()
        took = time.perf_counter() - began
        schedule.step()
        yield loss.item(), took


turns = np.array(
    [*zip(train(roofstep.torch.AdamW), train(torch.optim.AdamW), strict=True)]
)  # batch by batch
start, (own_loss, peer_loss) = turns[0, 0, 0], turns[-20:, :, 0].mean(axis=0)
own_time, peer_time = 1e6 * np.median(turns[:, :, 1], axis=0)
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by torch")
print(f"step: {own_time:.1f} us of roofstep, {peer_time:.1f} us of torch (medians)")
assert abs(own_loss - peer_loss) < 0.02 * peer_loss
