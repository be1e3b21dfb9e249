"""The optimizers: what each is called with, its formula, and the paper it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from roofstep import checks
from roofstep.clip import ClipGradBase
from roofstep.optimizer import Optimizer
from roofstep.parameter import Parameter
from roofstep.regularizer import WeightDecayRegularizer


def _not_yet(**options: bool) -> None:
    for name, value in options.items():
        if checks.flag(name, value):
            raise ValueError(
                f"{name}: expected False, got True; it does not exist yet, leave it out"
            )


class SGD(Optimizer):
    r"""Stochastic gradient descent.

    .. math:: p \leftarrow p - \eta g

    (Robbins & Monro, A stochastic approximation method, 1951.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        parameters: see `Optimizer`.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        name: shown in the repr.

    Raises:
        TypeError, ValueError: see `Optimizer`.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0, 2.0]))
        >>> opt = roofstep.SGD(learning_rate=0.5, parameters=[w])
        >>> w.grad = np.array([1.0, -1.0])
        >>> opt.step()
        >>> w.data
        array([0.5, 2.5])
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        parameters: Iterable[Any] | None = None,
        weight_decay: Any = None,
        grad_clip: ClipGradBase | None = None,
        multi_precision: bool = False,
        name: str | None = None,
    ) -> None:
        checks.flag("multi_precision", multi_precision)
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "sgd"


class Momentum(Optimizer):
    r"""Gradient descent with momentum, plain or Nesterov's.

    .. math::
        v \leftarrow \mu v + g, \qquad
        p \leftarrow p - \eta v \quad\text{or}\quad p \leftarrow p - \eta (g + \mu v)

    (Polyak, Some methods of speeding up the convergence of iteration methods, 1964; Sutskever et
    al., On the importance of initialization and momentum in deep learning, 2013.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        momentum: :math:`\mu` >= 0. Default 0.9.
        parameters: see `Optimizer`; groups may also set momentum, use_nesterov, rescale_grad.
        use_nesterov: the second form. Default False.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        rescale_grad: a factor on the clipped gradient, before decay is added. Default 1.0.
        use_multi_tensor: either value: all parameters are stepped in one call.
        name: shown in the repr.

    Raises:
        TypeError, ValueError: see `Optimizer`; momentum is negative.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Momentum(learning_rate=0.25, momentum=0.5, parameters=[w])
        >>> for _ in range(2):
        ...     w.grad = np.array([1.0])
        ...     opt.step()
        >>> w.data
        array([0.375])
    """

    _settings: ClassVar = {
        "momentum": checks.non_negative,
        "use_nesterov": checks.flag,
        "rescale_grad": checks.real,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        momentum: float = 0.9,
        parameters: Iterable[Any] | None = None,
        use_nesterov: bool = False,
        weight_decay: Any = None,
        grad_clip: ClipGradBase | None = None,
        multi_precision: bool = False,
        rescale_grad: float = 1.0,
        use_multi_tensor: bool = False,
        name: str | None = None,
    ) -> None:
        checks.flag("multi_precision", multi_precision)
        checks.flag("use_multi_tensor", use_multi_tensor)
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            momentum=momentum,
            use_nesterov=use_nesterov,
            rescale_grad=rescale_grad,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "nesterov" if group["use_nesterov"] else "momentum"


