"""The shapes of the models that are stepped, with the parameters that training would step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

Shape = tuple[int, ...]


def mlp(*widths: int) -> list[Shape]:
    """Linear layers with biases."""
    return [
        shape for inner, outer in itertools.pairwise(widths) for shape in ((outer, inner), (outer,))
    ]


def _conv_norm(inner: int, outer: int, kernel: int) -> list[Shape]:
    """A convolution without bias, and the scale and shift of its batch norm."""
    return [(outer, inner, kernel, kernel), (outer,), (outer,)]


def resnet50() -> list[Shape]:
    """He et al., 2015; 1000 classes: 25 557 032 in 161 tensors."""
    shapes = _conv_norm(3, 64, 7)
    inner = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += _conv_norm(inner, width, 1) + _conv_norm(width, width, 3)
            shapes += _conv_norm(width, 4 * width, 1)
            if block == 0:
                shapes += _conv_norm(inner, 4 * width, 1)
            inner = 4 * width
    return [*shapes, (1000, inner), (1000,)]


def _blocks(width: int, count: int) -> Iterator[Shape]:
    """Transformer blocks of GPT-2."""
    for _ in range(count):
        yield from ((width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,))
        yield from (
            (width,),
            (width,),
            (width, 4 * width),
            (4 * width,),
            (4 * width, width),
            (width,),
        )


def gpt2() -> list[Shape]:
    """Radford et al., 2019, the small one, output tied to the input: 124 439 808 in 148 tensors."""
    return [(50257, 768), (1024, 768), *_blocks(768, 12), (768,), (768,)]


def bert_base() -> list[Shape]:
    """Devlin et al., 2018, with its pooler: 109 482 240 in 199 tensors."""
    shapes: list[Shape] = [(30522, 768), (512, 768), (2, 768), (768,), (768,)]
    for _ in range(12):
        shapes += [(768, 768), (768,)] * 4 + [(768,), (768,)]
        shapes += [(3072, 768), (3072,), (768, 3072), (768,), (768,), (768,)]
    return [*shapes, (768, 768), (768,)]


# MobileNetV3-Large: kernel, expansion, output, squeeze and excitation.
_MOBILE = (
    (3, 16, 16, False), (3, 64, 24, False), (3, 72, 24, False), (5, 72, 40, True),
    (5, 120, 40, True), (5, 120, 40, True), (3, 240, 80, False), (3, 200, 80, False),
    (3, 184, 80, False), (3, 184, 80, False), (3, 480, 112, True), (3, 672, 112, True),
    (5, 672, 160, True), (5, 960, 160, True), (5, 960, 160, True),
)  # fmt: skip


def mobilenet_v3() -> list[Shape]:
    """Howard et al., 2019, Large; 1000 classes: 5 483 032 in 174 tensors."""
    shapes = _conv_norm(3, 16, 3)
    inner = 16
    for kernel, expansion, outer, squeezes in _MOBILE:
        if expansion != inner:
            shapes += _conv_norm(inner, expansion, 1)
        shapes += _conv_norm(1, expansion, kernel)
        if squeezes:
            squeezed = _divisible(expansion / 4)
            shapes += [(squeezed, expansion, 1, 1), (squeezed,)]
            shapes += [(expansion, squeezed, 1, 1), (expansion,)]
        shapes += _conv_norm(expansion, outer, 1)
        inner = outer
    return [*shapes, *_conv_norm(inner, 960, 1), *mlp(960, 1280, 1000)]


def _divisible(channels: float) -> int:
    """The multiple of 8 that is nearest, but not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


MODELS = {
    "MLP": mlp(784, 256, 256, 10),
    "ResNet-50": resnet50(),
    "BERT-base": bert_base(),
    "GPT-2": gpt2(),
    "MobileNetV3": mobilenet_v3(),
    "1000 x 64": [(64,)] * 1000,
    "10 000 x 16": [(16,)] * 10_000,
}


def count(shapes: Sequence[Shape]) -> int:
    """Elements in all."""
    return sum(math.prod(shape) for shape in shapes)
