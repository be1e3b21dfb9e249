"""The optimizers for torch: what each is called with, as torch has it, and its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch.optim.optimizer import ParamsT

from roofstep import checks
from roofstep.optimizers import fading, resting
from roofstep.parameter import Parameter
from roofstep.torch.optimizer import Group, Optimizer, Run
from roofstep.torch.state import as_number
from roofstep.types import Clip, Number

# Two settings in one; a tensor has one element.
Two: TypeAlias = Sequence[Number | torch.Tensor]


def _defaults(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the local variables of a constructor the settings of its groups."""
    others = (
        *("self", "__class__", "params"),
        *("grad_clip", "step_in_backward", "skip_nonfinite"),
    )
    return {name: value for name, value in arguments.items() if name not in others}


def _betas(name: str, value: Any) -> tuple[float, float]:
    first, second = _two(name, value)
    return checks.fraction(f"{name}[0]", first), checks.fraction(f"{name}[1]", second)


def _etas(name: str, value: Any) -> tuple[float, float]:
    shrink, grow = _two(name, value)
    return checks.real(f"{name}[0]", shrink, "(0, 1)"), checks.real(f"{name}[1]", grow, "(1, inf)")


def _step_sizes(name: str, value: Any) -> tuple[float, float]:
    return checks.pair(name, _two(name, value), "(0, inf)", "(0, inf)")


def _two(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name}: expected two numbers, got {checks.shown(value)}; pass (a, b)")
    return as_number(f"{name}[0]", value[0]), as_number(f"{name}[1]", value[1])


