"""libbitlm through ctypes: quantizes a vector, embeds two texts, generates a text; no package needed.

    LD_LIBRARY_PATH=build python3 ctypes_sample.py
"""

import ctypes as c


class Error(c.Structure):
    _fields_ = [("size", c.c_uint32), ("status", c.c_int32), ("sys_errno", c.c_int32), ("text", c.c_char * 500)]


class Text(c.Structure):
    _fields_ = [("data", c.c_char_p), ("length", c.c_size_t)]


class Piece(c.Structure):
    _fields_ = [("size", c.c_uint32), ("row", c.c_int32), ("n", c.c_int32), ("token", c.c_int32),
                ("finish", c.c_int32), ("logprob", c.c_float), ("text", c.c_void_p), ("text_length", c.c_size_t)]


lib = c.CDLL("libbitlm.so.0")
size_t, pointer = c.c_size_t, c.c_void_p
error = Error(size=c.sizeof(Error))


def call(name, *arguments):
    """A function whose last argument is the error; DONE (100) is returned."""
    status = getattr(lib, name)(*arguments, c.byref(error))
    if status not in (0, 100):
        raise RuntimeError(error.text.decode())
    return status


def open_model(name, options=None):
    model, session = pointer(), pointer()
    call("bitlm_model_open", name, size_t(len(name)), c.c_uint32(0), None, None, c.byref(model))
    call("bitlm_session_open", model, options, None, c.byref(session))
    return model, session


def close(model, session):
    lib.bitlm_session_free(session)
    lib.bitlm_model_free(model)


values = (c.c_float * 256)(*[i % 3 - 1 for i in range(256)])
size = size_t()
call("bitlm_scheme_bytes", b"TQ2_0", size_t(5), size_t(1), size_t(256), c.byref(size))
blocks = c.create_string_buffer(size.value)
call("bitlm_quantize", b"TQ2_0", size_t(5), values, size_t(1), size_t(256), c.c_float(0), blocks, size)
print("quantized", blocks.raw.hex())

texts = [b"a tax letter", b"a love letter"]
model, session = open_model(b"embed")
codes = c.create_string_buffer(48 * len(texts))
rows = (Text * len(texts))(*[Text(t, len(t)) for t in texts])
call("bitlm_embed_batch", session, rows, size_t(len(texts)), c.c_int32(0), None, codes, size_t(48), None)
print("codes", codes.raw.hex())
close(model, session)

options = c.create_string_buffer(1024)  # more than any version's struct; init writes its size
lib.bitlm_options_init(options)
json = b'{"max_tokens":12,"temperature":0}'
call("bitlm_options_json", options, json, size_t(len(json)))
model, session = open_model(b"story", options)
prompt = Text(b"Once upon a time", 16)
call("bitlm_generate_start", session, c.byref(prompt), size_t(1), c.c_uint32(0), options)
piece, text = Piece(size=c.sizeof(Piece)), b""
while call("bitlm_generate_next", session, c.byref(piece)) == 0:
    text += c.string_at(piece.text, piece.text_length) if piece.text_length else b""
print("text" + text.decode())
lib.bitlm_options_clear(options)
close(model, session)
