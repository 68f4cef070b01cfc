"""Our logits beside llama.cpp's for any GGUF file that both run.

    pip install llama-cpp-python numpy
    python tests/oracle/compare_logits.py MODEL.gguf [--ids 3,17,250,…]

Prints, over the positions, the least cosine, how often the best token is the same, and the largest difference; exit
status 1 if the least cosine is below --cosine.  Both quantize activations (llama.cpp: groups of 32 or 256), so equal
to the last bit they are not.
"""
import argparse
import ctypes
import pathlib
import sys

import llama_cpp
import numpy as np

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build"


def our_logits(path, ids, vocab):
    lib = ctypes.CDLL(str(BUILD / "libbitlm.so"))
    model, session, name = ctypes.c_void_p(), ctypes.c_void_p(), path.encode()
    assert lib.bitlm_model_open(name, ctypes.c_size_t(len(name)), 0, None, None, ctypes.byref(model), None) == 0
    assert lib.bitlm_session_open(model, None, None, ctypes.byref(session), None) == 0
    out = np.zeros((len(ids), vocab), np.float32)
    array = (ctypes.c_int32 * len(ids))(*ids)
    status = lib.bitlm_logits(session, array, ctypes.c_size_t(len(ids)),
                              out.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), None)
    assert status == 0, status
    lib.bitlm_session_free(session)
    lib.bitlm_model_free(model)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--ids", default="3,17,250,9,9,128,77,1,201,64,33,5,254,100,42,8,19,300,301,302,17,99,450,3")
    parser.add_argument("--cosine", type=float, default=0.999)
    args = parser.parse_args()
    ids = [int(i) for i in args.ids.split(",")]
    llama = llama_cpp.Llama(args.model, n_ctx=max(64, len(ids)), logits_all=True, n_threads=2, verbose=False)
    llama.eval(ids)
    theirs = np.array(llama.scores[:len(ids)], dtype=np.float64)
    ours = our_logits(args.model, ids, theirs.shape[1]).astype(np.float64)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    same = (ours.argmax(1) == theirs.argmax(1)).sum()
    print(f"{pathlib.Path(args.model).name}: least cosine {cosine.min():.6f}, best token equal {same} of {len(ids)}, "
          f"max |delta| {np.abs(ours - theirs).max():.4f} (rms of the logits {np.sqrt((theirs ** 2).mean()):.3f})")
    sys.exit(int(cosine.min() < args.cosine))


if __name__ == "__main__":
    main()
