"""A Paddle layer learns scikit-learn's digits in dynamic mode, with AdamW of roofstep and Paddle.

`train` is given the one class or the other; nothing else differs.
"""

import time

import numpy as np
import paddle
from sklearn.datasets import load_digits

import roofstep

images, digits = load_digits(return_X_y=True)
images, digits = paddle.to_tensor((images / 16).astype("float32")), paddle.to_tensor(digits)


def train(optimizer_class):
    """Yields the loss of each batch, and the seconds that its step took."""
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
    for _ in range(200):
        batch = paddle.to_tensor(order.choice(len(digits), 128))
        loss = paddle.nn.functional.cross_entropy(model(images[batch]), digits[batch])
        optimizer.clear_grad()
        loss.backward()
        began = time.perf_counter()
        optimizer.step()
        took = time.perf_counter() - began
        yield float(loss), took


turns = np.array(
    [*zip(train(roofstep.AdamW), train(paddle.optimizer.AdamW), strict=True)]
)  # batch by batch
start, (own_loss, peer_loss) = turns[0, 0, 0], turns[-20:, :, 0].mean(axis=0)
own_time, peer_time = 1e6 * np.median(turns[:, :, 1], axis=0)
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by Paddle")
print(f"step: {own_time:.1f} us of roofstep, {peer_time:.1f} us of Paddle (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
