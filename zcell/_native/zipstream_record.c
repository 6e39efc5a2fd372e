#include "zipstream_record.h"

#include <string.h>

enum { EXTRA_ZIP64 = 0x0001, EXTRA_TIMESTAMP = 0x5455, EXTRA_UNICODE_PATH = 0x7075 };
enum { VERSION_PLAIN = 20, VERSION_ZIP64 = 45, HOST_UNIX = 3 };

static const uint32_t FULL32 = 0xffffffffu;
static const uint16_t FULL16 = 0xffffu;

/* --- bytes -------------------------------------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *out, uint64_t value, int width) {
    for (int i = 0; i < width; i++)
        out[i] = (uint8_t)(value >> (8 * i));
    return out + width;
}

static uint64_t get(const uint8_t *data, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value |= (uint64_t)data[i] << (8 * i);
    return value;
}

static uint16_t get16(const uint8_t *data) {
    return (uint16_t)get(data, 2);
}

static uint32_t get32(const uint8_t *data) {
    return (uint32_t)get(data, 4);
}

static uint32_t fit32(uint64_t value) {
    return value >= FULL32 ? FULL32 : (uint32_t)value;
}

/* --- writing ------------------------------------------------------------------------------------------------------------ */

static uint8_t *put_timestamp(uint8_t *out, const zc_zip_entry *entry) {
    if (!entry->has_mtime)
        return out;
    out = put(out, EXTRA_TIMESTAMP, 2);
    out = put(out, 5, 2);
    out = put(out, 1, 1); /* the modification time only */
    return put(out, (uint32_t)entry->mtime, 4);
}

static uint8_t *put_name(uint8_t *out, const zc_zip_entry *entry) {
    memcpy(out, entry->name, entry->name_bytes);
    return out + entry->name_bytes;
}

size_t zc_zip_write_local(uint8_t *out, const zc_zip_entry *entry) {
    uint8_t *at = out;
    at = put(at, ZC_ZIP_LOCAL_SIGNATURE, 4);
    at = put(at, entry->zip64 ? VERSION_ZIP64 : VERSION_PLAIN, 2);
    at = put(at, entry->flags, 2);
    at = put(at, entry->method, 2);
    at = put(at, entry->dos_time, 4);
    at = put(at, entry->crc, 4);
    at = put(at, entry->zip64 ? FULL32 : entry->compressed, 4);
    at = put(at, entry->zip64 ? FULL32 : entry->size, 4);
    at = put(at, entry->name_bytes, 2);
    at = put(at, (entry->zip64 ? 20u : 0u) + (entry->has_mtime ? 9u : 0u), 2);
    at = put_name(at, entry);
    if (entry->zip64) {
        at = put(at, EXTRA_ZIP64, 2);
        at = put(at, 16, 2);
        at = put(at, entry->size, 8);
        at = put(at, entry->compressed, 8);
    }
    return (size_t)(put_timestamp(at, entry) - out);
}

size_t zc_zip_write_descriptor(uint8_t *out, const zc_zip_entry *entry) {
    int width = entry->zip64 ? 8 : 4;
    uint8_t *at = out;
    at = put(at, ZC_ZIP_DESCRIPTOR_SIGNATURE, 4);
    at = put(at, entry->crc, 4);
    at = put(at, entry->compressed, width);
    at = put(at, entry->size, width);
    return (size_t)(at - out);
}

size_t zc_zip_write_central(uint8_t *out, const zc_zip_entry *entry) {
    /* in this order, and only those that do not fit (4.5.3) */
    const uint64_t wide[3] = {entry->size, entry->compressed, entry->offset};
    unsigned needed = 0;
    for (int i = 0; i < 3; i++)
        needed += wide[i] >= FULL32;
    unsigned version = needed || entry->zip64 ? VERSION_ZIP64 : VERSION_PLAIN;
    uint8_t *at = out;
    at = put(at, ZC_ZIP_CENTRAL_SIGNATURE, 4);
    at = put(at, HOST_UNIX << 8 | VERSION_ZIP64, 2);
    at = put(at, version, 2);
    at = put(at, entry->flags, 2);
    at = put(at, entry->method, 2);
    at = put(at, entry->dos_time, 4);
    at = put(at, entry->crc, 4);
    at = put(at, fit32(entry->compressed), 4);
    at = put(at, fit32(entry->size), 4);
    at = put(at, entry->name_bytes, 2);
    at = put(at, (needed ? 4u + 8u * needed : 0u) + (entry->has_mtime ? 9u : 0u), 2);
    at = put(at, 0, 2); /* comment */
    at = put(at, 0, 2); /* disk */
    at = put(at, 0, 2); /* internal attributes */
    at = put(at, entry->attributes, 4);
    at = put(at, fit32(entry->offset), 4);
    at = put_name(at, entry);
    if (needed) {
        at = put(at, EXTRA_ZIP64, 2);
        at = put(at, 8u * needed, 2);
        for (int i = 0; i < 3; i++)
            if (wide[i] >= FULL32)
                at = put(at, wide[i], 8);
    }
    return (size_t)(put_timestamp(at, entry) - out);
}

