"""DeepSpeed's optimizers for CPUs, on torch parameters, clipped by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.peers import in_torch

REQUIRES = ("torch", "deepspeed")
INSTALL = "deepspeed (after torch; with ninja and g++, its kernels are compiled when first used)"
ARRAYS = "torch"
VARIANTS = {"DeepSpeed": ("Adam", "AdamW", "Adagrad", "Lion")}
DIFFERS = {"Adagrad": "leaves its update in the last gradients of each tensor"}


class Tensors(in_torch.Tensors):
    """torch's."""

    def step_of(self, variant: str, optimizer: str, clipped: bool) -> Callable[[], Any]:
        from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        from deepspeed.ops.lion import DeepSpeedCPULion

        cls = {"Adagrad": DeepSpeedCPUAdagrad, "Lion": DeepSpeedCPULion}.get(
            optimizer, DeepSpeedCPUAdam
        )
        way = {"adamw_mode": optimizer == "AdamW"} if cls is DeepSpeedCPUAdam else {}
        made = cls(self.parameters, **in_torch.arguments_of(optimizer), **way)
        return in_torch.clipping(self.parameters, made.step) if clipped else made.step
