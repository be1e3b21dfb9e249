"""The optimizers: what each is called with, its formula, and the paper it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Context, Decimal
from functools import partial
from typing import Any, ClassVar, NoReturn

from roofstep import checks
from roofstep.optimizer import Optimizer
from roofstep.parameter import Parameter, Parameters
from roofstep.regularizer import Decay, WeightDecayRegularizer
from roofstep.types import Clip, Integer, Number, Rate, Schedule


def _not_yet(**options: bool) -> None:
    for name, value in options.items():
        if checks.flag(name, value):
            raise ValueError(
                f"{name}: expected False, got True; it does not exist yet, leave it out"
            )


def fading(momentum_decay: float) -> dict[str, float]:
    """The fields of NAdam's rule that stand for 0.96 to this power."""
    # Not by libm, whose powers differ between machines in the last bit; in two doubles, since the
    # rule raises it to the number of the step.
    fade = Context(prec=50).power(Decimal("0.96"), Decimal(momentum_decay))
    return {"fade": float(fade), "fade_rest": float(fade - Decimal(float(fade)))}


def resting(epsilon: float) -> str:
    """What Adagrad does to rows without a gradient: nothing, if its epsilon is one."""
    # Of an epsilon that float32 takes for 0 a gradient of zeros makes 0 / 0.
    return "resting" if epsilon > 2.0**-150 else "moved"


class _DecoupledDecay(Optimizer):
    """`weight_decay` shrinks the weights beside the update; the gradient does not see it."""

    def _check_decay(self, name: str, value: Any) -> Any:
        if isinstance(value, WeightDecayRegularizer):
            raise TypeError(
                f"{name}: expected a number or None, got {value!r}; the decay of "
                f"{type(self).__name__} is decoupled, for a coupled one give the parameter a "
                f"regularizer"
            )
        return None if value is None else checks.real(name, value)

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        l1, l2, _ = super()._decays({"weight_decay": None}, name, parameter)
        return l1, l2, group["weight_decay"] or 0.0


class _Adaptive(Optimizer):
    """The settings that the relatives of Adam share."""

    _settings: ClassVar = {
        "beta1": checks.fraction,
        "beta2": checks.fraction,
        "epsilon": checks.non_negative,
    }

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta1: Number = 0.9,
        beta2: Number = 0.999,
        epsilon: Number = 1e-8,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            skip_nonfinite=skip_nonfinite,
        )


