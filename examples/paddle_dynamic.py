"""A Paddle layer learns scikit-learn's digits in dynamic mode, with AdamW of roofstep and Paddle.

`train` is given the one class or the other; nothing else differs.
"""

import numpy as np
import paddle
from sklearn.datasets import load_digits

import roofstep
from roofstep.timing import compare

images, digits = load_digits(return_X_y=True)
images, digits = paddle.to_tensor((images / 16).astype("float32")), paddle.to_tensor(digits)


def train(optimizer_class):
    paddle.seed(0)
    model = paddle.nn.Sequential(
        paddle.nn.Linear(64, 256),
        paddle.nn.ReLU(),
        paddle.nn.Linear(256, 256),
        paddle.nn.ReLU(),
        paddle.nn.Linear(256, 10),
    )
    optimizer = optimizer_class(  # the one line
        learning_rate=1e-3, parameters=model.parameters(), weight_decay=0.01
    )
    order = np.random.default_rng(0)
    losses = []
    for _ in range(200):
        batch = paddle.to_tensor(order.choice(len(digits), 128))
        loss = paddle.nn.functional.cross_entropy(model(images[batch]), digits[batch])
        optimizer.clear_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses[0], np.mean(losses[-20:]), optimizer


start, own_loss, own = train(roofstep.AdamW)
start, peer_loss, peer = train(paddle.optimizer.AdamW)
times = compare(own.step, peer.step, budget=1.0).row()
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by Paddle")
print(f"step: {times['own_us']:.1f} us of roofstep, {times['peer_us']:.1f} us of Paddle (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
