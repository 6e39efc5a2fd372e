/* The Merkle Tree Hash of RFC 9162 section 2.1.1 over 64 KiB leaves.
 *
 * Invariant: the stack of a tree holds the roots of its complete subtrees, one for each set bit of its leaf count, largest
 * first. Splitting at the largest power of two below n, as the RFC does, and joining equal-sized neighbours from the left give
 * the same tree; what is left on the stack at the end is joined from the right.
 */
#include "sha256_lanes.h"

#include <string.h>

static const uint8_t nothing[ZC_SHA256_BYTES] = { /* SHA-256(""), the root of an empty object */
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
};

/* Join `count` pairs of neighbouring nodes in place: the result is nodes[0..count). */
static void join(const zc_sha256_kernel *kernel, uint8_t *nodes, size_t count)
{
    const zc_sha256_span pairs = {.data = nodes, .length = count * 2 * ZC_SHA256_BYTES, .out = nodes};
    zc_sha256_messages(kernel, 0x01, 2 * ZC_SHA256_BYTES, &pairs, 1);
}

/* Put the root of a complete subtree of 2**level leaves at the right edge and carry as a binary counter does. */
static void push(zc_sha256_tree *tree, const zc_sha256_kernel *kernel, const uint8_t *node, unsigned level)
{
    uint64_t before = tree->leaves >> level;
    tree->leaves += (uint64_t)1 << level;
    memcpy(tree->stack[tree->depth++], node, ZC_SHA256_BYTES);
    for (; before & 1; before >>= 1) {
        tree->depth--;
        join(kernel, tree->stack[tree->depth - 1], 1);
    }
}

/* Append up to ZC_BATCH_LEAVES nodes of one level (called 0), reducing complete aligned runs on all lanes; `nodes` is scratch. */
static void push_nodes(zc_sha256_tree *tree, const zc_sha256_kernel *kernel, uint8_t *nodes, size_t count)
{
    while (count) {
        unsigned level = 0;
        size_t run = 1;
        while (2 * run <= count && !(tree->leaves & (2 * run - 1))) {
            run *= 2;
            level++;
        }
        for (size_t pairs = run / 2; pairs; pairs /= 2)
            join(kernel, nodes, pairs);
        push(tree, kernel, nodes, level);
        nodes += run * ZC_SHA256_BYTES;
        count -= run;
    }
}

void zc_sha256_tree_init(zc_sha256_tree *tree)
{
    tree->leaves = 0;
    tree->depth = 0;
}

void zc_sha256_tree_append(zc_sha256_tree *tree, const zc_sha256_kernel *kernel, const uint8_t *data, size_t length)
{
    uint8_t nodes[ZC_BATCH_LEAVES * ZC_SHA256_BYTES];
    while (length) {
        size_t part = length < (size_t)ZC_BATCH_LEAVES * ZC_LEAF_BYTES ? length : (size_t)ZC_BATCH_LEAVES * ZC_LEAF_BYTES;
        const zc_sha256_span span = {.data = data, .length = part, .out = nodes};
        zc_sha256_messages(kernel, 0x00, ZC_LEAF_BYTES, &span, 1);
        push_nodes(tree, kernel, nodes, (part + ZC_LEAF_BYTES - 1) / ZC_LEAF_BYTES);
        data += part;
        length -= part;
    }
}

void zc_sha256_tree_root(const zc_sha256_tree *tree, const zc_sha256_kernel *kernel, uint8_t out[ZC_SHA256_BYTES])
{
    uint8_t pair[2 * ZC_SHA256_BYTES];
    unsigned depth = tree->depth;
    if (!depth) {
        memcpy(out, nothing, ZC_SHA256_BYTES);
        return;
    }
    memcpy(out, tree->stack[--depth], ZC_SHA256_BYTES);
    while (depth) {
        memcpy(pair, tree->stack[--depth], ZC_SHA256_BYTES);
        memcpy(pair + ZC_SHA256_BYTES, out, ZC_SHA256_BYTES);
        join(kernel, pair, 1);
        memcpy(out, pair, ZC_SHA256_BYTES);
    }
}

void zc_sha256_leaves(const zc_sha256_kernel *kernel, const zc_sha256_span *spans, size_t count)
{
    zc_sha256_messages(kernel, 0x00, ZC_LEAF_BYTES, spans, count);
}

void zc_sha256_combine(const zc_sha256_kernel *kernel, const uint8_t *nodes, size_t count, uint8_t out[ZC_SHA256_BYTES])
{
    uint8_t batch[ZC_BATCH_LEAVES * ZC_SHA256_BYTES];
    zc_sha256_tree tree;
    zc_sha256_tree_init(&tree);
    while (count) {
        size_t part = count < ZC_BATCH_LEAVES ? count : ZC_BATCH_LEAVES;
        memcpy(batch, nodes, part * ZC_SHA256_BYTES);
        push_nodes(&tree, kernel, batch, part);
        nodes += part * ZC_SHA256_BYTES;
        count -= part;
    }
    zc_sha256_tree_root(&tree, kernel, out);
}

void zc_sha256_root(const zc_sha256_kernel *kernel, const uint8_t *data, size_t length, uint8_t out[ZC_SHA256_BYTES])
{
    zc_sha256_tree tree;
    zc_sha256_tree_init(&tree);
    zc_sha256_tree_append(&tree, kernel, data, length);
    zc_sha256_tree_root(&tree, kernel, out);
}

void zc_sha256_chunk_root(const uint8_t *data, size_t length, uint8_t out[ZC_SHA256_BYTES])
{
    zc_sha256_root(zc_sha256_kernel_or_default(), data, length, out);
}
