"""One launch by its plan."""

from __future__ import annotations

from typing import Any

from immunecam.kernels.cuda.launch_plan import Launch
from immunecam.kernels.cuda.programs import Programs

__all__ = ["launch"]


def launch(programs: Programs, plan: Launch, stream: Any, *arguments: Any) -> None:
    """Launch a kernel on a stream or a graph builder.

    Parameters
    ----------
    *arguments
        Buffers, addresses as Python integers, None for a null pointer, and NumPy scalars of the kernel's types.
    """
    from cuda import core

    config = core.LaunchConfig(
        grid=plan.grid, block=plan.block, shmem_size=plan.shared, is_cooperative=plan.cooperative
    )
    core.launch(stream, config, programs.kernel(plan.kernel), *(_passed(argument) for argument in arguments))


def _passed(argument: Any) -> Any:
    """cuda.core passes a Python integer as an address, and NumPy scalars as they are."""
    if argument is None:
        return 0
    return int(argument.handle) if hasattr(argument, "handle") else argument
