"""The few collectives training needs; with one process every one of them is a no-op."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def backend_for(device: str | torch.device) -> str:
    """The backend of collectives on a device: that of the device used, not of one that is there.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    str

    Example
    -------
    >>> backend_for("cuda:1"), backend_for("cpu")
    ('nccl', 'gloo')
    """
    return "nccl" if torch.device(device).type == "cuda" else "gloo"


class Ranks:
    """This process among those of a ``torchrun`` launch.

    Control messages (counts, stop flags) go through gloo on the host, so that they never wait for a
    GPU; gradients go through the backend of the device that trains.

    Parameters
    ----------
    device : str or torch.device
        Where this process trains. The first to be made in a launch begins it.

    Attributes
    ----------
    rank, world : int
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._control = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group(backend_for(device))
        self.active = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if self.active else 0
        self.world = dist.get_world_size() if self.active else 1
        if self.active and dist.get_backend() != "gloo":
            self._control = dist.new_group(backend="gloo")
        # The default group, unless others began the launch for GPUs and this trains on the host.
        self._data = self._control if backend_for(device) == "gloo" else None

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum of host numbers over ranks."""
        if not self.active:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._control)
        return tensor.tolist()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Element-wise sum of a device tensor over ranks, in place."""
        if self.active:
            dist.all_reduce(tensor, group=self._data)
        return tensor

    def gather(self, value: object) -> list:
        """One object per rank, in rank order, on every rank."""
        if not self.active:
            return [value]
        out: list = [None] * self.world
        dist.all_gather_object(out, value, group=self._control)
        return out

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.active:
            dist.barrier(group=self._control)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], extra: Tensor) -> Tensor:
        """Add up gradients, and one more number, over ranks in a single collective.

        A parameter that no micro-batch of the window reached (no speech in it) counts as zero, so
        ranks never wait for one another and the number of ranks never changes the step.

        Parameters
        ----------
        parameters : sequence of Parameter
            Their ``grad`` is replaced by the sum.
        extra : Tensor ()

        Returns
        -------
        Tensor ()
            The sum of ``extra``.
        """
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not self.active:
            return extra
        flat = torch.cat([*(p.grad.reshape(-1) for p in parameters), extra.reshape(1)])
        dist.all_reduce(flat, group=self._data)
        position = 0
        for parameter in parameters:
            size = parameter.numel()
            parameter.grad.copy_(flat[position : position + size].view_as(parameter))
            position += size
        return flat[-1]