class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum if asked for.

    .. math::
        v \leftarrow \mu v + (1 - \tau) g, \qquad
        p \leftarrow p - \eta v \quad\text{or}\quad p \leftarrow p - \eta (g + \mu v)

    the second with Nesterov's momentum; g has the decay :math:`\lambda p` in it, and v begins as
    the first g. (Sutskever et al., On the importance of initialization and momentum in deep
    learning, 2013.)

    Args:
        params: an iterable of tensors, of pairs with their names, or of dicts with ``params`` and
            settings of their own. Tensors are dense, of float32 or float64, in the CPU's memory.
            Without momentum, gradients may be sparse COO tensors, as of an embedding.
        lr: :math:`\eta` >= 0, a number or a tensor of one element, read at every step.
        momentum: :math:`\mu` >= 0.
        dampening: :math:`\tau`.
        weight_decay: :math:`\lambda` >= 0.
        nesterov: whether the step looks ahead; takes a momentum above 0, and no dampening.
        maximize: whether the gradient is followed upwards.
        foreach: accepted in any value: all parameters are always stepped in one call.
        differentiable: False; True is refused.
        fused: accepted in any value: the step is always fused.
        grad_clip: `roofstep.ClipGradByGlobalNorm`, `roofstep.ClipGradByNorm`,
            `roofstep.ClipGradByValue`, or None. It clips inside the step; ``last_grad_norm`` tells
            the norm.
        step_in_backward: True updates each parameter inside the backward pass, as soon as its
            gradient is complete, and drops the gradient. Not for a global norm, for gradients
            added up over several backward passes, for losses scaled by a GradScaler, or for
            backward passes in several threads at once. What is thawed later takes part from the
            next ``step`` on.
        skip_nonfinite: True skips a step as a whole if an element of any gradient is infinite or
            NaN; see `roofstep.Optimizer`. ``last_step_applied`` tells a schedule, and
            ``skipped_steps`` counts, also the steps that a GradScaler skips. Not together with
            step_in_backward.

    Raises:
        TypeError, ValueError: a setting or a parameter is none that can be stepped.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> opt = roofstep.torch.SGD([w], lr=0.25, momentum=0.5)
        >>> for _ in range(2):
        ...     opt.zero_grad()
        ...     (w**2).sum().backward()
        ...     opt.step()
        >>> w.tolist()
        [0.0, 0.0]
        >>> opt.state[w]["momentum_buffer"].tolist()
        [2.0, 4.0]
    """

    _settings: ClassVar = {
        "momentum": checks.non_negative,
        "dampening": checks.real,
        "weight_decay": checks.non_negative,
        "nesterov": checks.flag,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"velocity": "momentum_buffer"}
    _keeps_step: ClassVar = False

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-3,
        momentum: Number = 0,
        dampening: Number = 0,
        weight_decay: Number | torch.Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _complete(self, group: Group, parameters: Any) -> Group:
        made = super()._complete(group, parameters)
        if made["nesterov"] and (made["momentum"] == 0 or made["dampening"] != 0):
            raise ValueError(
                f"nesterov: expected a momentum above 0 and no dampening with it, got "
                f"momentum={made['momentum']}, dampening={made['dampening']}; set them, or leave "
                f"nesterov out"
            )
        return made

    def _rule(self, group: Mapping[str, Any]) -> str:
        if group["momentum"] == 0:
            return "sgd"
        if group["dampening"] != 0:
            return "dampened_momentum"
        return "nesterov" if group["nesterov"] else "momentum"

    def _absent(self, group: Mapping[str, Any]) -> str:
        return "resting" if group["momentum"] == 0 else "refused"


class _Adaptive(Optimizer):
    """What the relatives of Adam share."""

    _settings: ClassVar = {
        "betas": _betas,
        "eps": checks.non_negative,
        "weight_decay": checks.non_negative,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"moment1": "exp_avg", "moment2": "exp_avg_sq"}

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        return {"beta1": beta1, "beta2": beta2, "epsilon": group["eps"]}


class Adam(_Adaptive):
    r"""Adam.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    where g has the decay :math:`\lambda p` in it. (Kingma & Ba, Adam: a method for stochastic
    optimization, 2015.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon` >= 0.
        weight_decay: :math:`\lambda` >= 0.
        amsgrad: whether the largest v so far stands in the place of v. (Reddi et al., On the
            convergence of Adam and beyond, 2018.)
        foreach: see `SGD`.
        maximize: see `SGD`.
        capturable: False; True is refused.
        differentiable: see `SGD`.
        fused: see `SGD`.
        decoupled_weight_decay: whether the decay is that of `AdamW`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep, roofstep.torch, torch
        >>> model = torch.nn.Linear(3, 1)
        >>> clip = roofstep.ClipGradByGlobalNorm(1.0)
        >>> opt = roofstep.torch.Adam(model.parameters(), lr=0.01, grad_clip=clip)
        >>> model(torch.ones(8, 3)).sum().backward()
        >>> opt.step()
        >>> opt.last_grad_norm
        16.0
    """

    _settings: ClassVar = {
        **_Adaptive._settings,
        "amsgrad": checks.flag,
        "decoupled_weight_decay": checks.flag,
    }
    _names: ClassVar = {**_Adaptive._names, "moment2_max": "max_exp_avg_sq"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-3,
        betas: Two = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "amsgrad" if group["amsgrad"] else "adam"


class AdamW(Adam):
    r"""Adam with decoupled weight decay: the gradient does not see it.

    .. math::
        p \leftarrow p - \eta \left( \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda p \right)

    (Loshchilov & Hutter, Decoupled weight decay regularization, 2019.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        betas: see `Adam`.
        eps: see `Adam`.
        weight_decay: :math:`\lambda` >= 0.
        amsgrad: see `Adam`.
        maximize: see `SGD`.
        foreach: see `SGD`.
        capturable: see `Adam`.
        differentiable: see `SGD`.
        fused: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = roofstep.torch.AdamW(model.parameters(), lr=0.01, step_in_backward=True)
        >>> before = model.bias.item()
        >>> model(torch.ones(8, 3)).sum().backward()  # updates, too
        >>> model.bias.item() < before, model.bias.grad
        (True, None)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-3,
        betas: Two = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            grad_clip=grad_clip,
            step_in_backward=step_in_backward,
            skip_nonfinite=skip_nonfinite,
        )


class NAdam(_Adaptive):
    r"""Adam with Nesterov's momentum.

    .. math::
        \mu_t = \beta_1 \left(1 - \tfrac{1}{2}\, 0.96^{t \psi}\right), \qquad
        P_t = \prod_{i \le t} \mu_i, \qquad
        p \leftarrow p - \eta\, \frac{
            \mu_{t+1} m / (1 - P_{t+1}) + (1 - \mu_t) g / (1 - P_t)
        }{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with the moments of `Adam`. (Dozat, Incorporating Nesterov momentum into Adam, 2016.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        betas: see `Adam`.
        eps: see `Adam`.
        weight_decay: see `Adam`.
        momentum_decay: :math:`\psi` >= 0.
        decoupled_weight_decay: see `Adam`.
        foreach: see `SGD`.
        maximize: see `SGD`.
        capturable: see `Adam`.
        differentiable: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.NAdam([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> bool(w < 2.0), opt.state[w]["step"].item()
        (True, 1.0)
    """

    _settings: ClassVar = {
        **_Adaptive._settings,
        "momentum_decay": checks.non_negative,
        "decoupled_weight_decay": checks.flag,
    }
    _number: ClassVar = "mu_product"

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 2e-3,
        betas: Two = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        momentum_decay: Number = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "nadam"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._fields(group), **fading(group["momentum_decay"])}


class RAdam(_Adaptive):
    r"""Rectified Adam: momentum alone until the variance of Adam's scale is known well enough.

    .. math::
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \qquad
        p \leftarrow p - \eta\, \hat m\, r_t \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v} + \epsilon}
        \text{ if } \rho_t > 5, \text{ else } p - \eta\, \hat m

    where :math:`r_t^2 = (\rho_t - 4)(\rho_t - 2) \rho_\infty / ((\rho_\infty - 4)(\rho_\infty - 2)
    \rho_t)`. (Liu et al., On the variance of the adaptive learning rate and beyond, 2020.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        betas: see `Adam`.
        eps: see `Adam`.
        weight_decay: see `Adam`.
        decoupled_weight_decay: see `Adam`.
        foreach: see `SGD`.
        maximize: see `SGD`.
        capturable: see `Adam`.
        differentiable: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.RAdam([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        0.0
    """

    _settings: ClassVar = {**_Adaptive._settings, "decoupled_weight_decay": checks.flag}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-3,
        betas: Two = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "radam"


class Adamax(_Adaptive):
    r"""Adam by the infinity norm.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        u \leftarrow \max(\beta_2 u, |g| + \epsilon), \qquad
        p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}{u}

    (Kingma & Ba, Adam: a method for stochastic optimization, 2015, section 7.1.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        betas: see `Adam`.
        eps: see `Adam`.
        weight_decay: see `Adam`; coupled.
        foreach: see `SGD`.
        maximize: see `SGD`.
        differentiable: see `SGD`.
        capturable: see `Adam`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.Adamax([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        1.5
    """

    _names: ClassVar = {"moment": "exp_avg", "inf_norm": "exp_inf"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 2e-3,
        betas: Two = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adamax_padded"


class RMSprop(Optimizer):
    r"""The gradient over its root mean square.

    .. math::
        s \leftarrow \alpha s + (1 - \alpha) g^2, \qquad
        v \leftarrow \mu v + \frac{g}{\sqrt{s} + \epsilon}, \qquad
        p \leftarrow p - \eta v

    where g has the decay :math:`\lambda p` in it. (Tieleman & Hinton, Neural networks for machine
    learning, lecture 6e, 2012; centered: Graves, Generating sequences with recurrent neural
    networks, 2013.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        alpha: :math:`\alpha` >= 0.
        eps: :math:`\epsilon` >= 0.
        weight_decay: :math:`\lambda` >= 0.
        momentum: :math:`\mu` >= 0.
        centered: whether the square of the mean gradient is taken off s under the root.
        capturable: see `Adam`.
        foreach: see `SGD`.
        maximize: see `SGD`.
        differentiable: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.RMSprop([w], lr=0.5, alpha=0.75)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        1.0
    """

    _settings: ClassVar = {
        "alpha": checks.non_negative,
        "eps": checks.non_negative,
        "weight_decay": checks.non_negative,
        "momentum": checks.non_negative,
        "centered": checks.flag,
        "maximize": checks.flag,
    }
    _names: ClassVar = {
        "mean_square": "square_avg",
        "mean_grad": "grad_avg",
        "momentum": "momentum_buffer",
    }

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-2,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        momentum: Number = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        over = "over_deviation" if group["centered"] else "over_rms"
        return over if group["momentum"] == 0 else f"{over}_momentum"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {"rho": group["alpha"], "epsilon": group["eps"], "momentum": group["momentum"]}


class Adagrad(Optimizer):
    r"""Adagrad.

    .. math::
        s \leftarrow s + g^2, \qquad
        p \leftarrow p - \frac{\eta}{1 + (t - 1) \tau} \frac{g}{\sqrt{s} + \epsilon}

    where g has the decay :math:`\lambda p` in it. (Duchi, Hazan & Singer, Adaptive subgradient
    methods for online learning and stochastic optimization, 2011.)

    Args:
        params: see `SGD`; gradients may be sparse COO tensors.
        lr: see `SGD`.
        lr_decay: :math:`\tau` >= 0.
        weight_decay: :math:`\lambda` >= 0.
        initial_accumulator_value: what s begins with, >= 0.
        eps: :math:`\epsilon` >= 0.
        foreach: see `SGD`.
        maximize: see `SGD`.
        differentiable: see `SGD`.
        fused: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.Adagrad([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item(), opt.state[w]["sum"].item()
        (1.5, 16.0)
    """

    _settings: ClassVar = {
        "lr_decay": checks.non_negative,
        "eps": checks.non_negative,
        "weight_decay": checks.non_negative,
        "initial_accumulator_value": checks.non_negative,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"moment": "sum"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-2,
        lr_decay: Number = 0,
        weight_decay: Number = 0,
        initial_accumulator_value: Number = 0,
        eps: Number = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)
        run = self._current(None)  # torch, too, has all states before the first step
        self.state.update(self._new_states(run, range(len(run.tensors))))

    def share_memory(self) -> None:
        """Move the states to shared memory, for processes that train together."""
        for own in self.state.values():
            own["sum"].share_memory_()

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adagrad_slowing" if group["lr_decay"] else "adagrad"

    def _absent(self, group: Mapping[str, Any]) -> str:
        # Without decay torch leaves them, whatever an epsilon of 0 makes of zeros.
        return resting(group["eps"]) if group["weight_decay"] else "left"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {"epsilon": group["eps"], "lr_decay": group["lr_decay"]}

    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float:
        return float(group["initial_accumulator_value"])


class Adadelta(Optimizer):
    r"""Adadelta.

    .. math::
        a \leftarrow \rho a + (1 - \rho) g^2, \qquad
        d = \sqrt{\frac{u + \epsilon}{a + \epsilon}}\, g, \qquad
        u \leftarrow \rho u + (1 - \rho) d^2, \qquad
        p \leftarrow p - \eta d

    where g has the decay :math:`\lambda p` in it. (Zeiler, ADADELTA: an adaptive learning rate
    method, 2012.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        rho: :math:`\rho` in [0, 1].
        eps: :math:`\epsilon` >= 0.
        weight_decay: :math:`\lambda` >= 0.
        foreach: see `SGD`.
        capturable: see `Adam`.
        maximize: see `SGD`.
        differentiable: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.Adadelta([w])
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> bool(w < 2.0), sorted(opt.state[w])
        (True, ['acc_delta', 'square_avg', 'step'])
    """

    _settings: ClassVar = {
        "rho": lambda name, value: checks.real(name, value, "[0, 1]"),
        "eps": checks.non_negative,
        "weight_decay": checks.non_negative,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"_avg_squared_grad": "square_avg", "_avg_squared_update": "acc_delta"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1.0,
        rho: Number = 0.9,
        eps: Number = 1e-6,
        weight_decay: Number = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adadelta"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {"rho": group["rho"], "epsilon": group["eps"]}


class Rprop(Optimizer):
    r"""Resilient backpropagation, for full batches: steps by the sign of the gradient alone.

    .. math::
        s \leftarrow \operatorname{clip}(\eta s, s_{\min}, s_{\max}), \qquad
        \eta = \begin{cases}
            \eta^+ & g\, g' > 0 \\
            \eta^- & g\, g' < 0, \text{ and then } g \leftarrow 0 \\
            1 & \text{else}
        \end{cases} \qquad
        p \leftarrow p - \operatorname{sign}(g)\, s

    with the gradient :math:`g'` of the step before. (Riedmiller & Braun, A direct adaptive method
    for faster backpropagation learning: the RPROP algorithm, 1993.)

    Args:
        params: see `SGD`.
        lr: what s begins with; see `SGD`.
        etas: :math:`(\eta^-, \eta^+)`, below and above 1.
        step_sizes: :math:`(s_{\min}, s_{\max})`, above 0.
        capturable: see `Adam`.
        foreach: see `SGD`.
        maximize: see `SGD`.
        differentiable: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.Rprop([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        1.5
    """

    _settings: ClassVar = {"etas": _etas, "step_sizes": _step_sizes, "maximize": checks.flag}
    _names: ClassVar = {"prevs": "prev", "learning_rates": "step_size"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-2,
        etas: Two = (0.5, 1.2),
        step_sizes: Two = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "rprop"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        pairs = {"learning_rate_range": group["step_sizes"], "etas": group["etas"]}
        return {f"{name}[{i}]": pair[i] for name, pair in pairs.items() for i in range(2)}

    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float:
        return 0.0 if state == "prevs" else self._rate(group["of"])


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent.

    .. math::
        p \leftarrow p - \eta_t (g + \lambda p), \qquad
        \bar p \leftarrow \bar p + \mu_t (p - \bar p), \qquad
        \eta_{t+1} = \frac{\eta}{(1 + \lambda \eta t)^\alpha}, \qquad
        \mu_{t+1} = \frac{1}{\max(1, t - t_0)}

    beginning with :math:`\eta_1 = \eta, \mu_1 = 1`; :math:`\bar p` is the state ``ax``. (Polyak &
    Juditsky, Acceleration of stochastic approximation by averaging, 1992.) It is not the ASGD of
    roofstep and Paddle, which is a stochastic average gradient.

    Args:
        params: see `SGD`.
        lr: see `SGD`; it takes effect a step later, but for the first.
        lambd: :math:`\lambda`.
        alpha: :math:`\alpha`.
        t0: :math:`t_0`, after how many steps averaging begins.
        weight_decay: coupled, beside :math:`\lambda`, >= 0.
        foreach: see `SGD`.
        maximize: see `SGD`.
        differentiable: see `SGD`.
        capturable: see `Adam`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.ASGD([w], lr=0.25, lambd=0.0, t0=0)
        >>> for _ in range(3):
        ...     w.grad = torch.tensor([2.0])
        ...     opt.step()
        >>> w.item(), opt.state[w]["ax"].item()
        (0.5, 0.75)
    """

    _settings: ClassVar = {
        "lambd": checks.real,
        "alpha": checks.real,
        "t0": checks.real,
        "weight_decay": checks.non_negative,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"ax": "ax"}
    _number: ClassVar = "eta"

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-2,
        lambd: Number = 1e-4,
        alpha: Number = 0.75,
        t0: Number = 1e6,
        weight_decay: Number = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "averaged_sgd"

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        return 0.0, group["weight_decay"], group["lambd"]

    def _first_number(self, group: Mapping[str, Any]) -> float:
        return self._rate(group)

    def _scalars(self) -> list[str]:
        return [*super()._scalars(), "mu"]

    def _foresee(self, run: Run) -> None:
        begins = np.array([group["t0"] for group in run.groups])
        run.rows["mu"].numbers[...] = 1 / np.maximum(1, run.counts + 1 - begins)


class Lion(Optimizer):
    r"""Lion: steps by the sign of a mean gradient.

    .. math::
        p \leftarrow p - \eta
            \left(\operatorname{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda p\right), \qquad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    (Chen et al., Symbolic discovery of optimization algorithms, 2023.)

    Args:
        params: see `SGD`.
        lr: see `SGD`; a tenth to a third of what suits `AdamW`.
        betas: see `Adam`.
        weight_decay: :math:`\lambda` >= 0, decoupled; three to ten times what suits `AdamW`.
        maximize: see `SGD`.
        foreach: see `SGD`.
        capturable: see `Adam`.
        differentiable: see `SGD`.
        fused: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.Lion([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        1.5
    """

    _settings: ClassVar = {
        "betas": _betas,
        "weight_decay": checks.non_negative,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"moment": "exp_avg"}
    _keeps_step: ClassVar = False

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-4,
        betas: Two = (0.9, 0.99),
        weight_decay: Number = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "lion"

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        return 0.0, 0.0, group["weight_decay"]

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        return {"beta1": beta1, "beta2": beta2}


class Lamb(_Adaptive):
    r"""LAMB: Adam of which each tensor's update is scaled to the tensor's own length.

    .. math::
        r = \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda p, \qquad
        p \leftarrow p - \eta \frac{\lVert p \rVert}{\lVert r \rVert} r

    with the moments of `Adam`; the ratio is 1 where a norm is 0. (You et al., Large batch
    optimization for deep learning: training BERT in 76 minutes, 2020.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        betas: see `Adam`.
        eps: see `Adam`.
        weight_decay: :math:`\lambda` >= 0.
        always_adapt: whether the ratio is taken without decay, too, where it else is 1.
        maximize: see `SGD`.
        foreach: see `SGD`.
        capturable: see `Adam`.
        differentiable: see `SGD`.
        fused: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.Lamb([w], lr=0.5)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        1.0
    """

    _settings: ClassVar = {**_Adaptive._settings, "always_adapt": checks.flag}

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-3,
        betas: Two = (0.9, 0.999),
        eps: Number = 1e-6,
        weight_decay: Number = 1e-2,
        always_adapt: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "lamb"

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        return 0.0, 0.0, group["weight_decay"]

    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool:
        return group["always_adapt"] or decay > 0


class LARS(Optimizer):
    r"""LARS: momentum, each tensor's gradient being scaled to a part of the tensor's length.

    .. math::
        r = c\, \frac{\lVert p \rVert}{\lVert g \rVert + \lambda \lVert p \rVert + \epsilon}, \qquad
        v \leftarrow \mu v + \eta r (g + \lambda p), \qquad
        p \leftarrow p - v

    where r is 1 if a norm is 0. (You, Gitman & Ginsburg, Large batch training of convolutional
    networks, 2017.)

    Args:
        params: see `SGD`.
        lr: see `SGD`.
        momentum: :math:`\mu` >= 0.
        weight_decay: :math:`\lambda` >= 0.
        trust_coefficient: c, above 0.
        eps: :math:`\epsilon` >= 0.
        always_adapt: whether r is taken without decay, too, where it else is 1.
        maximize: see `SGD`.
        foreach: see `SGD`.
        capturable: see `Adam`.
        differentiable: see `SGD`.
        fused: see `SGD`.
        grad_clip: see `SGD`.
        step_in_backward: see `SGD`.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: see `SGD`.

    Example:
        >>> import roofstep.torch, torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> opt = roofstep.torch.LARS([w], 0.5, trust_coefficient=1.0, always_adapt=True, eps=0)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> w.item()
        1.0
    """

    _settings: ClassVar = {
        "momentum": checks.non_negative,
        "weight_decay": checks.non_negative,
        "trust_coefficient": checks.positive,
        "eps": checks.non_negative,
        "always_adapt": checks.flag,
        "maximize": checks.flag,
    }
    _names: ClassVar = {"velocity": "momentum_buffer"}
    _keeps_step: ClassVar = False

    def __init__(
        self,
        params: ParamsT,
        lr: Number | torch.Tensor = 1e-3,
        momentum: Number = 0.9,
        weight_decay: Number = 0,
        trust_coefficient: Number = 1e-3,
        eps: Number = 1e-8,
        always_adapt: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        grad_clip: Clip | None = None,
        step_in_backward: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(params, _defaults(locals()), grad_clip, step_in_backward, skip_nonfinite)

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "lars"

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "momentum": group["momentum"],
            "lars_coeff": group["trust_coefficient"],
            "epsilon": group["eps"],
        }

    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool:
        return group["always_adapt"] or l2 > 0
