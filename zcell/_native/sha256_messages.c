/* Feeds messages of any length to the lanes of a kernel.
 *
 * Invariant: no byte outside data[0..length) of a span is read. The prefix shifts every message by one byte, so its first block
 * (prefix + 63 bytes) and its padded end are built in the lane's scratch; the blocks between are read where they lie. A lane
 * that finishes takes the next message at once; when none is left and few lanes are busy, the rest runs on the single-message
 * function of the kernel.
 */
#include "sha256_lanes.h"

#include <string.h>

typedef struct {
    const uint8_t *next; /* the run of blocks being read, and how many are left of it */
    size_t blocks;
    const uint8_t *body; /* runs still to come: whole blocks in the caller's data, then the end in scratch */
    size_t body_blocks;
    const uint8_t *end;
    size_t end_blocks;
    uint8_t *out; /* NULL: the lane is idle */
    uint8_t scratch[3 * ZC_BLOCK_BYTES];
} lane;

typedef struct {
    const zc_sha256_span *spans;
    size_t count;
    size_t stride;
    size_t span;
    size_t offset;
    size_t index;
    uint8_t prefix;
} source;

static inline void store_be32(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 24);
    out[1] = (uint8_t)(value >> 16);
    out[2] = (uint8_t)(value >> 8);
    out[3] = (uint8_t)value;
}

/* Append 0x80, zeros and the bit length after `used` bytes of the last block(s); returns the number of blocks. */
static size_t pad(uint8_t *end, size_t used, uint64_t message_bytes)
{
    size_t blocks = used + 9 <= ZC_BLOCK_BYTES ? 1 : 2;
    uint64_t bits = message_bytes * 8;
    end[used] = 0x80;
    memset(end + used + 1, 0, blocks * ZC_BLOCK_BYTES - used - 1);
    store_be32(end + blocks * ZC_BLOCK_BYTES - 8, (uint32_t)(bits >> 32));
    store_be32(end + blocks * ZC_BLOCK_BYTES - 4, (uint32_t)bits);
    return blocks;
}

static void lane_begin(lane *self, uint8_t prefix, const uint8_t *data, size_t length, uint8_t *out)
{
    const size_t first = ZC_BLOCK_BYTES - 1;
    size_t rest;
    self->out = out;
    self->scratch[0] = prefix;
    self->body_blocks = 0;
    self->end_blocks = 0;
    self->next = self->scratch;
    if (length < first) {
        memcpy(self->scratch + 1, data, length);
        self->blocks = pad(self->scratch, length + 1, length + 1);
        return;
    }
    memcpy(self->scratch + 1, data, first);
    self->body = data + first;
    self->body_blocks = (length - first) / ZC_BLOCK_BYTES;
    rest = (length - first) % ZC_BLOCK_BYTES;
    self->end = self->scratch + ZC_BLOCK_BYTES;
    if (rest)
        memcpy(self->scratch + ZC_BLOCK_BYTES, data + length - rest, rest);
    self->end_blocks = pad(self->scratch + ZC_BLOCK_BYTES, rest, (uint64_t)length + 1);
    self->blocks = 1;
    if (!self->body_blocks) { /* first block and end are neighbours: one run */
        self->blocks += self->end_blocks;
        self->end_blocks = 0;
    }
}

/* Take the next message into the lane; 0 when there is none. */
static int lane_refill(lane *self, source *from)
{
    const zc_sha256_span *span;
    size_t length;
    while (from->span < from->count && from->offset >= from->spans[from->span].length) {
        from->span++;
        from->offset = 0;
        from->index = 0;
    }
    if (from->span == from->count)
        return 0;
    span = &from->spans[from->span];
    length = span->length - from->offset;
    if (length > from->stride)
        length = from->stride;
    lane_begin(self, from->prefix, span->data + from->offset, length, span->out + from->index * ZC_SHA256_BYTES);
    from->offset += length;
    from->index++;
    return 1;
}

/* The lane has consumed `blocks` of its run; 1 when the whole message is done. */
static inline int lane_advance(lane *self, size_t blocks)
{
    self->next += blocks * ZC_BLOCK_BYTES;
    self->blocks -= blocks;
    if (self->blocks)
        return 0;
    if (self->body_blocks) {
        self->next = self->body;
        self->blocks = self->body_blocks;
        self->body_blocks = 0;
        return 0;
    }
    if (self->end_blocks) {
        self->next = self->end;
        self->blocks = self->end_blocks;
        self->end_blocks = 0;
        return 0;
    }
    return 1;
}

static void lane_finish(lane *self, const uint32_t *state, unsigned lanes)
{
    for (unsigned word = 0; word < 8; word++)
        store_be32(self->out + 4 * word, state[word * lanes]);
    self->out = NULL;
}

/* Finish what is left one message at a time. */
static void drain(const zc_sha256_kernel *kernel, lane *lanes, const uint32_t *state)
{
    _Alignas(64) uint32_t alone[8];
    for (unsigned i = 0; i < kernel->lanes; i++) {
        lane *self = &lanes[i];
        size_t blocks;
        if (!self->out)
            continue;
        for (unsigned word = 0; word < 8; word++)
            alone[word] = state[word * kernel->lanes + i];
        do {
            blocks = self->blocks;
            kernel->single(alone, &self->next, blocks);
        } while (!lane_advance(self, blocks));
        lane_finish(self, alone, 1);
    }
}

/* Compress as many blocks as every busy lane has in its run; idle lanes shadow a busy one and are ignored. */
static unsigned step(const zc_sha256_kernel *kernel, lane *lanes, uint32_t *state)
{
    const uint8_t *blocks[ZC_MAX_LANES];
    const uint8_t *busy = NULL;
    size_t run = SIZE_MAX;
    unsigned finished = 0;
    for (unsigned i = 0; i < kernel->lanes; i++) {
        if (!lanes[i].out)
            continue;
        busy = lanes[i].next;
        if (lanes[i].blocks < run)
            run = lanes[i].blocks;
    }
    for (unsigned i = 0; i < kernel->lanes; i++)
        blocks[i] = lanes[i].out ? lanes[i].next : busy;
    /* `busy` is the last busy lane's run, which has at least `run` blocks */
    kernel->compress(state, blocks, run);
    for (unsigned i = 0; i < kernel->lanes; i++) {
        if (lanes[i].out && lane_advance(&lanes[i], run)) {
            lane_finish(&lanes[i], state + i, kernel->lanes);
            finished++;
        }
    }
    return finished;
}

void zc_sha256_messages(const zc_sha256_kernel *kernel, uint8_t prefix, size_t stride, const zc_sha256_span *spans, size_t count)
{
    _Alignas(64) uint32_t state[8 * ZC_MAX_LANES];
    lane lanes[ZC_MAX_LANES];
    source from = {.spans = spans, .count = count, .stride = stride, .prefix = prefix};
    unsigned active = 0;
    for (unsigned i = 0; i < kernel->lanes; i++)
        lanes[i].out = NULL;
    memset(state, 0, sizeof state);
    for (;;) {
        for (unsigned i = 0; i < kernel->lanes && active < kernel->lanes; i++) {
            if (lanes[i].out)
                continue;
            if (!lane_refill(&lanes[i], &from))
                break;
            for (unsigned word = 0; word < 8; word++)
                state[word * kernel->lanes + i] = zc_sha256_initial[word];
            active++;
        }
        if (!active)
            return;
        if (active < kernel->worthwhile) {
            drain(kernel, lanes, state);
            return;
        }
        active -= step(kernel, lanes, state);
    }
}
