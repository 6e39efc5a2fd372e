#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include "chunk_frame.h"

#include <errno.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const uint8_t MAGIC[4] = {'Z', 'C', 'K', '1'};

enum { VERSION = 1 };
enum { AT_VERSION = 4, AT_FLAGS = 5, AT_RESERVED = 6, AT_INDEX = 8, AT_OFFSET = 16, AT_LENGTH = 24, AT_RESERVED_TOO = 28 };
enum { AT_DIGEST = 32, AT_CHECKSUM = 64, AT_CHECK = 72 };

static void put_le(uint8_t *out, uint64_t value, int width) {
    for (int i = 0; i < width; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_le(const uint8_t *data, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value |= (uint64_t)data[i] << (8 * i);
    return value;
}

void zc_frame_write(uint8_t *out, const zc_frame *frame) {
    memset(out, 0, ZC_FRAME_HEADER_BYTES);
    memcpy(out, MAGIC, sizeof MAGIC);
    out[AT_VERSION] = VERSION;
    out[AT_FLAGS] = frame->flags;
    put_le(out + AT_INDEX, frame->index, 8);
    put_le(out + AT_OFFSET, frame->offset, 8);
    put_le(out + AT_LENGTH, frame->length, 4);
    if (frame->flags & ZC_FLAG_DIGEST)
        memcpy(out + AT_DIGEST, frame->digest, sizeof frame->digest);
    if (frame->flags & ZC_FLAG_CHECKSUM)
        put_le(out + AT_CHECKSUM, frame->checksum, 8);
}

void zc_frame_write_check(uint8_t *out, uint64_t check) {
    put_le(out + AT_CHECK, check, 8);
}

static int any_set(const uint8_t *data, size_t length) {
    uint8_t seen = 0;
    for (size_t i = 0; i < length; i++)
        seen |= data[i];
    return seen != 0;
}

zc_frame_fault zc_frame_read(const uint8_t *data, size_t size, uint64_t max_length, zc_frame *frame) {
    if (size < ZC_FRAME_HEADER_BYTES)
        return ZC_FRAME_SHORT;
    if (memcmp(data, MAGIC, sizeof MAGIC) != 0)
        return ZC_FRAME_MAGIC;
    if (data[AT_VERSION] != VERSION)
        return ZC_FRAME_VERSION;
    frame->flags = data[AT_FLAGS];
    if (frame->flags & ~ZC_FLAGS_KNOWN)
        return ZC_FRAME_FLAGS;
    if (any_set(data + AT_RESERVED, 2) || any_set(data + AT_RESERVED_TOO, 4))
        return ZC_FRAME_RESERVED;
    frame->index = get_le(data + AT_INDEX, 8);
    frame->offset = get_le(data + AT_OFFSET, 8);
    frame->length = (uint32_t)get_le(data + AT_LENGTH, 4);
    frame->checksum = get_le(data + AT_CHECKSUM, 8);
    frame->header_check = get_le(data + AT_CHECK, 8);
    memcpy(frame->digest, data + AT_DIGEST, sizeof frame->digest);
    if (frame->length > max_length || frame->length > ZC_FRAME_MAX_PAYLOAD)
        return ZC_FRAME_TOO_LONG;
    if (frame->length != size - ZC_FRAME_HEADER_BYTES)
        return ZC_FRAME_LENGTH;
    if (frame->offset > (uint64_t)INT64_MAX - frame->length)
        return ZC_FRAME_RANGE;
    if (!(frame->flags & ZC_FLAG_DIGEST) && any_set(data + AT_DIGEST, 32))
        return ZC_FRAME_STRAY_DIGEST;
    if (!(frame->flags & ZC_FLAG_CHECKSUM) && frame->checksum != 0)
        return ZC_FRAME_STRAY_CHECKSUM;
    return ZC_FRAME_OK;
}

int zc_pread_range(int fd, uint8_t *data, size_t length, uint64_t offset, size_t *done) {
    while (*done < length) {
        ssize_t got = pread(fd, data + *done, length - *done, (off_t)(offset + *done));
        if (got < 0)
            return errno;
        if (got == 0)
            return 0;
        *done += (size_t)got;
    }
    return 0;
}

int zc_pwrite_range(int fd, const uint8_t *data, size_t length, uint64_t offset, size_t *done) {
    while (*done < length) {
        ssize_t put = pwrite(fd, data + *done, length - *done, (off_t)(offset + *done));
        if (put < 0)
            return errno;
        if (put == 0)
            return EIO;
        *done += (size_t)put;
    }
    return 0;
}
