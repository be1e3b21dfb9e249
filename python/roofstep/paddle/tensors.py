"""What Paddle's tensors need said: the settings they carry, and that `grad` is new at each look."""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any, NoReturn

import paddle
from paddle.utils.dlpack import from_dlpack

from roofstep import _core, checks
from roofstep.regularizer import WeightDecayRegularizer, as_regularizer
from roofstep.rows import SelectedRows
from roofstep.tensors import Rows, TensorParameter, as_numbers
from roofstep.types import Array


class PaddleParameter(TensorParameter):
    """A Paddle tensor as a parameter; see `TensorParameter`.

    Its settings are those of the tensor, as Paddle's ParamAttr puts them there: set them there.

    Example:
        >>> import paddle, roofstep
        >>> attr = paddle.ParamAttr(name="layer_w", learning_rate=0.5)
        >>> layer = paddle.nn.Linear(2, 1, weight_attr=attr, bias_attr=False)
        >>> opt = roofstep.Adam(0.1, parameters=layer.parameters())
        >>> _ = opt.minimize(layer(paddle.ones([4, 2])).sum())
        >>> opt.parameters[0], opt.parameters[0].learning_rate
        (Parameter(name='layer_w', shape=(2, 1), dtype=paddle.float32), 0.5)
    """

    __slots__ = ()

    @property  # type: ignore[misc]  # read-only: Paddle's ParamAttr says it
    def learning_rate(self) -> float:
        """A factor on the learning rate: ``optimize_attr["learning_rate"]``."""
        own = getattr(self.data, "optimize_attr", {"learning_rate": 1.0})
        return checks.non_negative(f"learning_rate of {self.name!r}", own["learning_rate"])

    @property  # type: ignore[misc]
    def regularizer(self) -> WeightDecayRegularizer | None:
        """Its own decay, one of Paddle's or of roofstep's."""
        own = getattr(self.data, "regularizer", None)
        return as_regularizer(f"regularizer of {self.name!r}", own)

    @property  # type: ignore[misc]
    def need_clip(self) -> bool:
        """Whether its gradient is clipped and measured."""
        return getattr(self.data, "need_clip", True) is not False

    @property  # type: ignore[misc]
    def trainable(self) -> bool:
        """Whether a step may change it: not ``stop_gradient``."""
        return not self.data.stop_gradient

    def has_other_grad(self, old: Any) -> bool:
        """Whether the gradient is no longer this one, by memory: each look makes a new tensor."""
        new = self.grad
        if new is None or old is None:
            return new is not old
        return not old._is_initialized() or bool(_address(new) != _address(old))

    @property
    def lasting_grad(self) -> Any:
        """A tensor over the gradient's memory, which Paddle takes from all that it calls `grad`.

        Of Paddle's SelectedRows it is roofstep's.
        """
        grad = self.grad
        if grad is None:
            return None
        role = "the gradient of parameter "
        sparse = rows_of(grad, role + repr(self.name))
        if sparse is None:
            return self.as_own(_core.as_numpy(grad, str(self.name), role))
        numbers, values, _ = sparse
        return SelectedRows(numbers, _core.as_numpy(values, str(self.name), role))

    def as_own(self, array: Array) -> paddle.Tensor:
        """A tensor over the array's memory."""
        return paddle.from_dlpack(array)

    @staticmethod
    def watch(walked: list[object]) -> Callable[[], Any]:
        """A function that gives the settings of these tensors, in loops of C."""
        names = ("stop_gradient", "need_clip", "regularizer")
        settings = attrgetter(*names)

        def look() -> Any:
            try:
                rates = map(itemgetter("learning_rate"), map(attrgetter("optimize_attr"), walked))
                return [*map(settings, walked)], [*rates]
            except AttributeError:  # a tensor that is no parameter of a layer lacks some of these
                return [
                    [getattr(one, name, None) for name in names]
                    + [getattr(one, "optimize_attr", {}).get("learning_rate")]
                    for one in walked
                ]

        return look

    def __deepcopy__(self, memo: dict[int, Any]) -> PaddleParameter:
        return type(self)(copy.deepcopy(self.data, memo), self.name)

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"pickle: expected parameters that survive it, got the Paddle tensor {self.name!r}, "
            f"which would lose its name and settings; save the model and the optimizer's "
            f"state_dict(), or use copy.deepcopy()"
        )


def _address(grad: paddle.Tensor) -> Any:
    if grad.is_selected_rows():
        return grad.get_selected_rows().get_tensor()._ptr()
    return grad.data_ptr()


def rows_of(gradient: paddle.Tensor, who: str) -> Rows | None:
    """The rows of Paddle's SelectedRows, the values where they lie; see `roofstep.tensors`."""
    if not gradient.is_selected_rows():
        return None
    selected = gradient.get_selected_rows()
    values = from_dlpack(selected.get_tensor()._to_dlpack())
    return as_numbers(selected.rows()), values, selected.height()


def as_parameter(tensor: paddle.Tensor) -> PaddleParameter:
    """The parameter of a tensor, under the tensor's name."""
    return PaddleParameter(tensor, tensor.name)