class Adam(Optimizer):
    r"""Adam, with the gradient's running mean and running mean square.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}
                               {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    where t counts the updates of this parameter. With ``amsgrad`` the largest v so far stands in
    the place of v in the last formula. Weight decay is coupled: it is added to g.
    (Kingma & Ba, Adam: a method for stochastic optimization, 2015; Reddi et al., On the convergence
    of Adam and beyond, 2018.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon, amsgrad.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        lazy_mode: False; it concerns sparse gradients, which do not exist yet.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        use_multi_tensor: either value: all parameters are stepped in one call.
        amsgrad: keep the maximum of v. Default False.
        name: shown in the repr.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Adam(learning_rate=0.25, parameters=[w], epsilon=0.0)
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([0.75])
    """

    _settings: ClassVar = {
        "beta1": checks.fraction,
        "beta2": checks.fraction,
        "epsilon": checks.non_negative,
        "amsgrad": checks.flag,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        parameters: Iterable[Any] | None = None,
        weight_decay: Any = None,
        grad_clip: ClipGradBase | None = None,
        lazy_mode: bool = False,
        multi_precision: bool = False,
        use_multi_tensor: bool = False,
        amsgrad: bool = False,
        name: str | None = None,
    ) -> None:
        _not_yet(lazy_mode=lazy_mode)
        checks.flag("multi_precision", multi_precision)
        checks.flag("use_multi_tensor", use_multi_tensor)
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            amsgrad=amsgrad,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "amsgrad" if group["amsgrad"] else "adam"


class AdamW(Adam):
    r"""Adam with decoupled weight decay: `Adam`'s update, and the weights shrink beside it.

    .. math::
        p \leftarrow p - \eta \left(
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p
        \right)

    m and v do not see the decay. A parameter's own regularizer is still added to its gradient, as
    in Paddle. (Loshchilov & Hutter, Decoupled weight decay regularization, 2019.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon, amsgrad.
        weight_decay: :math:`\lambda`, a number, or None for none. Default 0.01.
        use_lowprecision_moment: False; low-precision states do not exist yet.
        lr_ratio: a function of the parameter that gives a factor >= 0 on its learning rate, for
            layer-wise rates. Default None.
        apply_decay_param_fun: a function of the parameter's name that says whether it decays.
            Default None: all decay. Both functions are asked when settings have changed, not at
            every step.
        grad_clip: see `Optimizer`. Default None.
        lazy_mode: False; it concerns sparse gradients, which do not exist yet.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        amsgrad: keep the maximum of v. Default False.
        name: shown in the repr.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.AdamW(learning_rate=0.25, parameters=[w], epsilon=0.0, weight_decay=0.5)
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([0.625])
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        parameters: Iterable[Any] | None = None,
        weight_decay: float | None = 0.01,
        use_lowprecision_moment: bool = False,
        lr_ratio: Callable[[Parameter], float] | None = None,
        apply_decay_param_fun: Callable[[str], bool] | None = None,
        grad_clip: ClipGradBase | None = None,
        lazy_mode: bool = False,
        multi_precision: bool = False,
        amsgrad: bool = False,
        name: str | None = None,
    ) -> None:
        _not_yet(use_lowprecision_moment=use_lowprecision_moment)
        if lr_ratio is not None:
            checks.function("lr_ratio", lr_ratio, "lambda parameter: 0.5")
        if apply_decay_param_fun is not None:
            checks.function("apply_decay_param_fun", apply_decay_param_fun, "lambda name: True")
        self._lr_ratio = lr_ratio
        self._decays_by_name = apply_decay_param_fun
        super().__init__(
            learning_rate,
            beta1,
            beta2,
            epsilon,
            parameters,
            weight_decay,
            grad_clip,
            lazy_mode,
            multi_precision,
            amsgrad=amsgrad,
            name=name,
        )

    def _check_decay(self, name: str, value: Any) -> Any:
        if isinstance(value, WeightDecayRegularizer):
            raise TypeError(
                f"{name}: expected a number or None, got {value!r}; AdamW's decay is decoupled, "
                f"for a coupled one give the parameter a regularizer, or use Adam"
            )
        return None if value is None else checks.real(name, value)

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        decays = self._decays_by_name is None or self._decays_by_name(name)
        l1, l2, _ = super()._decays({"weight_decay": None}, name, parameter)
        return l1, l2, (group["weight_decay"] or 0.0) if decays else 0.0

    def _multiplier(self, name: str, parameter: Parameter) -> float:
        own = super()._multiplier(name, parameter)
        if self._lr_ratio is None:
            return own
        ratio = self._lr_ratio(parameter)
        return own * checks.non_negative(f"lr_ratio of parameter {name!r}", ratio)
