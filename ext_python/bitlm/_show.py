"""How results look: HTML for Jupyter, a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import html
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import Model

ROWS = 5


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
                    f"<td style='text-align:left'><code>{html.escape(v)}</code></td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def table(title: str, rows: list[tuple[str, str]]) -> str:
    return f"<b>{html.escape(title)}</b>" + _table(rows)


def model_html(model: Model) -> str:
    return table(repr(model)[1:-1], [(k, str(v)) for k, v in model.info.items()])


def array_html(array: Any) -> str:
    rows = []
    for i in range(min(len(array), ROWS)):
        row = array[i]
        rows.append((str(i), row.hex() if isinstance(row, bytes)
                     else " ".join(f"{v:+.3f}" for v in row.tolist()[0][:8]) + " …"))
    if len(array) > ROWS:
        rows.append(("…", f"{len(array) - ROWS} more"))
    if array.model_id:
        rows.append(("model_id", array.model_id))
    return table(repr(array)[1:-1], rows)


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; nothing where that is no terminal."""
    tty = sys.stderr.isatty()

    def advance(done: int) -> None:
        if tty and total:
            filled = 30 * done // total
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {what}")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if tty:
            sys.stderr.write("\r" + " " * (50 + len(what)) + "\r")
            sys.stderr.flush()
