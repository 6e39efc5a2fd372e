/* The records of a ZIP archive (APPNOTE 6.3.10, section 4.3), written and read. Plain C: no Python, no allocation, no state.
 * Readers take whole records of a known size, look at nothing beyond it, and name the first rule that is broken. */
#ifndef ZCELL_ZIPSTREAM_RECORD_H
#define ZCELL_ZIPSTREAM_RECORD_H

#include <stddef.h>
#include <stdint.h>

#define ZC_ZIP_LOCAL_BYTES 30u
#define ZC_ZIP_CENTRAL_BYTES 46u
#define ZC_ZIP_END_BYTES 22u
#define ZC_ZIP_END64_BYTES 56u
#define ZC_ZIP_LOCATOR_BYTES 20u

#define ZC_ZIP_LOCAL_SIGNATURE 0x04034b50u
#define ZC_ZIP_CENTRAL_SIGNATURE 0x02014b50u
#define ZC_ZIP_DESCRIPTOR_SIGNATURE 0x08074b50u
#define ZC_ZIP_END_SIGNATURE 0x06054b50u
#define ZC_ZIP_END64_SIGNATURE 0x06064b50u
#define ZC_ZIP_LOCATOR_SIGNATURE 0x07064b50u

#define ZC_ZIP_DESCRIPTOR_FLAG 0x0008u

/* The most bytes that a record takes besides its name. */
#define ZC_ZIP_LOCAL_MOST (ZC_ZIP_LOCAL_BYTES + 20u + 9u)
#define ZC_ZIP_CENTRAL_MOST (ZC_ZIP_CENTRAL_BYTES + 28u + 9u)
#define ZC_ZIP_DESCRIPTOR_MOST 24u
#define ZC_ZIP_END_MOST (ZC_ZIP_END64_BYTES + ZC_ZIP_LOCATOR_BYTES + ZC_ZIP_END_BYTES)

typedef struct {
    const uint8_t *name;
    uint64_t compressed; /* bytes in the archive */
    uint64_t size;       /* bytes of the file */
    uint64_t offset;     /* of the local header; central records only */
    uint32_t crc;
    uint32_t dos_time; /* date << 16 | time */
    uint32_t attributes; /* Unix mode << 16 | DOS attributes; central records only */
    int32_t mtime;       /* of the extended timestamp field, seconds since 1970 */
    uint16_t name_bytes;
    uint16_t flags;
    uint16_t method;
    uint8_t host; /* upper byte of "version made by"; central records only */
    uint8_t has_mtime;
    uint8_t zip64; /* the ZIP64 extra field is there: a descriptor has 8-byte sizes */
} zc_zip_entry;

typedef struct {
    uint64_t entries;
    uint64_t directory_bytes;
    uint64_t directory_offset;
    uint16_t comment_bytes;
} zc_zip_end;

typedef enum {
    ZC_ZIP_OK = 0,
    ZC_ZIP_SHORT,
    ZC_ZIP_SIGNATURE,
    ZC_ZIP_EXTRA,
    ZC_ZIP_EXTRA_TWICE,
    ZC_ZIP_ZIP64_MISSING,
    ZC_ZIP_OTHER_NAME,
    ZC_ZIP_DISKS,
    ZC_ZIP_END64_SIZE,
    ZC_ZIP_COUNTS
} zc_zip_fault;

/* Writers return the bytes written. `zip64` in a local header asks for the ZIP64 field, in a descriptor for 8-byte sizes; a
 * central header and the end use ZIP64 where a value needs it. */
size_t zc_zip_write_local(uint8_t *out, const zc_zip_entry *entry);
size_t zc_zip_write_descriptor(uint8_t *out, const zc_zip_entry *entry);
size_t zc_zip_write_central(uint8_t *out, const zc_zip_entry *entry);
size_t zc_zip_write_end(uint8_t *out, const zc_zip_end *end);

/* Bytes of name, extra field and comment behind the fixed part of a record, which must be there in full. */
size_t zc_zip_local_tail(const uint8_t *fixed);
size_t zc_zip_central_tail(const uint8_t *fixed);

zc_zip_fault zc_zip_read_local(const uint8_t *data, size_t size, zc_zip_entry *entry);
zc_zip_fault zc_zip_read_central(const uint8_t *data, size_t size, zc_zip_entry *entry);
/* The end record without its comment; `end` keeps the saturated values that stand for ZIP64. */
zc_zip_fault zc_zip_read_end(const uint8_t *data, size_t size, zc_zip_end *end);
/* The ZIP64 end record; its fixed part only, an extensible data sector is refused. */
zc_zip_fault zc_zip_read_end64(const uint8_t *data, size_t size, zc_zip_end *end);
/* The locator; `*offset` is where it says the ZIP64 end record begins. */
zc_zip_fault zc_zip_read_locator(const uint8_t *data, size_t size, uint64_t *offset);

#endif
