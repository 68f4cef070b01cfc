/* gguf_private.h - limits and sizes that the GGUF reader and writer share. */
#ifndef BL_GGUF_PRIVATE_H
#define BL_GGUF_PRIVATE_H

#include "file/gguf.h"

#define BL_GGUF_MAGIC 0x46554747u /* "GGUF" */
#define BL_GGUF_ALIGNMENT 32
#define BL_GGUF_MAX_ALIGNMENT 65536
#define BL_GGUF_MAX_KEY 65535        /* bytes: the format's own limit */
#define BL_GGUF_MAX_NAME 255         /* bytes of a tensor's name; llama.cpp stops at 63 */
#define BL_GGUF_MAX_KEYS 65536
#define BL_GGUF_MAX_TENSORS 1048576
#define BL_GGUF_MAX_ELEMENTS 16777216 /* of an array: 100 times the largest vocabulary */
#define BL_GGUF_MAX_DIMS 4

/* Bytes of a value of a scalar type, 0 for STRING, ARRAY and unknown types. */
static inline unsigned bl_gguf_scalar_bytes(int32_t type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type >= 0 && type <= BL_GGUF_F64 ? bytes[type] : 0;
}

#endif
