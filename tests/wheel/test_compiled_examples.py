"""The examples of the compiled door, built against the wheel: they learn, on any threads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from building import report
from conftest import SOURCE, Environment

README = SOURCE / "README.md"
EXAMPLES = SOURCE / "examples" / "compiled"


@pytest.fixture(scope="module")
def examples(workshop: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the examples, installed from there as a package is."""
    folder = tmp_path_factory.mktemp("examples") / "compiled"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("build", "*.so", "*.c"))
    pip = ("-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps")
    workshop.run(*pip, folder, stdout=None)
    return folder


WORDS = """
import json
import numpy as np
import train_words, word2vec

names, vectors, losses = train_words.train(word2vec.{learn}, threads={threads}, epochs=2)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
pairs = [("day", "month"), ("thread", "lock"), ("server", "client"), ("read", "write"),
         ("int", "float"), ("list", "tuple"), ("url", "http"), ("key", "value")]
likeness = [float(vectors[names.index(a)] @ vectors[names.index(b)]) for a, b in pairs]
others = vectors[np.random.default_rng(0).integers(0, len(names), (2, 1000))]
print(json.dumps([losses, likeness, float((others[0] * others[1]).sum(axis=1).mean())]))
"""


@pytest.mark.parametrize("learn", ["learn", "learn_in_batches"])
def test_word2vec_learns(workshop: Environment, examples: Path, learn: str) -> None:
    """From a loss of log 2 for each of 6 words; related words come to lie near each other."""
    losses, likeness, random = report(workshop, examples, WORDS.format(learn=learn, threads=1))
    assert losses[-1] < 2.5 < 6 * 0.693
    assert sum(likeness) / len(likeness) > random + 0.15
    assert sum(value > random for value in likeness) >= len(likeness) - 1


BATCHES = """
import json
import numpy as np
import word2vec

def train(threads):
    rng = np.random.default_rng(0)
    words, noise = (rng.zipf(1.5, n).clip(1, 300).astype("int32") - 1 for n in (20_000, 1000))
    matrices = [rng.random((300, 32), "float32") - 0.5, *np.zeros((3, 300, 32), "float32")]
    word2vec.learn_in_batches(*matrices, words, noise, threads=threads)
    return [matrix.tobytes() for matrix in matrices]

print(json.dumps([train(threads) == train(1) for threads in (2, 3, 7)]))
"""


def test_batches_have_the_same_bits_on_any_threads(workshop: Environment, examples: Path) -> None:
    assert report(workshop, examples, BATCHES) == [True] * 3


def test_hogwild_threads_learn(workshop: Environment, examples: Path) -> None:
    losses, *_ = report(workshop, examples, WORDS.format(learn="learn", threads=3))
    assert losses[-1] < 2.5


DIGITS = """
import json
import complete_digits

start, end, users, items = complete_digits.train(threads=1)
again = complete_digits.train(threads=3)
same = users.tobytes() == again[2].tobytes() and items.tobytes() == again[3].tobytes()
print(json.dumps([float(start), float(end), same]))
"""


def test_the_factorization_learns_on_any_threads(workshop: Environment, examples: Path) -> None:
    start, end, same = report(workshop, examples, DIGITS)
    assert end < 0.75 * start
    assert same


BANDIT = """
import json
import bandit
import numpy as np

rng = np.random.default_rng(0)
missed = bandit.play(rng.standard_normal((10, 20)), 20_000, 0.05, 0.02, rng)
print(json.dumps([missed[:1000].mean(), missed[-1000:].mean()]))
"""


def test_the_bandit_learns(workshop: Environment, examples: Path) -> None:
    start, end = report(workshop, examples, BANDIT)
    assert end < 0.25 * start


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_readme_lists_every_script(script: Path) -> None:
    listed = re.findall(r"`python (examples/compiled/\w+\.py)", README.read_text())
    assert (f"examples/compiled/{script.name}" in listed) is (script.name != "setup.py")
