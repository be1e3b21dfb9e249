"""A Paddle program (static graph) learns scikit-learn's digits, with AdamW of roofstep and Paddle.

`train` is given the one class or the other; nothing else differs. The step is a part of the
program, so what is timed is a whole run: forward, backward and step.
"""

import functools

import numpy as np
import paddle
from sklearn.datasets import load_digits

import roofstep.paddle
from roofstep.timing import compare

images, digits = load_digits(return_X_y=True)
images, digits = (images / 16).astype("float32"), digits[:, None]
paddle.enable_static()


def train(optimizer_class):
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
    losses = []
    for _ in range(200):
        batch = order.choice(len(digits), 128)
        feed = {"images": images[batch], "digits": digits[batch]}
        losses += executor.run(main, feed=feed, fetch_list=[loss], scope=scope)
    run = functools.partial(executor.run, main, feed=feed, fetch_list=[loss], scope=scope)
    return losses[0], np.mean(losses[-20:]), run


start, own_loss, own = train(roofstep.paddle.AdamW)
start, peer_loss, peer = train(paddle.optimizer.AdamW)
times = compare(own, peer, budget=1.0).row()
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by Paddle")
print(f"run: {times['own_us']:.1f} us of roofstep, {times['peer_us']:.1f} us of Paddle (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
