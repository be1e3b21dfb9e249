"""The optimizers under a type that Paddle's own machinery takes."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import paddle

import roofstep
from roofstep.paddle.settings import as_paddles_clip


class _Absent:
    """A method of Paddle's base that is not there: it would work on what only Paddle keeps."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise _absence(owner, self._name)


def _absence(owner: type, name: str) -> AttributeError:
    return AttributeError(
        f"{owner.__name__} of roofstep.paddle has no {name!r}: what Paddle's own optimizers do and "
        f"keep is not here; use the documented methods, param_groups and state_dict()",
        name=name,
    )


class PaddleOptimizer(paddle.optimizer.Optimizer):  # type: ignore[misc]
    """What makes an optimizer of roofstep one of Paddle's: its type, and what is read of it.

    It comes after the class of roofstep, whose methods are thus in force. None of Paddle's are.
    """

    def __init_subclass__(cls) -> None:
        cls.__doc__ = inspect.getdoc(cls.__bases__[0])

    @property
    def _learning_rate(self) -> Any:
        return self.__dict__["_learning_rate"]

    @_learning_rate.setter
    def _learning_rate(self, value: Any) -> None:
        if callable(value) and not isinstance(value, paddle.optimizer.lr.LRScheduler):
            raise TypeError(
                f"learning_rate: expected a number or a schedule that Paddle's callbacks step, got "
                f"{value!r}; take it from roofstep.paddle.lr or paddle.optimizer.lr, or the "
                f"optimizer from roofstep"
            )
        self.__dict__["_learning_rate"] = value

    @property
    def _parameter_list(self) -> list[Any]:
        """The tensors, which a GradScaler unscales."""
        return [parameter.data for parameter in self.parameters]

    @_parameter_list.setter
    def _parameter_list(self, values: list[Any]) -> None:
        # paddle.Model puts the values of its copy of the program here; they go by their names.
        if not all(isinstance(value, paddle.pir.Value) for value in values):
            raise AttributeError("_parameter_list: use add_param_group(), or make an optimizer")

    _param_groups = _parameter_list

    @property
    def _grad_clip(self) -> Any:
        """The clip of groups that name none, as Paddle's, which paddle.Model asks for its kind."""
        return as_paddles_clip(self._defaults["grad_clip"])

    def __getattr__(self, name: str) -> Any:
        raise _absence(type(self), name)


for _name in vars(paddle.optimizer.Optimizer):
    if not _name.startswith("__") and _name not in vars(PaddleOptimizer):
        _absent = _Absent()
        _absent.__set_name__(PaddleOptimizer, _name)
        setattr(PaddleOptimizer, _name, _absent)


class SGD(roofstep.SGD, PaddleOptimizer): ...


class Momentum(roofstep.Momentum, PaddleOptimizer): ...


class Adagrad(roofstep.Adagrad, PaddleOptimizer): ...


class Adadelta(roofstep.Adadelta, PaddleOptimizer): ...


class RMSProp(roofstep.RMSProp, PaddleOptimizer): ...


class Adam(roofstep.Adam, PaddleOptimizer): ...


class AdamW(roofstep.AdamW, PaddleOptimizer): ...


class Adamax(roofstep.Adamax, PaddleOptimizer): ...


class NAdam(roofstep.NAdam, PaddleOptimizer): ...


class RAdam(roofstep.RAdam, PaddleOptimizer): ...


class Rprop(roofstep.Rprop, PaddleOptimizer): ...


class ASGD(roofstep.ASGD, PaddleOptimizer): ...


class Lamb(roofstep.Lamb, PaddleOptimizer): ...


class LARS(roofstep.LARS, PaddleOptimizer): ...


class Lion(roofstep.Lion, PaddleOptimizer): ...


class Adan(roofstep.Adan, PaddleOptimizer): ...
