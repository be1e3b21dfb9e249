"""A Paddle program (static graph) learns scikit-learn's digits, with AdamW of roofstep and Paddle.

`train` is given the one class or the other; nothing else differs. The step is a part of the
program, so what is timed is a whole run: forward, backward and step.
"""

import time

import numpy as np
import paddle
from sklearn.datasets import load_digits

import roofstep.paddle

images, digits = load_digits(return_X_y=True)
images, digits = (images / 16).astype("float32"), digits[:, None]
paddle.enable_static()


def train(optimizer_class):
    """Yields the loss of each batch, and the seconds that its run took."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup):
        paddle.seed(0)
        x = paddle.static.data("images", [None, 64], "float32")
        y = paddle.static.data("digits", [None, 1], "int64")
        model = paddle.nn.Sequential(
            paddle.nn.Linear(64, 256),
            paddle.nn.ReLU(),
            paddle.nn.Linear(256, 256),
            paddle.nn.ReLU(),
            paddle.nn.Linear(256, 10),
        )
        loss = paddle.nn.functional.cross_entropy(model(x), y)
        optimizer = optimizer_class(learning_rate=1e-3, weight_decay=0.01)  # the one line
        optimizer.minimize(loss)
    executor, scope = paddle.static.Executor(paddle.CPUPlace()), paddle.static.Scope()
    with paddle.static.scope_guard(scope):
        executor.run(startup)
    order = np.random.default_rng(0)
    for _ in range(200):
        batch = order.choice(len(digits), 128)
        feed = {"images": images[batch], "digits": digits[batch]}
        began = time.perf_counter()
        (found,) = executor.run(main, feed=feed, fetch_list=[loss], scope=scope)
        took = time.perf_counter() - began
        yield float(found), took


turns = np.array(
    [*zip(train(roofstep.paddle.AdamW), train(paddle.optimizer.AdamW), strict=True)]
)  # batch by batch
start, (own_loss, peer_loss) = turns[0, 0, 0], turns[-20:, :, 0].mean(axis=0)
own_time, peer_time = 1e6 * np.median(turns[:, :, 1], axis=0)
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by Paddle")
print(f"run: {own_time:.1f} us of roofstep, {peer_time:.1f} us of Paddle (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
