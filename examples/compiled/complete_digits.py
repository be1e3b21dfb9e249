"""Foretells pixels of scikit-learn's digits from others, as one does ratings of users and items."""

import os
import time

import numpy as np
from factorize import factorize
from sklearn.datasets import load_digits

RANK = 12


def baseline_of(images, known):
    """What the mean of an image and that of a pixel say of an entry."""
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    by_image = (images * known).sum(axis=1, keepdims=True) / count
    rest = (images - by_image) * known
    return by_image + rest.sum(axis=0) / known.sum(axis=0)


def train(threads, epochs=300):
    """The errors on the entries held out, at the start and in the end, and the factors."""
    images = load_digits().data.astype("float32")
    rng = np.random.default_rng(0)
    known = rng.random(images.shape) < 0.8
    baseline = baseline_of(images, known)

    def error(users, items):
        return np.sqrt(np.mean((images - baseline - users @ items.T)[~known] ** 2))

    users, items = (rng.normal(0, 0.1, (n, RANK)).astype("float32") for n in images.shape)
    start = error(0 * users, items)
    rows, columns = known.nonzero()
    began = time.perf_counter()
    factorize(
        users,
        items,
        rows,
        columns,
        (images - baseline)[known],
        epochs=epochs,
        learning_rate=0.05,
        weight_decay=0.1,
        threads=threads,
    )
    print(f"{epochs} epochs of {len(rows)} entries, {time.perf_counter() - began:.1f} s")
    return start, error(users, items), users, items


def main():
    start, end, _, _ = train(threads=os.cpu_count())
    print(f"error of the pixels held out: {start:.3f} by means, {end:.3f} by the product")


if __name__ == "__main__":
    main()
