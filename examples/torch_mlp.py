"""A torch module learns scikit-learn's digits, with AdamW of roofstep and of torch.

`train` is given the one class or the other; nothing else differs.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

import roofstep.torch
from roofstep.timing import compare

images, digits = load_digits(return_X_y=True)
images, digits = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits)


def train(optimizer_class):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    )
    optimizer = optimizer_class(model.parameters(), lr=1e-3, fused=True)  # the one line
    losses = []
    for _ in range(200):
        batch = torch.randint(len(digits), (128,))
        loss = torch.nn.functional.cross_entropy(model(images[batch]), digits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], np.mean(losses[-20:]), optimizer


start, own_loss, own = train(roofstep.torch.AdamW)
start, peer_loss, peer = train(torch.optim.AdamW)
times = compare(own.step, peer.step, budget=1.0).row()
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by torch")
print(f"step: {times['own_us']:.1f} us of roofstep, {times['peer_us']:.1f} us of torch (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