size_t zc_zip_write_end(uint8_t *out, const zc_zip_end *end) {
    int zip64 = end->entries >= FULL16 || end->directory_bytes >= FULL32 || end->directory_offset >= FULL32;
    uint16_t entries = end->entries >= FULL16 ? FULL16 : (uint16_t)end->entries;
    uint8_t *at = out;
    if (zip64) {
        at = put(at, ZC_ZIP_END64_SIGNATURE, 4);
        at = put(at, ZC_ZIP_END64_BYTES - 12, 8);
        at = put(at, HOST_UNIX << 8 | VERSION_ZIP64, 2);
        at = put(at, VERSION_ZIP64, 2);
        at = put(at, 0, 8); /* both disk numbers */
        at = put(at, end->entries, 8);
        at = put(at, end->entries, 8);
        at = put(at, end->directory_bytes, 8);
        at = put(at, end->directory_offset, 8);
        at = put(at, ZC_ZIP_LOCATOR_SIGNATURE, 4);
        at = put(at, 0, 4);
        at = put(at, end->directory_offset + end->directory_bytes, 8);
        at = put(at, 1, 4); /* disks in all */
    }
    at = put(at, ZC_ZIP_END_SIGNATURE, 4);
    at = put(at, 0, 4);
    at = put(at, entries, 2);
    at = put(at, entries, 2);
    at = put(at, fit32(end->directory_bytes), 4);
    at = put(at, fit32(end->directory_offset), 4);
    at = put(at, 0, 2);
    return (size_t)(at - out);
}

/* --- reading ------------------------------------------------------------------------------------------------------------ */

/* Takes the next 8-byte value of a ZIP64 field when the 32-bit one stands for it. */
static int take_wide(const uint8_t *field, size_t size, size_t *used, uint64_t *value) {
    if (*value != FULL32)
        return 1;
    if (size - *used < 8)
        return 0;
    *value = get(field + *used, 8);
    *used += 8;
    return 1;
}

static zc_zip_fault read_zip64(const uint8_t *field, size_t size, int central, zc_zip_entry *entry) {
    size_t used = 0;
    if (entry->zip64)
        return ZC_ZIP_EXTRA_TWICE;
    entry->zip64 = 1;
    if (!take_wide(field, size, &used, &entry->size) || !take_wide(field, size, &used, &entry->compressed))
        return ZC_ZIP_ZIP64_MISSING;
    if (central && !take_wide(field, size, &used, &entry->offset))
        return ZC_ZIP_ZIP64_MISSING;
    return ZC_ZIP_OK;
}

static zc_zip_fault read_timestamp(const uint8_t *field, size_t size, zc_zip_entry *entry) {
    if (entry->has_mtime)
        return ZC_ZIP_EXTRA_TWICE;
    if (size < 1)
        return ZC_ZIP_EXTRA;
    if (!(field[0] & 1))
        return ZC_ZIP_OK;
    if (size < 5)
        return ZC_ZIP_EXTRA;
    entry->has_mtime = 1;
    entry->mtime = (int32_t)get32(field + 1);
    return ZC_ZIP_OK;
}

/* The Unicode path field (4.6.9) gives an entry a second name, which some readers use and others do not: it must be the same. */
static zc_zip_fault read_unicode_path(const uint8_t *field, size_t size, const zc_zip_entry *entry) {
    if (size < 5 || size - 5 != entry->name_bytes || memcmp(field + 5, entry->name, entry->name_bytes) != 0)
        return ZC_ZIP_OTHER_NAME;
    return ZC_ZIP_OK;
}

static zc_zip_fault read_extra(const uint8_t *extra, size_t size, int central, zc_zip_entry *entry) {
    while (size > 0) {
        if (size < 4)
            return ZC_ZIP_EXTRA;
        uint16_t kind = get16(extra);
        size_t length = get16(extra + 2);
        if (length > size - 4)
            return ZC_ZIP_EXTRA;
        zc_zip_fault fault = ZC_ZIP_OK;
        if (kind == EXTRA_ZIP64)
            fault = read_zip64(extra + 4, length, central, entry);
        else if (kind == EXTRA_TIMESTAMP)
            fault = read_timestamp(extra + 4, length, entry);
        else if (kind == EXTRA_UNICODE_PATH)
            fault = read_unicode_path(extra + 4, length, entry);
        if (fault != ZC_ZIP_OK)
            return fault;
        extra += 4 + length;
        size -= 4 + length;
    }
    return ZC_ZIP_OK;
}

/* A value that says "look in the ZIP64 field" in a record without that field. */
static zc_zip_fault check_saturated(const zc_zip_entry *entry) {
    if (!entry->zip64 && (entry->size == FULL32 || entry->compressed == FULL32 || entry->offset == FULL32))
        return ZC_ZIP_ZIP64_MISSING;
    return ZC_ZIP_OK;
}

