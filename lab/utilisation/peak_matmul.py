"""How fast this machine multiplies matrices and moves memory.

A program: `python peak_matmul.py DTYPE THREADS`.

Run by the interpreter that has vLLM's torch (which the notebooks' has not), so it imports nothing
of the lab. Prints JSON: flops_per_s, bytes_per_s, dtype, threads, device. The best of many tries: a
peak is what the machine can do, not what it does while something else runs.
"""

import functools
import json
import sys
import time
from collections.abc import Callable

import torch

# Sides of square matrices; 2 * side³ FLOPs each. Small ones fit between two interruptions of a
# busy CPU.
SIDES = {"cpu": (512, 1024), "cuda": (4096, 8192)}
COPIED = {"cpu": 128 << 20, "cuda": 1 << 30}  # bytes: more than any cache holds
TRY_S = 1.0


def best_s(run: Callable[[], object], device: str) -> float:
    """Return the seconds of the fastest run within TRY_S seconds."""
    run()
    best = float("inf")
    began = time.perf_counter()
    while time.perf_counter() - began < TRY_S:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def main(dtype: str, threads: int) -> dict[str, object]:
    """Return the peaks of this machine's GPU, or of its CPU with this many threads."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads)
    flops_per_s = 0.0
    for side in SIDES[device]:
        left = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        right = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        took_s = best_s(functools.partial(torch.matmul, left, right), device)
        flops_per_s = max(flops_per_s, 2 * side**3 / took_s)
    source = torch.ones(COPIED[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied_s = best_s(lambda: target.copy_(source), device)
    return {
        "flops_per_s": flops_per_s,
        "bytes_per_s": 2 * COPIED[device] / copied_s,  # read and written
        "dtype": dtype,
        "threads": threads,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