class SGD(Optimizer):
    r"""Stochastic gradient descent.

    .. math:: p \leftarrow p - \eta g

    A sparse gradient (`SelectedRows`, or torch's or Paddle's) moves the rows that it has, and with
    decay all rows, by the bits of the dense gradient. (Robbins & Monro, A stochastic approximation
    method, 1951.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        parameters: see `Optimizer`.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

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
        learning_rate: Rate = 0.001,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        multi_precision: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        checks.flag("multi_precision", multi_precision)
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "sgd"

    def _absent(self, group: Mapping[str, Any]) -> str:
        return "resting"


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
        skip_nonfinite: see `Optimizer`. Default False.

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
        learning_rate: Rate = 0.001,
        momentum: Number = 0.9,
        parameters: Parameters | None = None,
        use_nesterov: bool = False,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        multi_precision: bool = False,
        rescale_grad: Number = 1.0,
        use_multi_tensor: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
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
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "nesterov" if group["use_nesterov"] else "momentum"


class LARS(Optimizer):
    r"""LARS: momentum in which each tensor's gradient is scaled to a part of the tensor's length.

    .. math::
        r = c\, \frac{\lVert p \rVert}{\lVert g \rVert + \lambda \lVert p \rVert + \epsilon}, \qquad
        v \leftarrow \mu v + \eta r (g + \lambda p), \qquad
        p \leftarrow p - v

    For batches so large that one rate for all layers diverges. r is 1 where a norm is 0 or a
    negative :math:`\lambda` leaves nothing above 0 below the line, and for parameters without L2
    decay (by convention biases and the scales of normalizations) unless ``always_adapt``. The norms
    are taken in a pass of their own, so a step reads parameters and gradients twice. (You, Gitman &
    Ginsburg, Large batch training of convolutional networks, 2017.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        momentum: :math:`\mu` >= 0. Default 0.9.
        lars_coeff: c > 0, the part of a tensor's length that it moves by. Default 0.001.
        epsilon: :math:`\epsilon` >= 0. Default 0.0.
        parameters: see `Optimizer`; groups may also set momentum, lars_coeff, epsilon,
            always_adapt.
        weight_decay: :math:`\lambda`, see `Optimizer`. Default 0.0005.
        grad_clip: see `Optimizer`. Default None.
        always_adapt: scale the parameters without decay, too. Default False.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([3.0, 4.0]))
        >>> opt = roofstep.LARS(
        ...     1.0, lars_coeff=0.5, parameters=[w], weight_decay=None, always_adapt=True
        ... )
        >>> w.grad = np.array([0.0, 0.125])
        >>> opt.step()
        >>> w.data
        array([3. , 1.5])
    """

    _settings: ClassVar = {
        "momentum": checks.non_negative,
        "lars_coeff": checks.positive,
        "epsilon": checks.non_negative,
        "always_adapt": checks.flag,
    }

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        momentum: Number = 0.9,
        lars_coeff: Number = 0.001,
        epsilon: Number = 0.0,
        parameters: Parameters | None = None,
        weight_decay: Decay = 0.0005,
        grad_clip: Clip | None = None,
        always_adapt: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            momentum=momentum,
            lars_coeff=lars_coeff,
            epsilon=epsilon,
            always_adapt=always_adapt,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "lars"

    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool:
        return group["always_adapt"] or l2 > 0


class ASGD(Optimizer):
    r"""The stochastic average gradient: the mean of the last gradients of all batches.

    .. math::
        d \leftarrow d - y_i + g, \qquad y_i \leftarrow g, \qquad
        p \leftarrow p - \frac{\eta}{\min(t, n)} d, \qquad i = (t - 1) \bmod n

    where t counts the updates of this parameter and n is the number of batches, which must come in
    the same order in every epoch. As in Paddle this is no averaged SGD; for a running mean of the
    weights see `Optimizer.average_weights`. The state y is n times as large as the parameter.
    (Schmidt, Le Roux & Bach, Minimizing finite sums with the stochastic average gradient, 2017.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        batch_num: n, an int from 1 to 2**31 - 1. It cannot change once there is a state. Default 1.
        parameters: see `Optimizer`; groups may also set batch_num.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([8.0]))
        >>> opt = roofstep.ASGD(1.0, batch_num=2, parameters=[w])
        >>> for batch in (4.0, 2.0, 3.0):
        ...     w.grad = np.array([batch])
        ...     opt.step()
        >>> w.data
        array([-1.5])
    """

    _settings: ClassVar = {"batch_num": partial(checks.whole, least=1, most=2**31 - 1)}

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        batch_num: Integer = 1,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        multi_precision: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        checks.flag("multi_precision", multi_precision)
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            batch_num=batch_num,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "asgd"


class Rprop(Optimizer):
    r"""Resilient propagation: a step size for each element, and of its gradient only the sign.

    .. math::
        s \leftarrow \operatorname{clip}(\eta s, s_{\min}, s_{\max}), \qquad
        \eta = \begin{cases}
            \eta^+ & g\, g' > 0 \\
            \eta^- & g\, g' < 0, \text{ and then } g \leftarrow 0 \\
            1 & \text{else}
        \end{cases}, \qquad
        p \leftarrow p - \operatorname{sign}(g)\, s, \qquad g' \leftarrow g

    For full batches: the noise of small ones makes signs flip. (Riedmiller & Braun, A direct
    adaptive method for faster backpropagation learning: the RPROP algorithm, 1993; without going
    back, as in Riedmiller, Advanced supervised learning in multi-layer perceptrons, 1994.)

    Args:
        learning_rate: what the step sizes begin with, in the range of the next argument. It is
            read when a parameter is first stepped and never again, so `set_lr` and schedules are
            refused; the factors of groups and of `ParamAttr` multiply it. Default 0.001.
        learning_rate_range: :math:`(s_{\min}, s_{\max})`, above 0. Default (1e-5, 50).
        parameters: see `Optimizer`; groups may also set learning_rate_range and etas, but no
            weight_decay.
        etas: :math:`(\eta^-, \eta^+)` in (0, 1) and (1, inf). Default (0.5, 1.2).
        grad_clip: see `Optimizer`. Default None.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Rprop(0.25, parameters=[w], etas=(0.5, 2.0))
        >>> for _ in range(2):
        ...     w.grad = np.array([8.0])
        ...     opt.step()
        >>> w.data
        array([0.25])
    """

    _settings: ClassVar = {
        "learning_rate_range": lambda name, value: checks.pair(name, value, "(0, inf)", "(0, inf)"),
        "etas": lambda name, value: checks.pair(name, value, "(0, 1)", "(1, inf)"),
    }
    _refused = ("weight_decay",)

    def __init__(
        self,
        learning_rate: Number = 0.001,
        learning_rate_range: Iterable[Number] = (1e-5, 50),
        parameters: Parameters | None = None,
        etas: Iterable[Number] = (0.5, 1.2),
        grad_clip: Clip | None = None,
        multi_precision: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        checks.flag("multi_precision", multi_precision)
        low, high = self._settings["learning_rate_range"](
            "learning_rate_range", learning_rate_range
        )
        learning_rate = checks.real("learning_rate", learning_rate, f"[{low}, {high}]")
        super().__init__(
            learning_rate,
            parameters,
            None,
            grad_clip,
            name,
            learning_rate_range=(low, high),
            etas=etas,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "rprop"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        pairs = ("learning_rate_range", "etas")
        return {f"{pair}[{i}]": value for pair in pairs for i, value in enumerate(group[pair])}

    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float:
        if state == "prevs":
            return 0.0
        return self.get_lr() * float(group["learning_rate"]) * self._multiplier(name, parameter)

    def set_lr(self, value: Number) -> NoReturn:
        """Refused: the learning rate is only what the step sizes begin with.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "set_lr: the step sizes of Rprop have lives of their own after the first step; give "
            "the learning rate to the constructor"
        )

    def set_lr_scheduler(self, scheduler: Schedule) -> NoReturn:
        """Refused: see `set_lr`.

        Raises:
            RuntimeError: always.
        """
        self.set_lr(0.0)


