"""bitlm.Index: codes under ids, in memory or in a file, searched exactly; and topk over any codes."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ._bitlm import Codes, IndexCore
from ._bitlm import topk as _topk

_MOST_BITS = 8 * 65536
_LOAD = {"auto": 0, "mmap": 1, "copy": 2}


def _one(lists: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    if len(lists) != 1:
        raise ValueError(f"{len(lists)} queries are given where one is meant; use the function that ends in _many")
    return lists[0]


def topk(query: Any, codes: Any, k: int = 10, *, only: Iterable[int] | None = None) -> list[tuple[int, int]]:
    """The k rows of codes nearest to one query: [(row, distance in bits), …], equal distances by row.

    query: a code, codes: Codes or a buffer of shape (n, width), or of rows as long as the query;
    only: the rows that count.  ValueError: other lengths, other models."""
    return _one(_topk(query, codes, k, only))


def topk_many(queries: Any, codes: Any, k: int = 10, *, only: Iterable[int] | None = None) -> list[list[tuple[int, int]]]:
    """topk for each row of queries; codes must have rows (Codes, or a buffer of two dimensions)."""
    return _topk(queries, codes, k, only)


class Index:
    """Codes under integer ids.  Contents are sorted by id; search is exact.

    Index(bits, model_id=None)   an empty one; the first Codes added say their model
    Index.load(path)             a saved one, searched where the file is mapped

    Any number of threads may search at once; a change waits for them.
    """

    def __init__(self, bits: int | None = None, model_id: str | None = None) -> None:
        if bits is not None:
            bits = operator.index(bits)
            if not 8 <= bits <= _MOST_BITS or bits % 8:
                raise ValueError(f"bits is {bits}, but must be a multiple of 8 from 8 to {_MOST_BITS}")
        self._core: IndexCore | None = None if bits is None else IndexCore(bits // 8, model_id)
        self._model_id = model_id
        self._lock = threading.Lock()  # over the making of the core

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, load: str = "auto") -> Index:
        """Opens a saved index: auto, mmap or copy.  OSError, FormatError (damaged), NotImplementedError (a
        newer format, or codes that this version of bitlm would make otherwise: embed the texts again)."""
        if load not in _LOAD:
            raise ValueError(f"load is {load!r}, but must be one of auto, mmap, copy")
        self = cls()
        self._core = IndexCore.open(os.fspath(path), _LOAD[load])
        self._model_id = self._core.info()[2]
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file whole or not at all (docs/FORMATS.md, "Index of codes")."""
        self._made().save(os.fspath(path))

    def _made(self) -> IndexCore:
        if self._core is None:
            raise ValueError("the index is empty and knows no code length yet: give bits, or add codes")
        return self._core

    def _check(self, codes: Any) -> None:
        theirs = getattr(codes, "model_id", None)
        if theirs is not None and self._model_id is not None and theirs != self._model_id:
            raise ValueError(f"the codes come from model {theirs[:8]}..., the index holds codes of model "
                             f"{self._model_id[:8]}...: embed the texts again into a new index")

    def add(self, codes: Any, ids: Iterable[int] | None = None) -> list[int]:
        """Adds rows and returns their ids: those given (one that is there gets the new code), or the
        numbers after the largest."""
        self._check(codes)
        with self._lock:
            if self._core is None:
                view = memoryview(codes)
                model_id = self._model_id or getattr(codes, "model_id", None)
                self._core = IndexCore(view.shape[1] * view.itemsize if view.shape and view.ndim == 2 else view.nbytes, model_id)
                self._model_id = model_id
        return self._core.add(codes, ids)

    def remove(self, ids: int | Iterable[int]) -> int:
        """Removes ids and returns how many of them there were."""
        return self._made().remove((ids,) if isinstance(ids, int) else ids)

    def search(self, query: Any, k: int = 10, *,
               only: Iterable[int] | Callable[[int], bool] | None = None) -> list[tuple[int, int]]:
        """The k ids nearest to a code: [(id, distance in bits), …], equal distances by id.
        only: the ids that count, or a function that tells for an id whether it does."""
        return _one(self.search_many(query, k, only=only))

    def search_many(self, queries: Any, k: int = 10, *,
                    only: Iterable[int] | Callable[[int], bool] | None = None) -> list[list[tuple[int, int]]]:
        """search for each row of queries."""
        self._check(queries)
        if callable(only):
            only = self.filter(only)
        return self._made().search(queries, k, only)

    def filter(self, keep: Callable[[int], bool]) -> list[int]:
        """The ids that keep(id) is true for."""
        return [i for i in self if keep(i)]

    def verify(self) -> None:
        """Reads everything and raises FormatError if the file is damaged (opening checks the header only)."""
        self._made().verify()

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 * self._made().info()[1]

    @property
    def model_id(self) -> str | None:
        """The model that made the codes, if it is known."""
        return self._model_id

    @property
    def mapped(self) -> bool:
        """Whether the codes lie in a mapped file."""
        return self._core is not None and self._core.info()[3]

    def codes(self) -> Codes:
        """A copy of all codes, in order of their ids."""
        core = self._made()
        return Codes(b"".join(core.get(i) for i in self), self.bits // 8, self._model_id)

    def __len__(self) -> int:
        return 0 if self._core is None else self._core.info()[0]

    def __iter__(self) -> Iterator[int]:
        return iter([] if self._core is None else self._core.ids(0, len(self)))

    def __getitem__(self, i: int) -> bytes:
        """The code of an id.  KeyError."""
        return self._made().get(i)

    def __contains__(self, i: object) -> bool:
        if self._core is None or not isinstance(i, int):
            return False
        try:
            self._core.get(i)
        except KeyError:
            return False
        return True

    def __reduce__(self) -> Any:
        return self._made().__reduce__()

    def __repr__(self) -> str:
        if self._core is None:
            return "<bitlm.Index: empty>"
        return f"<bitlm.Index: {len(self)} codes of {self.bits} bits{', mapped' if self.mapped else ''}>"

    def _repr_html_(self) -> str:
        from ._show import table

        return table(repr(self)[1:-1], [("model_id", self._model_id or "not said")])
