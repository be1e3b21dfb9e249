"""What torch's tensors need said: which can be parameters, and that autograd counts writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from roofstep.tensors import Rows, TensorParameter, as_numbers


class TorchParameter(TensorParameter):
    """A torch tensor as a parameter; see `TensorParameter`.

    A tensor with ``requires_grad=False`` has no gradient, so that no step changes it; one that it
    still holds is used, as in torch.

    Example:
        >>> import roofstep, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = roofstep.Adam(0.1, parameters=model.parameters())
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> opt.step()
        >>> opt.parameters[0]
        Parameter(name=None, shape=(1, 2), dtype=torch.float32)
        >>> opt.parameters[0].data is model.weight
        True
    """

    __slots__ = ()

    counts_writes = True

    def as_own(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """A tensor over the array's memory."""
        return torch.from_numpy(array)


def as_parameter(tensor: torch.Tensor) -> TorchParameter:
    """The parameter of a tensor.

    Raises:
        ValueError: it was computed from others, and has no gradient of its own.
    """
    if not tensor.is_leaf and not tensor.retains_grad:
        raise ValueError(
            f"parameters: expected leaf tensors, got one of shape {tuple(tensor.shape)} that was "
            f"computed from others; pass those, or tensor.detach().requires_grad_()"
        )
    if tensor.is_neg():
        raise ValueError(
            f"parameters: expected tensors whose memory holds their values, got a lazily negated "
            f"view of shape {tuple(tensor.shape)}; pass tensor.resolve_neg()"
        )
    return TorchParameter(tensor)


def rows_of(gradient: torch.Tensor, who: str) -> Rows | None:
    """The rows of a COO gradient, as they lie in memory; see `roofstep.tensors.rows_of`."""
    if gradient.layout is torch.strided or gradient.device.type != "cpu":
        return None
    if gradient.layout is not torch.sparse_coo or gradient.sparse_dim() != 1:
        raise ValueError(
            f"{who}: expected a dense gradient, or rows of one in a sparse COO tensor with "
            f"sparse_dim 1, got a sparse tensor of layout {gradient.layout} with sparse_dim "
            f"{gradient.sparse_dim()}; pass its to_dense()"
        )
    return as_numbers(gradient._indices()[0].numpy()), gradient._values(), gradient.shape[0]


def count_writes(tensors: list[torch.Tensor]) -> None:
    """Moves their version counters on, so that a backward pass that needs old values refuses."""
    torch.autograd.graph.increment_version(tensors)
