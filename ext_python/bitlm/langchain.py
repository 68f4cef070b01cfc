"""BitlmEmbeddings: bitlm's encoder as an Embeddings class of LangChain (needs langchain-core)."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from .model import Model


class BitlmEmbeddings(Embeddings):
    """Vectors of length 1 of the built-in encoder, or of an encoder's GGUF file; options as Model's."""

    def __init__(self, path: str | None = None, **options: Any) -> None:
        self._model = Model(path, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model.embed_f32(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._model.embed_f32(text).tolist()[0]
