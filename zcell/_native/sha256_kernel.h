/* SHA-256 tree for native modules: leaves, chunk digests, roots.
 *
 * Invariant: nothing here needs the interpreter, allocates memory or keeps state between calls (but for the one-time choice of
 * a kernel, which is atomic), so any thread may call any function at any time with the GIL released.
 *
 * To link: add the sources of `SHA256` in setup.py to the extension, as in extension("chunk", *SHA256), and include this header.
 *
 * A module that uses it must report an unmet ZCELL_SHA256_KERNEL itself, once, with the GIL held, before the first call:
 * either call `zcell._native.sha256.kernel()`, or raise zcell.errors.KernelError when zc_sha256_demand_met() is 0. The functions
 * below cannot fail; with an unmet demand that nobody asked about they would use the default kernel.
 *
 * The tree is the Merkle Tree Hash of RFC 9162 section 2.1.1 over leaves of 64 KiB: leaf = SHA-256(0x00 || data),
 * node = SHA-256(0x01 || left || right), nothing = SHA-256(""). SHA-256 is FIPS 180-4.
 */
#ifndef ZCELL_SHA256_KERNEL_H
#define ZCELL_SHA256_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#define ZC_SHA256_BYTES 32
#define ZC_LEAF_BYTES 65536
#define ZC_BATCH_LEAVES 256 /* leaves hashed by one call at most: 16 MiB, 8 KiB of digests */

typedef struct zc_sha256_kernel zc_sha256_kernel;

/* Bytes to hash, cut into messages of equal length (the last may be shorter); 32 bytes a message go to `out`. */
typedef struct {
    const uint8_t *data;
    size_t length;
    uint8_t *out;
} zc_sha256_span;

/* A tree that grows at its right edge: the roots of its complete subtrees, largest first. */
typedef struct {
    uint64_t leaves;
    unsigned depth;
    uint8_t stack[64][ZC_SHA256_BYTES];
} zc_sha256_tree;

/* 0 when ZCELL_SHA256_KERNEL names a kernel that does not exist or that this CPU cannot run. */
int zc_sha256_demand_met(void);

/* The digest of one chunk: the root over the leaves of data[0..length). Any length; the default kernel. */
void zc_sha256_chunk_root(const uint8_t *data, size_t length, uint8_t out[ZC_SHA256_BYTES]);

/* The kernel in use: the demanded one (NULL when it is unusable), else the first of the preference order that this CPU runs. */
const zc_sha256_kernel *zc_sha256_kernel_in_use(void);
/* The index-th kernel compiled in, best first; NULL past the end. */
const zc_sha256_kernel *zc_sha256_kernel_at(size_t index);
const char *zc_sha256_kernel_name(const zc_sha256_kernel *kernel);
int zc_sha256_kernel_usable(const zc_sha256_kernel *kernel);
/* 1 for a kernel that exists only so that tests can run a wide template on any CPU; never chosen, never listed. */
int zc_sha256_kernel_test_only(const zc_sha256_kernel *kernel);

/* 32 bytes for each leaf of each span; leaves of all spans share the lanes. */
void zc_sha256_leaves(const zc_sha256_kernel *kernel, const zc_sha256_span *spans, size_t count);
/* Root of the tree over `count` nodes of 32 bytes: leaf hashes, or roots of complete subtrees of one size. */
void zc_sha256_combine(const zc_sha256_kernel *kernel, const uint8_t *nodes, size_t count, uint8_t out[ZC_SHA256_BYTES]);
void zc_sha256_root(const zc_sha256_kernel *kernel, const uint8_t *data, size_t length, uint8_t out[ZC_SHA256_BYTES]);

void zc_sha256_tree_init(zc_sha256_tree *tree);
/* Append bytes. `length` must be a multiple of ZC_LEAF_BYTES in every call but the last. */
void zc_sha256_tree_append(zc_sha256_tree *tree, const zc_sha256_kernel *kernel, const uint8_t *data, size_t length);
void zc_sha256_tree_root(const zc_sha256_tree *tree, const zc_sha256_kernel *kernel, uint8_t out[ZC_SHA256_BYTES]);

#endif
