/* The header of a chunk frame, and whole-range file I/O. Plain C: no Python, no allocation, safe without the GIL.
 * The layout and its rules are described once, in chunk.pyx. */
#ifndef ZCELL_CHUNK_FRAME_H
#define ZCELL_CHUNK_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define ZC_FRAME_HEADER_BYTES 80u
#define ZC_FRAME_CHECKED_BYTES 72u /* what the header check covers: everything before it */
#define ZC_FRAME_MAX_PAYLOAD (16u * 1024u * 1024u)

#define ZC_FLAG_LAST 1u
#define ZC_FLAG_DIGEST 2u
#define ZC_FLAG_CHECKSUM 4u
#define ZC_FLAG_SEALED 8u
#define ZC_FLAGS_KNOWN 15u

typedef struct {
    uint64_t index;
    uint64_t offset;
    uint64_t checksum;
    uint64_t header_check;
    uint32_t length;
    uint8_t flags;
    uint8_t digest[32];
} zc_frame;

typedef enum {
    ZC_FRAME_OK = 0,
    ZC_FRAME_SHORT,
    ZC_FRAME_MAGIC,
    ZC_FRAME_VERSION,
    ZC_FRAME_FLAGS,
    ZC_FRAME_RESERVED,
    ZC_FRAME_TOO_LONG,
    ZC_FRAME_LENGTH,
    ZC_FRAME_RANGE,
    ZC_FRAME_STRAY_DIGEST,
    ZC_FRAME_STRAY_CHECKSUM
} zc_frame_fault;

/* Writes the 72 checked bytes of a header; `out` has room for ZC_FRAME_HEADER_BYTES. */
void zc_frame_write(uint8_t *out, const zc_frame *frame);

/* Writes the header check behind them. */
void zc_frame_write_check(uint8_t *out, uint64_t check);

/* Reads a header out of a frame of `size` bytes. Reads nothing beyond `size`. Does not compute the header check. */
zc_frame_fault zc_frame_read(const uint8_t *data, size_t size, uint64_t max_length, zc_frame *frame);

/* Read or write `length` bytes at `offset`, from `*done` on, as far as it goes. Returns 0 at the end (for a read: `*done` <
 * `length` means the file ended), else an errno. EINTR is returned, not retried, so that the caller can look at signals and
 * call again. */
int zc_pread_range(int fd, uint8_t *data, size_t length, uint64_t offset, size_t *done);
int zc_pwrite_range(int fd, const uint8_t *data, size_t length, uint64_t offset, size_t *done);

#endif
