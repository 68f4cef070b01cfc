"""Two plots for notebooks; they need matplotlib."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ._bitlm import Codes, hamming
from .index import topk


def distances(codes: Codes, *, pairs: int = 10_000, ax: Any = None) -> Any:
    """A histogram of the Hamming distances of up to `pairs` pairs of rows; returns the axes."""
    import matplotlib.pyplot as plt

    n, found = len(codes), []
    step = max(1, n * (n - 1) // 2 // pairs)
    for p in range(0, n * (n - 1) // 2, step):
        i = int((1 + (1 + 8 * p) ** 0.5) / 2)
        j = p - i * (i - 1) // 2
        found.append(hamming(codes[i], codes[j]))
    ax = ax or plt.subplots()[1]
    ax.hist(found, bins=40)
    ax.set(xlabel=f"differing bits of {codes.bits}", ylabel="pairs", title=f"{n} codes")
    return ax


def latency(codes: Codes, sizes: Sequence[int] | None = None, *, k: int = 10, repeat: int = 20, ax: Any = None) -> Any:
    """The median time of topk against the number of codes searched; returns the axes."""
    import matplotlib.pyplot as plt

    sizes = sizes or [max(1, len(codes) * i // 8) for i in range(1, 9)]
    medians = []
    for n in sizes:
        part, times = codes[:n], []
        for _ in range(repeat):
            began = time.perf_counter()
            topk(codes[0], part, k)
            times.append(time.perf_counter() - began)
        medians.append(sorted(times)[repeat // 2] * 1e6)
    ax = ax or plt.subplots()[1]
    ax.plot(sizes, medians, marker="o")
    ax.set(xlabel="codes", ylabel="µs", title=f"topk, k = {k}")
    return ax
