/* What a SHA-256 kernel is, and the scheduler that feeds it. Internal to the sha256_*.c files.
 *
 * A kernel compresses whole blocks of several messages at once and knows nothing of prefixes, padding or lengths; those live in
 * sha256_messages.c alone, so a new kernel is two functions and one line in the table of sha256_dispatch.c.
 */
#ifndef ZCELL_SHA256_LANES_H
#define ZCELL_SHA256_LANES_H

#include "sha256_kernel.h"

#define ZC_BLOCK_BYTES 64
#define ZC_MAX_LANES 16
#define ZC_HIDDEN __attribute__((visibility("hidden")))

/* Compress `count` consecutive blocks into each lane: lane i reads from blocks[i]; word w of lane i is state[w * lanes + i].
 * `state` is aligned to 64 bytes, blocks need no alignment. */
typedef void (*zc_sha256_compress)(uint32_t *state, const uint8_t *const *blocks, size_t count);

struct zc_sha256_kernel {
    const char *name;
    unsigned lanes;
    unsigned worthwhile;         /* with fewer busy lanes and no more messages, `single` is faster */
    zc_sha256_compress compress; /* `lanes` messages */
    zc_sha256_compress single;   /* one message */
    int (*usable)(void);         /* can this CPU run it? */
    int test_only;
};

extern ZC_HIDDEN const uint32_t zc_sha256_k[64];
extern ZC_HIDDEN const uint32_t zc_sha256_initial[8];

/* The kernel in use, or the default one when the demand is unmet (which the caller was to report). Never NULL. */
ZC_HIDDEN const zc_sha256_kernel *zc_sha256_kernel_or_default(void);

/* SHA-256(prefix || message) for every message of `stride` bytes (the last of a span may be shorter) of every span.
 * A span's output may lie at the start of its own data when the messages are at most 64 bytes: each is read before it is
 * overwritten. */
ZC_HIDDEN void zc_sha256_messages(const zc_sha256_kernel *kernel, uint8_t prefix, size_t stride, const zc_sha256_span *spans,
                                  size_t count);

/* One line per architecture's table, in order of preference; ends with a NULL name. */
extern ZC_HIDDEN const zc_sha256_kernel zc_sha256_kernels_x86[];
extern ZC_HIDDEN const zc_sha256_kernel zc_sha256_kernels_arm[];
extern ZC_HIDDEN const zc_sha256_kernel zc_sha256_kernels_portable[];

ZC_HIDDEN void zc_sha256_compress_portable(uint32_t *state, const uint8_t *const *blocks, size_t count);

#endif
