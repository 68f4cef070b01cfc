"""bitlm.Model: an open model, or the two that are built in.

Keyword arguments are the options of SQL and the command, with the same names, defaults and
ranges; one parser in the core reads them all, so a wrong one gets the same sentence everywhere.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, overload

from ._bitlm import Codes, Core, Vectors, memory_shape
from ._bitlm import Stream as _CoreStream

CHAT = 1
SPECIAL, FRAME = 1, 2
BITS, F32 = 0, 1
FINISH = {0: None, 1: "stop", 2: "length", 3: "context"}


def _options(options: Mapping[str, Any]) -> bytes | None:
    if not options:
        return None
    if "model" in options:
        raise TypeError("a Model's calls take no option model: open another Model")
    if "on_error" in options:
        raise TypeError("on_error is for SQL, where a row can be NULL; here an error is an exception")
    return json.dumps(options).encode()


class Piece(str):
    """The text that one token made final: a str (perhaps empty) that knows its token.

    row      which prompt, from 0
    n        which token of the row, from 0
    token    its id; -1 in a last piece that only ends the row
    logprob  natural log of its probability; NaN unless logprobs=True
    finish   None, or in the row's last piece "stop", "length" or "context"
    """

    row: int
    n: int
    token: int
    logprob: float
    finish: str | None

    __slots__ = ("row", "n", "token", "logprob", "finish")

    def __new__(cls, row: int, n: int, token: int, finish: int, logprob: float, text: str) -> Piece:
        self = super().__new__(cls, text)
        self.row, self.n, self.token, self.logprob = row, n, token, logprob
        self.finish = FINISH[finish]
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        finish = next(k for k, v in FINISH.items() if v == self.finish)
        return Piece, (self.row, self.n, self.token, finish, self.logprob, str(self))


class Stream(Iterator[Piece]):
    """The pieces of a running generation.  It ends early when it is closed (from any thread, or by
    leaving a with block) or when the event given as cancel= is set."""

    def __init__(self, core: _CoreStream) -> None:
        self._core = core

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        return Piece(*next(self._core))

    def close(self) -> None:
        """Stops the work within about 10 ms and gives its memory back.  May be called twice."""
        self._core.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Model:
    """An open model.

    Model()            the built-in ones: `story` generates, `embed` embeds
    Model("m.gguf")    a GGUF file, mapped; "story" and "embed" name the built-in ones

    options: threads (default: physical cores), n_ctx, kv_type, head, load, hidden_act, and defaults for
    the options of later calls.  Any number of threads may use one Model; each running call has a
    session of its own.  OSError, FormatError, NotImplementedError (a kind of file that bitlm does
    not run), ValueError (an option).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self._options = _options(options)
        self._name = None if path is None else os.fsdecode(path)
        self._lock = threading.Lock()
        self._cores: dict[str, Core] = {}
        self._closed = False
        if self._name is not None:
            self._core(self._name)
        elif self._options:
            self._core("embed")  # a wrong option is said now

    def _core(self, builtin: str) -> Core:
        name = self._name or builtin
        core = self._cores.get(name)
        if core is None or self._closed:
            with self._lock:
                if self._closed:
                    raise ValueError("the model is closed")
                core = self._cores.get(name)
                if core is None:
                    core = self._cores[name] = Core(name, self._options)
        return core

    # ---- life ----------------------------------------------------------------------------

    def close(self) -> None:
        """Lets go of the file; running streams keep it until they end.  May be called twice."""
        with self._lock:
            self._closed = True
            for core in self._cores.values():
                core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return self._core("story").__reduce__()

    def __repr__(self) -> str:
        if self._closed:
            return "<bitlm.Model: closed>"
        if self._name is None:
            return "<bitlm.Model: the built-in models story and embed>"
        i = self.info
        what = " and ".join([w for w, yes in (("generates", i["can_generate"]), ("embeds", i["can_embed"])) if yes])
        return f"<bitlm.Model {self._name!r}: {i['architecture']}, {i['n_parameters'] / 1e6:.1f} M, {i['weight_type']}, {what}>"

    def _repr_html_(self) -> str:
        from ._show import model_html

        return model_html(self)

    @property
    def info(self) -> dict[str, Any]:
        """What the file says: architecture, name, context_length (tokens), n_parameters, …
        (of `story` for the built-in ones)."""
        return self._core("story").info()

    @property
    def model_id(self) -> str:
        """32 hex digits that name the weights and the arithmetic: equal ids give equal results.
        The first call reads the whole file.  Of what embeds, for the built-in ones."""
        return self._core("embed").model_id()

    # ---- tokens ----------------------------------------------------------------------------

    def memory(self, **options: Any) -> dict[str, int]:
        """Bytes of the model and of a session over it, part by part, as `bitlm.memory`."""
        parts: dict[str, int] = json.loads(self._core("story").memory(_options(options)))
        return parts

    def tokenize(self, text: str, *, special: bool = False, frame: bool = False) -> list[int]:
        """Ids of a text.  special: marks such as "<s>" in it are tokens, not text; frame: with what
        the model wants around a text (BOS, [CLS] … [SEP])."""
        return self._core("story").tokenize(text, SPECIAL * special | FRAME * frame)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids.  special: with control tokens, which are left out otherwise."""
        return self._core("story").detokenize(ids, SPECIAL * special)

    def token_count(self, text: str) -> int:
        """Tokens of a text without its frame."""
        return len(self._core("story").tokenize(text, 0))

    def chunk(self, text: str, size: int, overlap: int = 0) -> list[tuple[int, int, int]]:
        """Cuts a text into pieces of at most `size` tokens of what embeds that share about
        `overlap` tokens: (start, length, tokens), the first two in characters."""
        return self._core("embed").chunks(text, size, overlap)

    # ---- text ------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: str, *, cancel: threading.Event | None = None, **options: Any) -> str: ...
    @overload
    def generate(self, prompt: Iterable[str], *, cancel: threading.Event | None = None, **options: Any) -> list[str]: ...

    def generate(self, prompt: str | Iterable[str], *, cancel: threading.Event | None = None,
                 **options: Any) -> str | list[str]:
        """The continuation of a prompt, or of several, decoded together.

        options: max_tokens=128, temperature=0.7 (0: greedy), top_p=0.95, top_k=0, min_p=0.05,
        repeat_penalty=1.1, seed=0, stop (a str or a list), choices, json_schema, ignore_eos, timeout_ms,
        truncate, …
        ValueError (an option, a prompt that does not fit), TimeoutError, Canceled (cancel was set)."""
        core = self._core("story")
        if isinstance(prompt, str):
            return core.generate((prompt,), 0, _options(options), cancel)[0]
        return core.generate(prompt, 0, _options(options), cancel)

    def stream(self, prompt: str | Iterable[str], *, cancel: threading.Event | None = None,
               **options: Any) -> Stream:
        """An iterator over the pieces of a continuation as they are made; see Stream and Piece."""
        prompts = (prompt,) if isinstance(prompt, str) else prompt
        return Stream(self._core("story").stream(prompts, 0, _options(options), cancel))

    async def astream(self, prompt: str, **options: Any) -> AsyncIterator[Piece]:
        """stream() for asyncio: the work runs in the loop's executor, a token at a time.  Leaving the
        loop (break with aclosing, a cancelled task) stops it."""
        loop = asyncio.get_running_loop()
        stream = await loop.run_in_executor(None, lambda: self.stream(prompt, **options))
        try:
            while (piece := await loop.run_in_executor(None, next, stream, None)) is not None:
                yield piece
        finally:
            stream.close()

    def chat(self, messages: Sequence[Mapping[str, str]], *, cancel: threading.Event | None = None,
             **options: Any) -> str:
        """The answer to messages [{"role": "user", "content": "…"}, …].  ValueError if the model has no
        chat template; the built-in ones have none."""
        return self._core("story").generate((json.dumps(list(messages)),), CHAT, _options(options), cancel)[0]

    def stream_chat(self, messages: Sequence[Mapping[str, str]], *, cancel: threading.Event | None = None,
                    **options: Any) -> Stream:
        """chat() as a Stream."""
        return Stream(self._core("story").stream((json.dumps(list(messages)),), CHAT, _options(options), cancel))

    def create_chat_completion(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Any:
        """chat() in the shape of OpenAI's chat.completions: a dict with choices and usage, or with
        stream=True an iterator of chunks."""
        streaming = options.pop("stream", False)
        head = {"id": "chatcmpl-" + uuid.uuid4().hex, "created": int(time.time()), "model": self._name or "story"}
        pieces = self.stream_chat(messages, **options)
        if streaming:
            return self._chat_chunks(head, pieces)
        text, n, finish = [], 0, None
        for piece in pieces:
            text.append(piece)
            n += piece.token >= 0
            finish = piece.finish
        prompt = sum(self.token_count(m["content"]) for m in messages)
        return {
            **head,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "".join(text)},
                         "finish_reason": "length" if finish == "context" else finish}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": n, "total_tokens": prompt + n},
        }

    @staticmethod
    def _chat_chunks(head: dict[str, Any], pieces: Stream) -> Iterator[dict[str, Any]]:
        with pieces:
            first = True
            for piece in pieces:
                delta = {"role": "assistant", "content": str(piece)} if first else {"content": str(piece)}
                first = False
                finish = "length" if piece.finish == "context" else piece.finish
                yield {**head, "object": "chat.completion.chunk",
                       "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    # ---- codes -----------------------------------------------------------------------------

    def embed(self, text: str | Iterable[str], *, cancel: threading.Event | None = None, **options: Any) -> Codes:
        """Binary codes, shape (n, bits / 8); a str gives one row.  Many texts in one call run as one
        batch.  options: truncate, timeout_ms, threads.  ValueError: a text of more than n_ctx tokens
        without truncate, or a model that has no embedding."""
        codes: Codes = self._embed(text, BITS, cancel, options)
        return codes

    def embed_f32(self, text: str | Iterable[str], *, cancel: threading.Event | None = None,
                  **options: Any) -> Vectors:
        """The same as float32 vectors of length 1, shape (n, dim)."""
        vectors: Vectors = self._embed(text, F32, cancel, options)
        return vectors

    def _embed(self, text: str | Iterable[str], form: int, cancel: threading.Event | None,
               options: Mapping[str, Any]) -> Any:
        texts = (text,) if isinstance(text, str) else text
        return self._core("embed").embed(texts, form, _options(options), cancel)

    def encode(self, sentences: str | Iterable[str], *, batch_size: int = 1000, show_progress_bar: bool = False,
               precision: str = "float32", convert_to_numpy: bool = False, normalize_embeddings: bool = True,
               **options: Any) -> Any:
        """embed_f32 (or embed, with precision="ubinary") under the name and with the arguments that
        users of sentence-transformers know: Vectors (or Codes), or with convert_to_numpy=True an array of NumPy; of
        one row and one dimension less for a str.  All vectors have length 1.  A bar shows on a terminal only."""
        form = {"float32": F32, "ubinary": BITS}.get(precision)
        if form is None:
            raise ValueError(f"precision is {precision!r}, but must be 'float32' or 'ubinary'")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        if not normalize_embeddings:
            raise NotImplementedError("the vectors have length 1: normalize_embeddings=False is not to be had")
        rows = self._encode(sentences, form, batch_size if show_progress_bar else 0, options)
        if not convert_to_numpy:
            return rows
        return rows.numpy()[0] if isinstance(sentences, str) else rows.numpy()

    def _encode(self, sentences: str | Iterable[str], form: int, batch_size: int, options: Mapping[str, Any]) -> Any:
        if isinstance(sentences, str) or not batch_size:
            return self._embed(sentences, form, None, options)
        from ._show import progress

        texts = list(sentences)
        parts = []
        with progress(len(texts), "texts") as advance:
            for i in range(0, len(texts), batch_size):
                parts.append(self._embed(texts[i:i + batch_size], form, None, options))
                advance(min(i + batch_size, len(texts)))
        if not parts:
            return self._embed([], form, None, options)
        make: Any = Codes if form == BITS else Vectors
        return make(b"".join(p.tobytes() for p in parts), parts[0].shape[1], parts[0].model_id)

    def classify(self, text: str, labels: Sequence[str], *, cancel: threading.Event | None = None,
                 **options: Any) -> dict[str, float]:
        """How probable each label is for a text, the most probable first; they sum to 1.  What embeds
        compares embeddings; Model("story") and other decoders are asked."""
        if isinstance(labels, (str, bytes)):
            raise TypeError(f"labels are {type(labels).__name__}, but must be a sequence of str")
        names = list(labels)
        found = self._core("embed").classify(text, json.dumps(names).encode(), _options(options), cancel)
        return dict(sorted(zip(names, found), key=lambda pair: -pair[1]))

    # ---- measuring -------------------------------------------------------------------------

    def logits(self, text: str | Sequence[int], **options: Any) -> Vectors:
        """Logits of every position, shape (tokens, vocab_size), of a text or of ids (no frame added)."""
        ids = self.tokenize(text) if isinstance(text, str) else text
        return self._core("story").logits(ids, _options(options), None)

    def score(self, text: str | Sequence[int], **options: Any) -> list[float]:
        """The natural log of each token's probability after those before it; 0 for the first, before
        which nothing stands.  Of a text (with its frame) or of ids."""
        ids = self.tokenize(text, frame=True) if isinstance(text, str) else text
        return self._core("story").score(ids, _options(options), None).tolist()[0]

    def perplexity(self, text: str, **options: Any) -> float:
        """exp of minus the mean log probability of a text's tokens that have something before them
        (for long texts in windows: `bitlm perplexity`).  ValueError: fewer than 2 tokens, more than n_ctx."""
        scores = self.score(text, **options)
        if len(scores) < 2:
            raise ValueError(f"the text has {len(scores)} tokens, but a perplexity needs 2")
        return math.exp(-math.fsum(scores) / (len(scores) - 1))


def memory(model: str | None = None, *, shape: str | Mapping[str, Any] | None = None, **options: Any) -> dict[str, int]:
    """What a model needs, before a session is opened: bytes by part (layers, embedding, head, norms, the file, KV
    cache, scratch, total), as SQL's `bitlm_memory`.  model: a path or a built-in's name; options: n_ctx, kv_type, rows,
    threads, head.  The file is mapped, and shared by all that use it; the cache and scratch are a session's own.

    shape, in place of model: one that is not there, by a name (tiny, 100m, 700m, bitnet-2b4t, 7b), by its sizes (hidden,
    layers, heads, ffn, vocab, ...), or parameters, or rows and dims alone."""
    if shape is not None:
        if model is not None:
            raise TypeError("memory takes a model or a shape, not both")
        parts: dict[str, int] = json.loads(memory_shape(shape if isinstance(shape, str) else json.dumps(dict(shape)), _options(options)))
        return parts
    with Model(model or "story") as m:
        return m.memory(**options)
