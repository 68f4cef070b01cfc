"""The perplexity of a text by llama.cpp, beside the command's, on the same tokens in the same windows.

    pip install llama-cpp-python numpy
    python tests/oracle/compare_perplexity.py MODEL.gguf TEXT [--max-tokens 8000] [--window 512]

Windows of W tokens advance by W/2; each token is scored once, in the first window that holds it, by a
log-softmax in double of llama.cpp's logits.  The ids must be those of libbitlm (build/libbitlm.so).
"""
import argparse
import ctypes
import pathlib
import subprocess

import llama_cpp
import numpy as np

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build"


def our_ids(model, text):
    lib = ctypes.CDLL(str(BUILD / "libbitlm.so"))
    handle, n = ctypes.c_void_p(), ctypes.c_size_t()
    name = model.encode()
    assert lib.bitlm_model_open(name, ctypes.c_size_t(len(name)), 0, None, None, ctypes.byref(handle), None) == 0
    ids = (ctypes.c_int32 * (len(text) + 16))()
    assert lib.bitlm_tokenize(handle, text, ctypes.c_size_t(len(text)), 0, None, ids,
                              ctypes.c_size_t(len(ids)), ctypes.byref(n), None) == 0
    lib.bitlm_model_free(handle)
    return list(ids[:n.value])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--max-tokens", type=int, default=8000)
    parser.add_argument("--window", type=int, default=512)
    args = parser.parse_args()
    window, stride = args.window, args.window // 2
    text = pathlib.Path(args.text).read_bytes()
    llama = llama_cpp.Llama(args.model, n_ctx=window, n_batch=window, logits_all=True, n_threads=2, verbose=False)
    ids = our_ids(args.model, text)
    theirs = llama.tokenize(text, add_bos=False, special=False)
    print(f"ids: {len(ids)} of ours, {len(theirs)} of llama.cpp, equal: {ids == theirs}")
    ids = ids[:args.max_tokens]
    nll, scored, begin = [], 0, 0
    while scored < len(ids):
        end = min(begin + window, len(ids))
        llama.reset()
        llama.eval(ids[begin:end])
        logits = np.array(llama.scores[:end - begin], dtype=np.float64)
        top = logits.max(axis=1, keepdims=True)
        logprobs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        for i in range(max(scored, begin + 1), end):
            nll.append(-logprobs[i - begin - 1, ids[i]])
        scored, begin = end, begin + stride
    print(f"llama.cpp     {np.exp(np.mean(nll)):.4f}   {len(nll)} tokens")
    ours = subprocess.run([str(BUILD / "bitlm"), "perplexity", "--max-tokens", str(args.max_tokens), "--window",
                           str(window), args.model, args.text], capture_output=True, text=True, check=True).stdout
    print("bitlm:")
    print(ours, end="")
    mean = float(ours.splitlines()[0].split()[1])
    print(f"ratio         {mean / np.exp(np.mean(nll)):.5f}")


if __name__ == "__main__":
    main()
