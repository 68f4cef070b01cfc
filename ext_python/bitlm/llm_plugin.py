"""Plugin for the command `llm` (https://llm.datasette.io): `llm -m bitlm 'Once upon a time'`, and the
embedding models `bitlm-bits` (codes as numbers 1 and -1) and `bitlm-f32`.

BITLM_MODELS names further GGUF files, separated by ':'; each is offered as bitlm/NAME.
"""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import llm
from pydantic import Field

from .model import Model

_models: dict[str | None, Model] = {}
_lock = threading.Lock()


def _open(path: str | None) -> Model:
    with _lock:
        if path not in _models:
            _models[path] = Model(path)
        return _models[path]


class _Options(llm.Options):
    max_tokens: int | None = Field(default=None, description="Most tokens of the answer (128)")
    temperature: float | None = Field(default=None, description="0 is greedy (0.7)")
    top_p: float | None = Field(default=None, description="Nucleus (0.95)")
    top_k: int | None = Field(default=None, description="0 is off")
    min_p: float | None = Field(default=None, description="0 is off (0.05)")
    repeat_penalty: float | None = Field(default=None, description="1 is off (1.1)")
    seed: int | None = Field(default=None, description="The same seed gives the same text (0)")
    stop: str | None = Field(default=None, description="The answer ends before this text")


class BitlmModel(llm.Model):
    can_stream = True
    Options = _Options

    def __init__(self, model_id: str, path: str | None) -> None:
        self.model_id = model_id
        self._path = path

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[str]:
        model = _open(self._path)
        options = {k: v for k, v in prompt.options.model_dump().items() if v is not None}
        if model.info["can_chat"]:
            messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
            for earlier in conversation.responses if conversation else []:
                messages += [{"role": "user", "content": earlier.prompt.prompt},
                             {"role": "assistant", "content": earlier.text_or_raise()}]
            pieces = model.stream_chat([*messages, {"role": "user", "content": prompt.prompt}], **options)
        else:
            pieces = model.stream(prompt.prompt, **options)
        with pieces:
            for piece in pieces:
                yield str(piece)


class BitlmEmbedding(llm.EmbeddingModel):
    supports_text = True

    def __init__(self, model_id: str, binary: bool) -> None:
        self.model_id = model_id
        self._binary = binary

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        texts = [t.decode() if isinstance(t, bytes) else t for t in items]
        vectors = _open(None).embed_f32(texts).tolist()
        for vector in vectors:
            # llm compares by cosine: of 1 and -1 it orders as the Hamming distance does
            yield [1.0 if x > 0 else -1.0 for x in vector] if self._binary else vector


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    register(BitlmModel("bitlm", None))
    for path in filter(None, os.environ.get("BITLM_MODELS", "").split(os.pathsep)):
        register(BitlmModel("bitlm/" + pathlib.Path(path).stem, path))


@llm.hookimpl
def register_embedding_models(register: Callable[..., None]) -> None:
    register(BitlmEmbedding("bitlm-bits", True))
    register(BitlmEmbedding("bitlm-f32", False))
