"""Learns vectors of the words in the source of Python's standard library, and shows neighbours.

`python train_words.py` goes batch by batch, `python train_words.py hogwild` pair by pair.
"""

import os
import re
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

import numpy as np
import word2vec

WIDTH, EPOCHS, LEAST, SUBSAMPLE = 64, 3, 50, 1e-3
LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "encodings", "idlelib", "lib2to3"}


def read_library():
    """All words of the library in their order."""
    top = Path(sysconfig.get_path("stdlib"))
    for path in sorted(top.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(top).parts):
            yield from re.findall("[a-z]{2,}", path.read_text("utf-8", "replace").lower())


def train(learn, threads, epochs=EPOCHS):
    """The words, their vectors, and the losses of the epochs."""
    text = list(read_library())
    names, counts = zip(
        *(item for item in Counter(text).most_common() if item[1] >= LEAST), strict=True
    )
    number = {name: i for i, name in enumerate(names)}
    words = np.array([number[word] for word in text if word in number], "int32")
    part = np.array(counts) / len(words)
    kept = np.minimum(np.sqrt(SUBSAMPLE / part) + SUBSAMPLE / part, 1)  # of a frequent word
    noise = np.repeat(np.arange(len(names), dtype="int32"), np.ceil(1e5 * part**0.75).astype(int))

    rng = np.random.default_rng(0)
    inner = (rng.random((len(names), WIDTH), "float32") - 0.5) / WIDTH
    outer, inner_moment, outer_moment = (np.zeros_like(inner) for _ in range(3))
    print(f"{len(words)} words, {len(names)} different ones, {threads} threads")
    losses = []
    for epoch in range(epochs):
        seen = words[rng.random(len(words)) < kept[words]]
        began = time.perf_counter()
        loss = learn(
            inner, outer, inner_moment, outer_moment, seen, noise, seed=epoch, threads=threads
        )
        losses.append(loss)
        print(f"epoch {epoch + 1}: loss {loss:.4f}, {time.perf_counter() - began:.1f} s")
    return names, inner, losses


def main():
    learn = word2vec.learn if sys.argv[1:] == ["hogwild"] else word2vec.learn_in_batches
    names, vectors, _ = train(learn, threads=os.cpu_count())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in ("open", "int", "true", "thread", "month", "client"):
        nearest = np.argsort(-vectors @ vectors[names.index(word)])[1:7]
        print(f"{word}: {' '.join(names[i] for i in nearest)}")


if __name__ == "__main__":
    main()
