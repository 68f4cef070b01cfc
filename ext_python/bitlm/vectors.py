"""Quantized vectors: the same blobs as SQL's `bitlm_quantize`, byte for byte."""

from __future__ import annotations

import json
from typing import Any

from . import _bitlm
from ._bitlm import Vectors


def quantize_vector(values: Any, scheme: str, **options: Any) -> bytes:
    """A list of float32 in fewer bits, as bytes that know their scheme, length and scales (docs/SQL.md, bitlm_quantize).

    values: a buffer of float32.  scheme: int8, int8_asymmetric, int4 (BitNet a4.8), ternary (absmean, BitNet b1.58), twn (Ternary
    Weight Networks), binary, binary_mean (BitNet), threshold, or a tensor type such as q8_0.
    options: group, threshold, rounding ("nearest", "stochastic", "feedback"), seed, hadamard, timeout_ms.
    ValueError: an unknown scheme or option, a value that is not finite, a length that the scheme cannot hold."""
    return _bitlm._vector_quantize(values, scheme, json.dumps(options).encode())


def dequantize_vector(data: Any) -> Vectors:
    """What `quantize_vector` or SQL's `bitlm_quantize` made, as Vectors of shape (1, n).  ValueError: other bytes."""
    return _bitlm._vector_dequantize(data)


def quantize_error(values: Any, scheme: str, **options: Any) -> dict[str, Any]:
    """What a scheme loses and costs: n, bytes, bits_per_value, mse, max_error, cosine, snr_db (decibels), zeros (a fraction), entropy
    (bits a value), residual.  Arguments and errors as of quantize_vector."""
    report: dict[str, Any] = json.loads(_bitlm._vector_error(values, scheme, json.dumps(options).encode()))
    return report
