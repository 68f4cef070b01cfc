/* code_cache.c - the process's one copy of each packed block.
 *
 * A chained hash table behind one mutex.  The mutex is held for a few dozen instructions; a
 * scan takes no reference of its own for blocks that the connection keeps.  The table's memory
 * is freed with the last image.  pthread's mutex, not SQLite's: it needs no initialisation.
 *
 * Called by code_store.c. */
#include "code_cache.h"

#include <pthread.h>
#include <string.h>

static struct {
    pthread_mutex_t mutex;
    bls_image **buckets;
    size_t n_buckets; /* a power of two, 0 at first */
    size_t n_images;
    uint64_t bytes;
} cache = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* Stamps are random: their low bits are the hash. */
static bls_image **bucket(uint64_t stamp)
{
    return &cache.buckets[stamp & (cache.n_buckets - 1)];
}

/* Grows the table if it can; a full one still works. */
static void grow(void)
{
    size_t n = cache.n_buckets ? cache.n_buckets * 2 : 256, i;
    bls_image **buckets, *image, *next;

    buckets = sqlite3_malloc64(n * sizeof *buckets);
    if (!buckets)
        return;
    memset(buckets, 0, n * sizeof *buckets);
    for (i = 0; i < cache.n_buckets; i++) {
        for (image = cache.buckets[i]; image; image = next) {
            next = image->next;
            image->next = buckets[image->stamp & (n - 1)];
            buckets[image->stamp & (n - 1)] = image;
        }
    }
    sqlite3_free(cache.buckets);
    cache.buckets = buckets;
    cache.n_buckets = n;
}

bls_image *bls_image_retain(bls_image *image)
{
    if (!image->shared) {
        image->references++;
        return image;
    }
    pthread_mutex_lock(&cache.mutex);
    image->references++;
    pthread_mutex_unlock(&cache.mutex);
    return image;
}

void bls_image_release(bls_image *image)
{
    bls_image **link;
    int last;

    if (!image)
        return;
    if (!image->shared) {
        if (--image->references == 0)
            bls_image_free(image);
        return;
    }
    pthread_mutex_lock(&cache.mutex);
    last = --image->references == 0;
    if (last) {
        for (link = bucket(image->stamp); *link != image; link = &(*link)->next)
            continue;
        *link = image->next;
        cache.bytes -= image->length;
        if (--cache.n_images == 0) {
            sqlite3_free(cache.buckets);
            cache.buckets = NULL;
            cache.n_buckets = 0;
        }
    }
    pthread_mutex_unlock(&cache.mutex);
    if (last)
        bls_image_free(image);
}

static bls_image *lookup(const uint64_t identity[2], int64_t base, uint64_t stamp)
{
    bls_image *image;

    if (!cache.n_buckets)
        return NULL;
    for (image = *bucket(stamp); image; image = image->next)
        if (image->stamp == stamp && image->base == base && image->identity[0] == identity[0] &&
            image->identity[1] == identity[1])
            return image;
    return NULL;
}

bls_image *bls_cache_find(const uint64_t identity[2], int64_t base, uint64_t stamp)
{
    bls_image *image;

    pthread_mutex_lock(&cache.mutex);
    image = lookup(identity, base, stamp);
    if (image)
        image->references++;
    pthread_mutex_unlock(&cache.mutex);
    return image;
}

bls_image *bls_cache_share(const uint64_t identity[2], bls_image *image, uint64_t limit)
{
    bls_image *other;

    pthread_mutex_lock(&cache.mutex);
    other = lookup(identity, image->base, image->stamp);
    if (other) {
        other->references++;
    } else if (cache.bytes + image->length <= limit) {
        if (cache.n_images >= cache.n_buckets)
            grow();
        if (cache.n_buckets) {
            image->identity[0] = identity[0];
            image->identity[1] = identity[1];
            image->shared = 1;
            image->next = *bucket(image->stamp);
            *bucket(image->stamp) = image;
            cache.n_images++;
            cache.bytes += image->length;
        }
    }
    pthread_mutex_unlock(&cache.mutex);
    if (other)
        bls_image_release(image);
    return other ? other : image;
}

int bls_cache_reserve(uint64_t bytes, uint64_t limit)
{
    int fits;

    pthread_mutex_lock(&cache.mutex);
    fits = bytes <= limit - limit / 4 && cache.bytes <= limit - limit / 4 - bytes;
    if (fits)
        cache.bytes += bytes;
    pthread_mutex_unlock(&cache.mutex);
    return fits;
}

void bls_cache_unreserve(uint64_t bytes)
{
    pthread_mutex_lock(&cache.mutex);
    cache.bytes -= bytes;
    pthread_mutex_unlock(&cache.mutex);
}
