"""1-bit language models: text in, an answer or a packed binary code out.

    import bitlm

    with bitlm.Model() as m:                       # the two models that are built in
        print(m.generate("Once upon a time"))
        codes = m.embed(["a tax letter", "a love letter"])
        print(bitlm.hamming(codes[0], codes[1]))

Everything is computed by the same C core as in SQLite and in the command, with the same bits.
"""

from ._bitlm import (
    NUMERICS,
    Canceled,
    Codes,
    FormatError,
    Vectors,
    __version__,
    binarize,
    convert,
    cosine,
    dequantize,
    hamming,
    pack,
    quantize,
    quantize_model,
    similarity,
    unpack,
)
from .index import Index, topk, topk_many
from .model import Model, Piece, Stream, memory
from .sqlite import load_sqlite, register, sqlite_path
from .vectors import dequantize_vector, quantize_error, quantize_vector

__all__ = [
    "NUMERICS",
    "Canceled",
    "Codes",
    "FormatError",
    "Index",
    "Model",
    "Piece",
    "Stream",
    "Vectors",
    "__version__",
    "binarize",
    "convert",
    "cosine",
    "dequantize",
    "dequantize_vector",
    "hamming",
    "load_sqlite",
    "memory",
    "pack",
    "quantize",
    "quantize_error",
    "quantize_model",
    "quantize_vector",
    "register",
    "similarity",
    "sqlite_path",
    "topk",
    "topk_many",
    "unpack",
]
