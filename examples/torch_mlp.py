"""A torch module learns scikit-learn's digits, with AdamW of roofstep and of torch.

`train` is given the one class or the other; nothing else differs.
"""

import time

import numpy as np
import torch
from sklearn.datasets import load_digits

import roofstep.torch

images, digits = load_digits(return_X_y=True)
images, digits = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits)


def train(optimizer_class):
    """Yields the loss of each batch, and the seconds that its step took."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    )
    optimizer = optimizer_class(model.parameters(), lr=1e-3, fused=True)  # the one line
    random = torch.Generator().manual_seed(1)
    for _ in range(200):
        batch = torch.randint(len(digits), (128,), generator=random)
        loss = torch.nn.functional.cross_entropy(model(images[batch]), digits[batch])
        optimizer.zero_grad()
        loss.backward()
        began = time.perf_counter()
        optimizer.step()
        took = time.perf_counter() - began
        yield loss.item(), took


turns = np.array(
    [*zip(train(roofstep.torch.AdamW), train(torch.optim.AdamW), strict=True)]
)  # batch by batch
start, (own_loss, peer_loss) = turns[0, 0, 0], turns[-20:, :, 0].mean(axis=0)
own_time, peer_time = 1e6 * np.median(turns[:, :, 1], axis=0)
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by torch")
print(f"step: {own_time:.1f} us of roofstep, {peer_time:.1f} us of torch (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
