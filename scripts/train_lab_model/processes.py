"""Train in several processes of one thread each, on shares of a batch.

On a busy CPU that loses far less than threads do: threads wait for each other at every operation,
processes once per step, when they average their gradients.
"""

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.multiprocessing import get_context

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # of one process for another: training may be paused


def run(processes: int, task: Callable[..., Any], *arguments: Any) -> None:
    """Run `task(rank, processes, *arguments)` in so many processes; rank 0 in this one.

    Raises RuntimeError if another one failed.
    """
    if processes == 1:
        task(0, 1, *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        others = [
            get_context("spawn").Process(
                target=_member, args=(rank, processes, folder, task, arguments), daemon=True
            )
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        _member(0, processes, folder, task, arguments)
        for other in others:
            other.join()
            if other.exitcode:
                raise RuntimeError(f"a training process ended with {other.exitcode}")


def _member(
    rank: int, processes: int, folder: str, task: Callable[..., Any], arguments: tuple
) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if os.uname().sysname == "Darwin" else "lo")
    meet = f"file://{folder}/meet"
    distributed.init_process_group("gloo", meet, PATIENCE, rank=rank, world_size=processes)
    try:
        task(rank, processes, *arguments)
    finally:
        distributed.destroy_process_group()


def average_gradients(model: torch.nn.Module, processes: int) -> None:
    """Give every process the mean of all processes' gradients."""
    if processes == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= processes


def in_turn(rank: int, processes: int, act: Callable[[], T]) -> T:
    """Act as rank 0 first, then as the others, which find its results in the cache."""
    if rank > 0:
        distributed.barrier()
    result = act()
    if rank == 0 and processes > 1:
        distributed.barrier()
    return result
