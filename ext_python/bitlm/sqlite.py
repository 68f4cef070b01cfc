"""The SQLite extension that comes inside the package, and its scalar functions without loading it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from . import _bitlm
from ._bitlm import binarize, cosine, hamming, similarity

_NO_LOADING = (
    "this Python's sqlite3 was built without loadable extensions.  Ways out: bitlm.register(conn) for the "
    "scalar functions; a Python with them (Debian's /usr/bin/python3; pyenv with "
    "PYTHON_CONFIGURE_OPTS=--enable-loadable-sqlite-extensions); or the package apsw"
)


def sqlite_path() -> str:
    """The path of the SQLite extension inside the package, as `.load` and load_extension take it."""
    here = pathlib.Path(__file__).resolve().parent / "lib" / "bitlm0.so"
    if not here.exists():
        raise FileNotFoundError(2, "the package holds no SQLite extension", str(here))
    return str(here.with_suffix(""))


def load_sqlite(conn: Any) -> None:
    """Loads the extension into a connection of sqlite3 or apsw and switches loading off again.
    NotImplementedError says what to do where Python's sqlite3 cannot load extensions."""
    path = sqlite_path()
    enable = getattr(conn, "enable_load_extension", None) or getattr(conn, "enableloadextension", None)
    load = getattr(conn, "load_extension", None) or getattr(conn, "loadextension", None)
    if enable is None or load is None:
        raise NotImplementedError(_NO_LOADING)
    enable(True)
    try:
        load(path)
    finally:
        enable(False)


def register(conn: Any) -> None:
    """Gives a connection the scalar functions through create_function, for a Python that cannot load
    extensions: bitlm_embed, bitlm_embed_f32, bitlm_generate, bitlm_hamming, bitlm_similarity, bitlm_cosine,
    bitlm_binarize, bitlm_token_count, bitlm_tokenize, bitlm_detokenize, bitlm_model_id, bitlm_version.
    They use the built-in models; an option "model" is refused."""
    from .model import Model

    model = Model(threads=1)
    create = getattr(conn, "create_function", None)
    create_apsw = getattr(conn, "create_scalar_function", None)

    def options(text: str | None) -> dict[str, Any]:
        return json.loads(text) if text else {}

    functions: list[tuple[str, int, Any]] = [
        ("bitlm_embed", 1, lambda t: model.embed(t).tobytes()),
        ("bitlm_embed", 2, lambda t, o: model.embed(t, **options(o)).tobytes()),
        ("bitlm_embed_f32", 1, lambda t: model.embed_f32(t).tobytes()),
        ("bitlm_embed_f32", 2, lambda t, o: model.embed_f32(t, **options(o)).tobytes()),
        ("bitlm_generate", 1, lambda t: model.generate(t)),
        ("bitlm_generate", 2, lambda t, o: model.generate(t, **options(o))),
        ("bitlm_hamming", 2, hamming),
        ("bitlm_similarity", 2, similarity),
        ("bitlm_cosine", 2, cosine),
        ("bitlm_binarize", 1, binarize),
        ("bitlm_tokenize", 1, lambda t: json.dumps(model.tokenize(t), separators=(",", ":"))),
        ("bitlm_detokenize", 1, lambda t: model.detokenize(json.loads(t))),
        ("bitlm_token_count", 1, model.token_count),
        ("bitlm_model_id", 0, lambda: model.model_id),
        ("bitlm_version", 0, lambda: _bitlm.__version__),
    ]
    for name, n, function in functions:
        def call(*args: Any, function: Any = function) -> Any:
            return None if args and args[0] is None or len(args) > 1 and args[1] is None else function(*args)

        if create_apsw is not None:
            create_apsw(name, call, n, deterministic=True)
        elif create is not None:
            create(name, n, call, deterministic=True)
        else:
            raise TypeError(f"{type(conn).__name__} is no connection of sqlite3 or apsw")
