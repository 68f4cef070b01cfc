/* code_cache.h - images of packed blocks shared by all connections of the process.
 *
 * An image is named by (identity of the table, base, stamp).  Stamps are random and change
 * with each write, so the same name means the same bytes: connections, and the versions
 * that WAL readers still see, never mix.  An image lives as long as a
 * connection refers to it.
 *
 * References of an image that is not shared belong to one connection and take no lock.
 * Called by code_store.c. */
#ifndef BLS_CODE_CACHE_H
#define BLS_CODE_CACHE_H

#include "code_image.h"

bls_image *bls_image_retain(bls_image *image);
void bls_image_release(bls_image *image); /* NULL is ignored */

/* A new reference to the image of that name, NULL if no connection has it. */
bls_image *bls_cache_find(const uint64_t identity[2], int64_t base, uint64_t stamp);
/* Gives an image that only the caller knows to all.  If there is one of that name, the
 * caller's is released and the other returned.  With more than `limit` bytes in
 * the cache then, it stays the caller's own. */
bls_image *bls_cache_share(const uint64_t identity[2], bls_image *image, uint64_t limit);
/* Counts `bytes` of something made from images as theirs, 0 if that would take more than three quarters of `limit`. */
int bls_cache_reserve(uint64_t bytes, uint64_t limit);
void bls_cache_unreserve(uint64_t bytes);

#endif
