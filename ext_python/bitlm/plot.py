"""Two plots for notebooks; they need matplotlib."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ._bitlm import Codes, hamming
from .index import topk


def distances(codes: Codes, *, pairs: int = 10_000, ax: Any = None) -> Any:
    """A histogram of the Hamming distances (bits) of about `pairs` pairs of rows, spread evenly over all pairs; returns
    the axes (ax, or new ones).  ImportError without matplotlib."""
    import matplotlib.pyplot as plt

    n, found = len(codes), []
    step = max(1, n * (n - 1) // 2 // pairs)
    for p in range(0, n * (n - 1) // 2, step):
        i = int((1 + (1 + 8 * p) ** 0.5) / 2)
        j = p - i * (i - 1) // 2
        found.append(hamming(codes[i], codes[j]))
    ax = ax or plt.subplots()[1]
    low, high = min(found, default=0), max(found, default=0)
    width = max(1, (high - low + 1) // 40)  # of whole bits, else the bars are a comb
    ax.hist(found, bins=list(range(low, high + width + 1, width)))
    ax.set(xlabel=f"differing bits of {codes.bits}", ylabel="pairs", title=f"{len(found):,} pairs of {n:,} codes")
    return ax


def latency(codes: Codes, sizes: Sequence[int] | None = None, *, k: int = 10, repeat: int = 20, ax: Any = None) -> Any:
    """The median time (microseconds, of `repeat` calls) of topk against the number of codes searched, an eighth to all
    of them unless sizes are given; returns the axes (ax, or new ones).  ImportError without matplotlib, ValueError
    without codes."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    if not len(codes):
        raise ValueError("there are 0 codes, but a search needs 1")
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
    ax.set(xlabel="codes", ylabel="µs", title=f"topk, k = {k}, {codes.bits} bits")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_formatter(EngFormatter())
    return ax