size_t zc_zip_local_tail(const uint8_t *fixed) {
    return (size_t)get16(fixed + 26) + get16(fixed + 28);
}

size_t zc_zip_central_tail(const uint8_t *fixed) {
    return (size_t)get16(fixed + 28) + get16(fixed + 30) + get16(fixed + 32);
}

zc_zip_fault zc_zip_read_local(const uint8_t *data, size_t size, zc_zip_entry *entry) {
    memset(entry, 0, sizeof *entry);
    if (size < ZC_ZIP_LOCAL_BYTES || size != ZC_ZIP_LOCAL_BYTES + zc_zip_local_tail(data))
        return ZC_ZIP_SHORT;
    if (get32(data) != ZC_ZIP_LOCAL_SIGNATURE)
        return ZC_ZIP_SIGNATURE;
    entry->flags = get16(data + 6);
    entry->method = get16(data + 8);
    entry->dos_time = get32(data + 10);
    entry->crc = get32(data + 14);
    entry->compressed = get32(data + 18);
    entry->size = get32(data + 22);
    entry->name_bytes = get16(data + 26);
    entry->name = data + ZC_ZIP_LOCAL_BYTES;
    zc_zip_fault fault = read_extra(entry->name + entry->name_bytes, get16(data + 28), 0, entry);
    return fault != ZC_ZIP_OK ? fault : check_saturated(entry);
}

zc_zip_fault zc_zip_read_central(const uint8_t *data, size_t size, zc_zip_entry *entry) {
    memset(entry, 0, sizeof *entry);
    if (size < ZC_ZIP_CENTRAL_BYTES || size != ZC_ZIP_CENTRAL_BYTES + zc_zip_central_tail(data))
        return ZC_ZIP_SHORT;
    if (get32(data) != ZC_ZIP_CENTRAL_SIGNATURE)
        return ZC_ZIP_SIGNATURE;
    entry->host = data[5];
    entry->flags = get16(data + 8);
    entry->method = get16(data + 10);
    entry->dos_time = get32(data + 12);
    entry->crc = get32(data + 16);
    entry->compressed = get32(data + 20);
    entry->size = get32(data + 24);
    entry->name_bytes = get16(data + 28);
    entry->attributes = get32(data + 38);
    entry->offset = get32(data + 42);
    entry->name = data + ZC_ZIP_CENTRAL_BYTES;
    if (get16(data + 34) != 0)
        return ZC_ZIP_DISKS;
    zc_zip_fault fault = read_extra(entry->name + entry->name_bytes, get16(data + 30), 1, entry);
    return fault != ZC_ZIP_OK ? fault : check_saturated(entry);
}

zc_zip_fault zc_zip_read_end(const uint8_t *data, size_t size, zc_zip_end *end) {
    memset(end, 0, sizeof *end);
    if (size != ZC_ZIP_END_BYTES)
        return ZC_ZIP_SHORT;
    if (get32(data) != ZC_ZIP_END_SIGNATURE)
        return ZC_ZIP_SIGNATURE;
    if (get32(data + 4) != 0)
        return ZC_ZIP_DISKS;
    end->entries = get16(data + 10);
    end->directory_bytes = get32(data + 12);
    end->directory_offset = get32(data + 16);
    end->comment_bytes = get16(data + 20);
    return get16(data + 8) == end->entries ? ZC_ZIP_OK : ZC_ZIP_COUNTS;
}

zc_zip_fault zc_zip_read_end64(const uint8_t *data, size_t size, zc_zip_end *end) {
    memset(end, 0, sizeof *end);
    if (size != ZC_ZIP_END64_BYTES)
        return ZC_ZIP_SHORT;
    if (get32(data) != ZC_ZIP_END64_SIGNATURE)
        return ZC_ZIP_SIGNATURE;
    if (get(data + 4, 8) != ZC_ZIP_END64_BYTES - 12)
        return ZC_ZIP_END64_SIZE;
    if (get(data + 16, 8) != 0)
        return ZC_ZIP_DISKS;
    end->entries = get(data + 32, 8);
    end->directory_bytes = get(data + 40, 8);
    end->directory_offset = get(data + 48, 8);
    return get(data + 24, 8) == end->entries ? ZC_ZIP_OK : ZC_ZIP_COUNTS;
}

zc_zip_fault zc_zip_read_locator(const uint8_t *data, size_t size, uint64_t *offset) {
    if (size != ZC_ZIP_LOCATOR_BYTES)
        return ZC_ZIP_SHORT;
    if (get32(data) != ZC_ZIP_LOCATOR_SIGNATURE)
        return ZC_ZIP_SIGNATURE;
    if (get32(data + 4) != 0 || get32(data + 16) > 1)
        return ZC_ZIP_DISKS;
    *offset = get(data + 8, 8);
    return ZC_ZIP_OK;
}
