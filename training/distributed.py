"""Several processes that train one network together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ["Workers"]


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes
    ----------
    rank, count : int
        Number of this process, from 0, and of all. Alone: 0 of 1.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str | torch.device = "cpu") -> Workers:
        """Meet the processes that torchrun started (it sets RANK and WORLD_SIZE); without torchrun, be alone.

        On GPUs they talk by NCCL, else by Gloo.
        """
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            gpu = torch.device(device).type == "cuda"
            if gpu:
                torch.cuda.set_device(cls.own_device("cuda"))
            # The others wait while the first one makes a bank of attacks, which takes more than the usual timeouts.
            dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1))
        return cls(dist.get_rank(), dist.get_world_size())

    @staticmethod
    def own_device(device: str) -> str:
        """``cuda`` becomes this process's own card (torchrun's LOCAL_RANK)."""
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process runs the block, then the others do: what it writes they can read."""
        if self.count > 1 and not self.first:
            dist.barrier()
        yield
        if self.count > 1 and self.first:
            dist.barrier()

    def any(self, mine: bool) -> bool:
        """Whether it holds in any process; every process must ask."""
        if self.count == 1:
            return mine
        flag = torch.tensor(float(mine), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag > 0)

    def leave(self) -> None:
        """Part from the others."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()