class Lion(_DecoupledDecay):
    r"""Lion: the sign of a mix of gradient and momentum, with decoupled weight decay.

    .. math::
        p \leftarrow p - \eta \left(
            \operatorname{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda p
        \right), \qquad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    Every element moves by the learning rate: take a third to a tenth of Adam's, and three to ten
    times its decay. (Chen et al., Symbolic discovery of optimization algorithms, 2023.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.0001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.99.
        parameters: see `Optimizer`; groups may also set beta1, beta2.
        weight_decay: :math:`\lambda`, a number, or None for none. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0, 1.0]))
        >>> opt = roofstep.Lion(learning_rate=0.25, parameters=[w])
        >>> w.grad = np.array([8.0, -0.1])
        >>> opt.step()
        >>> w.data
        array([0.75, 1.25])
    """

    _settings: ClassVar = {"beta1": checks.fraction, "beta2": checks.fraction}

    def __init__(
        self,
        learning_rate: Rate = 1e-4,
        beta1: Number = 0.9,
        beta2: Number = 0.99,
        parameters: Parameters | None = None,
        weight_decay: Number | None = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            beta1=beta1,
            beta2=beta2,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "lion"


class Adagrad(Optimizer):
    r"""Adagrad: each element's rate falls with the sum of its squared gradients.

    .. math:: m \leftarrow m + g^2, \qquad p \leftarrow p - \eta \frac{g}{\sqrt{m} + \epsilon}

    A sparse gradient (`SelectedRows`, or torch's or Paddle's) moves the rows that it has, and with
    decay all rows, by the bits of the dense gradient. (Duchi, Hazan & Singer, Adaptive subgradient
    methods for online learning and stochastic optimization, 2011.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule.
        epsilon: :math:`\epsilon` >= 0. Default 1e-6.
        parameters: see `Optimizer`; groups may also set epsilon, initial_accumulator_value.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.
        initial_accumulator_value: what m begins with, >= 0. Default 0.0.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Adagrad(0.25, 0.0, [w], initial_accumulator_value=9.0)
        >>> w.grad = np.array([4.0])
        >>> opt.step()
        >>> w.data
        array([0.8])
    """

    _settings: ClassVar = {
        "epsilon": checks.non_negative,
        "initial_accumulator_value": checks.non_negative,
    }

    def __init__(
        self,
        learning_rate: Rate,
        epsilon: Number = 1e-6,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        initial_accumulator_value: Number = 0.0,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            epsilon=epsilon,
            initial_accumulator_value=initial_accumulator_value,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adagrad"

    def _absent(self, group: Mapping[str, Any]) -> str:
        return resting(group["epsilon"])

    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float:
        return float(group["initial_accumulator_value"])


class Adadelta(Optimizer):
    r"""Adadelta: the step has the units of the parameter, by running means of squares of both.

    .. math::
        a \leftarrow \rho a + (1 - \rho) g^2, \qquad
        d = g \sqrt{\frac{u + \epsilon}{a + \epsilon}}, \qquad
        u \leftarrow \rho u + (1 - \rho) d^2, \qquad
        p \leftarrow p - \eta d

    (Zeiler, ADADELTA: an adaptive learning rate method, 2012.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule; the paper has 1. Default 0.001.
        epsilon: :math:`\epsilon` >= 0. Default 1e-6.
        rho: :math:`\rho` in [0, 1). Default 0.95.
        parameters: see `Optimizer`; groups may also set epsilon, rho.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Adadelta(1.0, epsilon=0.25, rho=0.0, parameters=[w])
        >>> w.grad = np.array([0.0])
        >>> opt.step()
        >>> w.data
        array([1.])
    """

    _settings: ClassVar = {"epsilon": checks.non_negative, "rho": checks.fraction}

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        epsilon: Number = 1e-6,
        rho: Number = 0.95,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            epsilon=epsilon,
            rho=rho,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adadelta"


class RMSProp(Optimizer):
    r"""RMSProp: the gradient over its root mean square, with momentum, centered or not.

    .. math::
        s \leftarrow \rho s + (1 - \rho) g^2, \qquad
        v \leftarrow \mu v + \frac{\eta g}{\sqrt{s + \epsilon}}, \qquad
        p \leftarrow p - v

    As in Paddle, epsilon stands inside the root and the learning rate inside the momentum. With
    ``centered`` the square of a running mean of g is subtracted from s under the root.
    (Tieleman & Hinton, Lecture 6e of Neural networks for machine learning, 2012; Graves, Generating
    sequences with recurrent neural networks, 2013.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule.
        rho: :math:`\rho` in [0, 1). Default 0.95.
        epsilon: :math:`\epsilon` >= 0. Default 1e-6.
        momentum: :math:`\mu` >= 0. Default 0.0.
        centered: estimate the variance instead of the mean square. Default False.
        parameters: see `Optimizer`; groups may also set rho, epsilon, momentum, centered.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.RMSProp(0.25, rho=0.75, epsilon=0.0, parameters=[w])
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([0.5])
    """

    _settings: ClassVar = {
        "rho": checks.fraction,
        "epsilon": checks.non_negative,
        "momentum": checks.non_negative,
        "centered": checks.flag,
    }

    def __init__(
        self,
        learning_rate: Rate,
        rho: Number = 0.95,
        epsilon: Number = 1e-6,
        momentum: Number = 0.0,
        centered: bool = False,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            rho=rho,
            epsilon=epsilon,
            momentum=momentum,
            centered=centered,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "rmsprop_centered" if group["centered"] else "rmsprop"


class Adam(Optimizer):
    r"""Adam, with the gradient's running mean and running mean square.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}
                               {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    where t counts the updates of this parameter. With ``amsgrad`` the largest v so far stands in
    the place of v in the last formula. Weight decay is coupled: it is added to g.

    A sparse gradient (`SelectedRows`, or torch's or Paddle's) has only some rows R of g; the others
    are zeros, by which m, v and p go on to move. With ``lazy_mode`` the formulas are those of the
    rows that are there, and all else stays as it is:

    .. math::
        m_r, v_r, p_r \leftarrow m_r, v_r, p_r \qquad r \notin R

    decay included, while t counts on for all rows. Nothing is read or written for them, so that a
    step takes the time of the rows in R. Averages of weights are refused then.
    (Kingma & Ba, Adam: a method for stochastic optimization, 2015; Reddi et al., On the convergence
    of Adam and beyond, 2018.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon, lazy_mode,
            amsgrad.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        lazy_mode: a sparse gradient leaves rows without a gradient unchanged; see above. Default
            False.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        use_multi_tensor: either value: all parameters are stepped in one call.
        amsgrad: keep the maximum of v. Default False.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

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

        Of an embedding a batch touches a few rows:

        >>> table = roofstep.Parameter(np.ones((3, 2)))
        >>> opt = roofstep.Adam(0.25, parameters=[table], epsilon=0.0, lazy_mode=True)
        >>> table.grad = roofstep.SelectedRows(np.array([2]), np.array([[8.0, -8.0]]))
        >>> opt.step()
        >>> table.data
        array([[1.  , 1.  ],
               [1.  , 1.  ],
               [0.75, 1.25]])
    """

    _settings: ClassVar = {
        **_Adaptive._settings,
        "lazy_mode": checks.flag,
        "amsgrad": checks.flag,
    }

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta1: Number = 0.9,
        beta2: Number = 0.999,
        epsilon: Number = 1e-8,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        lazy_mode: bool = False,
        multi_precision: bool = False,
        use_multi_tensor: bool = False,
        amsgrad: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
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
            lazy_mode=lazy_mode,
            amsgrad=amsgrad,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "amsgrad" if group["amsgrad"] else "adam"

    def _absent(self, group: Mapping[str, Any]) -> str:
        return "left" if group["lazy_mode"] else "moved"


class AdamW(_DecoupledDecay, Adam):
    r"""Adam with decoupled weight decay: `Adam`'s update, and the weights shrink beside it.

    .. math::
        p \leftarrow p - \eta \left(
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p
        \right)

    m and v do not see the decay. A parameter's own regularizer is still added to its gradient, as
    in Paddle. Sparse gradients are taken as by `Adam`; with ``lazy_mode`` the rows that are not
    there do not decay. (Loshchilov & Hutter, Decoupled weight decay regularization, 2019.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon, lazy_mode,
            amsgrad.
        weight_decay: :math:`\lambda`, a number, or None for none. Default 0.01.
        use_lowprecision_moment: False; low-precision states do not exist yet.
        lr_ratio: a function of the parameter that gives a factor >= 0 on its learning rate, for
            layer-wise rates. Default None.
        apply_decay_param_fun: a function of the parameter's name that says whether it decays.
            Default None: all decay. Both functions are asked when settings have changed, not at
            every step.
        grad_clip: see `Optimizer`. Default None.
        lazy_mode: a sparse gradient leaves rows without a gradient unchanged. Default False.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        amsgrad: keep the maximum of v. Default False.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

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
        learning_rate: Rate = 0.001,
        beta1: Number = 0.9,
        beta2: Number = 0.999,
        epsilon: Number = 1e-8,
        parameters: Parameters | None = None,
        weight_decay: Number | None = 0.01,
        use_lowprecision_moment: bool = False,
        lr_ratio: Callable[[Parameter], Number] | None = None,
        apply_decay_param_fun: Callable[[str], bool] | None = None,
        grad_clip: Clip | None = None,
        lazy_mode: bool = False,
        multi_precision: bool = False,
        amsgrad: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
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
            skip_nonfinite=skip_nonfinite,
        )

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        l1, l2, decay = super()._decays(group, name, parameter)
        decays = self._decays_by_name is None or self._decays_by_name(name)
        return l1, l2, decay if decays else 0.0

    def _multiplier(self, name: str, parameter: Parameter) -> float:
        own = super()._multiplier(name, parameter)
        if self._lr_ratio is None:
            return own
        ratio = self._lr_ratio(parameter)
        return own * checks.non_negative(f"lr_ratio of parameter {name!r}", ratio)


class Lamb(_Adaptive):
    r"""LAMB: Adam of which each tensor's update is scaled to the length of the tensor.

    .. math::
        u = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p, \qquad
        p \leftarrow p - \eta\, \frac{\lVert p \rVert}{\lVert u \rVert}\, u

    with m and v as in `Adam`. For large batches. The ratio of the norms is 1 where one of them is
    0, and for parameters without this decay unless ``always_adapt``. It is taken in a pass of its
    own, so a step reads everything twice. (You et al., Large batch optimization for deep learning:
    training BERT in 76 minutes, 2020.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        lamb_weight_decay: :math:`\lambda`, a number. Default 0.01.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-6.
        parameters: see `Optimizer`; groups may also set lamb_weight_decay, beta1, beta2, epsilon,
            exclude_from_weight_decay_fn, always_adapt, but no weight_decay. A parameter's own
            regularizer is added to its gradient.
        grad_clip: see `Optimizer`. Default None.
        exclude_from_weight_decay_fn: a function of the parameter that says whether it is left out
            of the decay. It is asked when settings have changed, not at every step. Default None.
        multi_precision: either value: float32 and float64 are stepped in their own precision.
        always_adapt: scale the parameters without decay, too. Default False.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([4.0]))
        >>> opt = roofstep.Lamb(0.5, 0.0, epsilon=0.0, parameters=[w], always_adapt=True)
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([2.])
    """

    _settings: ClassVar = {
        **_Adaptive._settings,
        "lamb_weight_decay": checks.real,
        "exclude_from_weight_decay_fn": checks.optional(
            partial(checks.function, example="lambda parameter: False")
        ),
        "always_adapt": checks.flag,
    }
    _refused = ("weight_decay",)

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        lamb_weight_decay: Number = 0.01,
        beta1: Number = 0.9,
        beta2: Number = 0.999,
        epsilon: Number = 1e-6,
        parameters: Parameters | None = None,
        grad_clip: Clip | None = None,
        exclude_from_weight_decay_fn: Callable[[Parameter], bool] | None = None,
        multi_precision: bool = False,
        always_adapt: bool = False,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        checks.flag("multi_precision", multi_precision)
        Optimizer.__init__(
            self,
            learning_rate,
            parameters,
            None,
            grad_clip,
            name,
            skip_nonfinite=skip_nonfinite,
            lamb_weight_decay=lamb_weight_decay,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            exclude_from_weight_decay_fn=exclude_from_weight_decay_fn,
            always_adapt=always_adapt,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "lamb"

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        l1, l2, _ = super()._decays(group, name, parameter)
        excludes = group["exclude_from_weight_decay_fn"]
        excluded = excludes is not None and excludes(parameter)
        return l1, l2, 0.0 if excluded else group["lamb_weight_decay"]

    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool:
        return group["always_adapt"] or decay > 0


class Adamax(_Adaptive):
    r"""Adamax: Adam with a running maximum in the place of the root mean square.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        u \leftarrow \max(|g|, \beta_2 u + \epsilon), \qquad
        p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}{u}

    where t counts the updates of this parameter. (Kingma & Ba, Adam: a method for stochastic
    optimization, 2015, section 7.1; epsilon stands where Paddle has it.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0; with 0, an element whose gradients were all 0 becomes NaN.
            Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Adamax(learning_rate=0.25, parameters=[w])
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([0.75])
    """

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adamax"


class RAdam(_Adaptive):
    r"""Rectified Adam: momentum alone until the variance of Adam's scale is known well enough.

    .. math::
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \qquad
        p \leftarrow p - \eta \frac{m}{1 - \beta_1^t}
            \cdot \begin{cases}
                r_t \dfrac{\sqrt{1 - \beta_2^t}}{\sqrt{v} + \epsilon} & \rho_t > 5 \\
                1 & \text{else}
            \end{cases}

    .. math::
        r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
                         {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}

    with m and v as in `Adam`. (Liu et al., On the variance of the adaptive learning rate and
    beyond, 2020.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.RAdam(learning_rate=0.25, parameters=[w])
        >>> w.grad = np.array([2.0])
        >>> opt.step()
        >>> w.data
        array([0.5])
    """

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "radam"


class NAdam(Optimizer):
    r"""Adam with Nesterov momentum, whose strength grows with the steps.

    .. math::
        \mu_t = \beta_1 \left(1 - \tfrac{1}{2}\, 0.96^{t \psi}\right), \qquad
        P_t = \prod_{i \le t} \mu_i, \qquad
        p \leftarrow p - \eta\, \frac{
            \mu_{t+1} m / (1 - P_t \mu_{t+1}) + (1 - \mu_t) g / (1 - P_t)
        }{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with m and v as in `Adam`. (Dozat, Incorporating Nesterov momentum into Adam, 2016.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.002.
        beta1: :math:`\beta_1` in [0, 1). Default 0.9.
        beta2: :math:`\beta_2` in [0, 1). Default 0.999.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        momentum_decay: :math:`\psi` >= 0. Default 0.004.
        parameters: see `Optimizer`; groups may also set beta1, beta2, epsilon, momentum_decay.
        weight_decay: see `Optimizer`. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.NAdam(0.25, beta1=0.0, beta2=0.0, epsilon=0.0, parameters=[w])
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([0.75])
    """

    _settings: ClassVar = {**_Adaptive._settings, "momentum_decay": checks.non_negative}

    def __init__(
        self,
        learning_rate: Rate = 0.002,
        beta1: Number = 0.9,
        beta2: Number = 0.999,
        epsilon: Number = 1e-8,
        momentum_decay: Number = 0.004,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            momentum_decay=momentum_decay,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "nadam"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**group, **fading(group["momentum_decay"])}


class Adan(_DecoupledDecay):
    r"""Adan: Adam with Nesterov momentum by the change of the gradient, and decoupled decay.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) (g - g'), \qquad
        n \leftarrow \beta_3 n + (1 - \beta_3) \left(g + \beta_2 (g - g')\right)^2, \\
        p \leftarrow p - \eta \left(\frac{
            m / (1 - \beta_1^t) + \beta_2 v / (1 - \beta_2^t)
        }{\sqrt{n / (1 - \beta_3^t)} + \epsilon} + \lambda p\right)

    where :math:`g'` is the gradient of the update before; at the first one g - g' is 0. The betas
    are the parts that are kept, as in the authors' code; in the paper they are the rest of 1. The
    decay is that of AdamW (the authors' ``no_prox``). (Xie et al., Adan: adaptive Nesterov momentum
    algorithm for faster optimizing deep models, 2024.)

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule. Default 0.001.
        beta1: :math:`\beta_1` in [0, 1). Default 0.98.
        beta2: :math:`\beta_2` in [0, 1). Default 0.92.
        beta3: :math:`\beta_3` in [0, 1). Default 0.99.
        epsilon: :math:`\epsilon` >= 0. Default 1e-8.
        parameters: see `Optimizer`; groups may also set beta1, beta2, beta3, epsilon.
        weight_decay: :math:`\lambda`, a number, or None for none. Default None.
        grad_clip: see `Optimizer`. Default None.
        name: shown in the repr.
        skip_nonfinite: see `Optimizer`. Default False.

    Raises:
        TypeError, ValueError: see `Optimizer`; a setting is out of its range.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([1.0]))
        >>> opt = roofstep.Adan(0.25, epsilon=0.0, parameters=[w])
        >>> w.grad = np.array([8.0])
        >>> opt.step()
        >>> w.data
        array([0.75])
    """

    _settings: ClassVar = {**_Adaptive._settings, "beta3": checks.fraction}

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta1: Number = 0.98,
        beta2: Number = 0.92,
        beta3: Number = 0.99,
        epsilon: Number = 1e-8,
        parameters: Parameters | None = None,
        weight_decay: Number | None = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            name,
            beta1=beta1,
            beta2=beta2,
            beta3=beta3,
            epsilon=epsilon,
            skip_nonfinite=skip_nonfinite,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adan"
