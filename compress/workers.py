"""Data-parallel training over the processes of ``paddle.distributed.launch``.

Every worker sees the same list of batches and takes its share of each one's utterances, so that
the workers together take the very steps that one process takes with the whole batch. Gradients are
summed by hand instead of by ``paddle.DataParallel``: that one averages per worker, which is not
the mean over utterances where shares differ in size, and it wants one forward per step, which
distillation is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asrcompress.paddle_imports import import_paddle


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """This process among its fellows; a plain run is worker 0 of 1."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker writes the run directory."""
        return self.rank == 0

    def share(self, items: list[int]) -> list[int]:
        """This worker's part of a batch, as even as can be."""
        return items[self.rank :: self.count]

    def sum_gradients(self, parameters: Iterable[Any]) -> None:
        """Add up the gradients of all workers, in place; one without a share counts as zero.

        A parameter without a gradient anywhere keeps none, or weight decay would change what the
        loss does not depend on.
        """
        if self.count == 1:
            return
        paddle = import_paddle()
        listed = list(parameters)
        used = self.totals([float(parameter.grad is not None) for parameter in listed])
        for parameter, workers_with_gradient in zip(listed, used, strict=True):
            if workers_with_gradient:
                gradient = parameter.grad
                if gradient is None:
                    gradient = paddle.zeros_like(parameter)
                paddle.distributed.all_reduce(gradient)
                parameter.grad = gradient

    def average(self, tensors: Iterable[Any]) -> None:
        """Replace `tensors` by their mean over the workers, in place."""
        if self.count == 1:
            return
        paddle = import_paddle()
        for tensor in tensors:
            paddle.distributed.all_reduce(tensor)
            tensor.set_value(tensor / self.count)

    def totals(self, values: list[float]) -> list[float]:
        """Sums of some numbers over the workers."""
        if self.count == 1:
            return values
        paddle = import_paddle()
        tensor = paddle.to_tensor(values, dtype="float64")
        paddle.distributed.all_reduce(tensor)
        return [float(item) for item in tensor.numpy()]

    def wait(self) -> None:
        """Until all workers are here."""
        if self.count > 1:
            import_paddle().distributed.barrier()


def join_workers() -> Workers:
    """Join the group that ``paddle.distributed.launch`` started, if it did.

    Gloo on a CPU, NCCL on GPUs; Paddle chooses by its build and the devices.
    """
    count = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if count == 1:
        return Workers()
    distributed = import_paddle().distributed
    if not distributed.is_initialized():
        distributed.init_parallel_env()
    return Workers(rank=distributed.get_rank(), count=count)
