"""The demo is the first thing a newcomer runs: it must learn, repeat itself, and refuse well."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

import roofstep
from roofstep import demo


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    """As in `demo.run`: on busy CPUs more threads make small products many times slower."""
    with threadpool_limits(1, user_api="blas"):
        yield


def parse(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(options)


def test_gradients_agree_with_central_differences() -> None:
    rng = np.random.default_rng(0)
    model = demo.MLP((5, 4, 6, 3), rng, np.float64)
    for bias in model.biases:
        bias.data += rng.normal(size=bias.data.shape)
    images, labels = rng.normal(size=(7, 5)), rng.integers(3, size=7)
    _, gradient = demo.cross_entropy(model.forward(images), labels)
    model.backward(gradient)

    h = 1e-6
    for parameter in model.parameters:
        expected = np.empty_like(parameter.data)
        for index in np.ndindex(expected.shape):
            value = parameter.data[index]
            losses = []
            for moved in (value + h, value - h):
                parameter.data[index] = moved
                losses.append(demo.cross_entropy(model.forward(images), labels)[0])
            parameter.data[index] = value
            expected[index] = (losses[0] - losses[1]) / (2 * h)
        assert parameter.grad is not None
        assert np.abs(expected).max() > 1e-3, "a gradient of zeros would prove nothing"
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_network_stays_in_its_dtype(dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    model = demo.MLP((5, 4, 3), rng, dtype)
    logits = model.forward(rng.normal(size=(7, 5)).astype(dtype))
    _, gradient = demo.cross_entropy(logits, rng.integers(3, size=7))
    model.backward(gradient)
    assert {logits.dtype, gradient.dtype} == {np.dtype(dtype)}
    assert {p.grad.dtype for p in model.parameters if p.grad is not None} == {np.dtype(dtype)}


def test_cross_entropy_survives_large_logits() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    loss, gradient = demo.cross_entropy(logits, np.array([0, 0]))
    assert loss == pytest.approx(5e3)
    np.testing.assert_array_equal(gradient, np.array([[0, 0], [-0.5, 0.5]], np.float32))


def test_the_split_keeps_the_classes_and_depends_on_the_seed() -> None:
    data = demo.load_data(0)
    assert data.train_images.shape == (1437, 64)
    assert data.test_images.shape == (360, 64)
    assert data.train_images.dtype == np.float32
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    counts = np.bincount(data.test_labels)
    assert len(counts) == 10
    assert 34 <= counts.min() <= counts.max() <= 38
    assert not np.array_equal(data.test_labels, demo.load_data(1).test_labels)


@pytest.mark.parametrize("seed", range(10))
def test_every_seed_reaches_97_percent(seed: int) -> None:
    assert demo.train(seed=seed).accuracy[-1] >= 0.97


@pytest.mark.parametrize("optimizer", demo.LEARNING_RATES)
def test_every_optimizer_learns(optimizer: str) -> None:
    history = demo.train(optimizer, epochs=15)
    assert history.accuracy[-1] > 0.9
    assert np.mean(history.loss[-22:]) < np.mean(history.loss[:22]) / 2


def test_the_history_is_complete() -> None:
    calls: list[int] = []
    history = demo.train(lr=0.01, epochs=10, on_epoch=lambda h: calls.append(len(h.accuracy)))
    assert calls == list(range(1, 11))
    steps = 10 * (1437 // demo.BATCH)
    assert {len(history.loss), len(history.learning_rate), len(history.grad_norm)} == {steps}
    # The first tenth warms up, the rest is the half-wave of a cosine that would end in 0.
    rates = np.array(history.learning_rate)
    warmup = steps // 10
    assert rates[0] == pytest.approx(0.001)
    assert rates.max() == rates[warmup] == pytest.approx(0.01)
    assert np.all(np.diff(rates[: warmup + 1]) > 0)
    assert np.all(np.diff(rates[warmup:]) < 0)
    assert 0 < rates[-1] < 1e-6
    assert min(history.grad_norm) > 0


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = roofstep.get_num_threads()
    yield
    roofstep.set_num_threads(before)


@pytest.mark.usefixtures("restore_threads")
def test_weights_repeat_bit_for_bit_on_any_number_of_threads() -> None:
    weights = []
    for threads in (1, 1, 2):
        roofstep.set_num_threads(threads)
        model = demo.train(epochs=10, seed=3).model
        weights.append(b"".join(p.data.tobytes() for p in model.parameters))
    assert weights[0] == weights[1] == weights[2]
    other = demo.train(epochs=1, seed=4).model.parameters[0].data
    assert not weights[0].startswith(other.tobytes())


def test_the_command_trains_and_saves_the_curves(tmp_path: Path) -> None:
    png = tmp_path / "curves.png"
    command = [sys.executable, "-m", "roofstep", "demo", "--threads", "2", "--out", str(png)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert str(png) in done.stdout
    accuracy = re.search(r"([\d.]+)% test accuracy after 60 epochs .* in [\d.]+ s\n", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) >= 97
    assert "60/60" in done.stderr, "the progress bar"
    assert "Warning" not in done.stderr
    with Image.open(png) as image:
        image.load()
        assert image.format == "PNG"
        width, height = image.size
        assert width >= 1000
        assert height >= 300
        assert len(image.convert("RGB").getcolors(maxcolors=width * height) or []) > 10


def test_a_single_epoch_is_plotted_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.run(parse("--epochs", "1", "--optimizer", "sgd", "--lr", "0.3")) == 0
    assert str(tmp_path / "roofstep-demo.png") in capsys.readouterr().out
    assert (tmp_path / "roofstep-demo.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), "whole number from 1"),
        (("--epochs", "two"), "whole number from 1"),
        (("--epochs=-3",), "whole number from 1"),
        (("--threads", "0"), "whole number from 1"),
        (("--seed=-1",), "whole number from 0"),
        (("--seed", "4294967296"), "whole number from 0"),
        (("--lr=-0.1",), "finite number above 0"),
        (("--lr", "0"), "finite number above 0"),
        (("--lr", "nan"), "finite number above 0"),
        (("--lr", "inf"), "finite number above 0"),
        (("--lr", "fast"), "finite number above 0"),
        (("--optimizer", "sgdw"), "invalid choice"),
        (("--out", "missing/curves.png"), "no directory"),
        (("--out", "curves.pdf"), "ends in .png"),
        (("--out", "taken.png"), "cannot write"),
    ],
)
def test_bad_options_are_refused(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(SystemExit) as refusal:
        parse(*options)
    assert refusal.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {options[0].split('=')[0]}: " in error
    assert message in error


@pytest.mark.parametrize("package", ["sklearn", "tqdm", "matplotlib"])
def test_a_missing_extra_is_one_sentence(
    package: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert demo.run(parse("--out", str(tmp_path / "curves.png"))) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"The demo needs {package}: pip install 'roofstep[demo]'\n")


def test_a_divergence_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png = tmp_path / "curves.png"
    assert demo.run(parse("--optimizer", "sgd", "--lr", "1e30", "--out", str(png))) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("Training diverged: the loss became ")
    assert "lower --lr" in err
    assert not png.exists()
