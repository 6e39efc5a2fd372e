/* SHA-256 over several messages at once, a template over GCC/Clang vector extensions. No include guard: a file includes it once
 * for each width after defining
 *
 *   ZC_LANES      4, 8 or 16: 32-bit lanes of the vector, one message in each
 *   ZC_VECTOR(n)  the name of a function or type of this instance
 *   ZC_TARGET     the target attribute of its functions, or nothing
 *
 *   ZC_SINGLE     optional: also make ZC_VECTOR(single), for one message
 *
 * and gets ZC_VECTOR(compress), a zc_sha256_compress. Register widths are the compiler's business: a 16-lane instance compiled
 * without AVX-512 computes the same bits in narrower registers, which is how it is tested.
 */
#include <string.h>

#ifndef ZC_SHUFFLE
#if defined(__clang__) || __GNUC__ >= 12
#define ZC_SHUFFLE(mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ZC_SHUFFLE(mask, a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif
#define ZC_INLINE static inline __attribute__((always_inline))
/* indices of one 128-bit group of a shuffle, moved to group g of vectors of `n` elements */
#define ZC_REV4(i) (i) + 3, (i) + 2, (i) + 1, (i)
#define ZC_REV16(i) ZC_REV4(i), ZC_REV4((i) + 4), ZC_REV4((i) + 8), ZC_REV4((i) + 12)
#define ZC_LO32(i, n) (i), (i) + (n), (i) + 1, (i) + (n) + 1
#define ZC_HI32(i, n) (i) + 2, (i) + (n) + 2, (i) + 3, (i) + (n) + 3
#define ZC_LO64(i, n) (i), (i) + 1, (i) + (n), (i) + (n) + 1
#define ZC_HI64(i, n) (i) + 2, (i) + 3, (i) + (n) + 2, (i) + (n) + 3
#define ZC_GROUP(i) (i), (i) + 1, (i) + 2, (i) + 3
#endif

typedef uint32_t ZC_VECTOR(words) __attribute__((vector_size(4 * ZC_LANES)));
typedef uint8_t ZC_VECTOR(bytes) __attribute__((vector_size(4 * ZC_LANES)));

#if ZC_LANES == 4
#define ZC_GROUPS(pattern) pattern(0, 4)
#define ZC_BYTE_GROUPS ZC_REV16(0)
#elif ZC_LANES == 8
#define ZC_GROUPS(pattern) pattern(0, 8), pattern(4, 8)
#define ZC_BYTE_GROUPS ZC_REV16(0), ZC_REV16(16)
#elif ZC_LANES == 16
#define ZC_GROUPS(pattern) pattern(0, 16), pattern(4, 16), pattern(8, 16), pattern(12, 16)
#define ZC_BYTE_GROUPS ZC_REV16(0), ZC_REV16(16), ZC_REV16(32), ZC_REV16(48)
#endif

#define ZC_WORDS ZC_VECTOR(words)
#define ZC_PERMUTE(a, b, ...) ZC_SHUFFLE(ZC_WORDS, a, b, __VA_ARGS__)

/* Transpose the 4x4 words in each 128-bit group of four rows. */
ZC_TARGET ZC_INLINE void ZC_VECTOR(transpose_groups)(ZC_WORDS *r)
{
    ZC_WORDS a = ZC_PERMUTE(r[0], r[1], ZC_GROUPS(ZC_LO32)), b = ZC_PERMUTE(r[0], r[1], ZC_GROUPS(ZC_HI32));
    ZC_WORDS c = ZC_PERMUTE(r[2], r[3], ZC_GROUPS(ZC_LO32)), d = ZC_PERMUTE(r[2], r[3], ZC_GROUPS(ZC_HI32));
    r[0] = ZC_PERMUTE(a, c, ZC_GROUPS(ZC_LO64));
    r[1] = ZC_PERMUTE(a, c, ZC_GROUPS(ZC_HI64));
    r[2] = ZC_PERMUTE(b, d, ZC_GROUPS(ZC_LO64));
    r[3] = ZC_PERMUTE(b, d, ZC_GROUPS(ZC_HI64));
}

/* rows[i] holds ZC_LANES consecutive words of lane i; afterwards rows[t] holds word t of every lane. */
ZC_TARGET ZC_INLINE void ZC_VECTOR(transpose)(ZC_WORDS *rows)
{
    for (unsigned i = 0; i < ZC_LANES; i += 4)
        ZC_VECTOR(transpose_groups)(rows + i);
#if ZC_LANES == 8
    for (unsigned i = 0; i < 4; i++) {
        ZC_WORDS a = rows[i], b = rows[i + 4];
        rows[i] = ZC_PERMUTE(a, b, ZC_GROUP(0), ZC_GROUP(8));
        rows[i + 4] = ZC_PERMUTE(a, b, ZC_GROUP(4), ZC_GROUP(12));
    }
#elif ZC_LANES == 16
    for (unsigned i = 0; i < 4; i++) {
        ZC_WORDS a = rows[i], b = rows[i + 4], c = rows[i + 8], d = rows[i + 12];
        ZC_WORDS ab_even = ZC_PERMUTE(a, b, ZC_GROUP(0), ZC_GROUP(16), ZC_GROUP(8), ZC_GROUP(24));
        ZC_WORDS ab_odd = ZC_PERMUTE(a, b, ZC_GROUP(4), ZC_GROUP(20), ZC_GROUP(12), ZC_GROUP(28));
        ZC_WORDS cd_even = ZC_PERMUTE(c, d, ZC_GROUP(0), ZC_GROUP(16), ZC_GROUP(8), ZC_GROUP(24));
        ZC_WORDS cd_odd = ZC_PERMUTE(c, d, ZC_GROUP(4), ZC_GROUP(20), ZC_GROUP(12), ZC_GROUP(28));
        rows[i] = ZC_PERMUTE(ab_even, cd_even, ZC_GROUP(0), ZC_GROUP(4), ZC_GROUP(16), ZC_GROUP(20));
        rows[i + 4] = ZC_PERMUTE(ab_odd, cd_odd, ZC_GROUP(0), ZC_GROUP(4), ZC_GROUP(16), ZC_GROUP(20));
        rows[i + 8] = ZC_PERMUTE(ab_even, cd_even, ZC_GROUP(8), ZC_GROUP(12), ZC_GROUP(24), ZC_GROUP(28));
        rows[i + 12] = ZC_PERMUTE(ab_odd, cd_odd, ZC_GROUP(8), ZC_GROUP(12), ZC_GROUP(24), ZC_GROUP(28));
    }
#endif
}

/* The 16 words of one block of every lane, in host order: w[t] holds word t of all lanes. */
ZC_TARGET ZC_INLINE void ZC_VECTOR(load)(ZC_WORDS *w, const uint8_t *const *blocks, size_t offset)
{
    for (unsigned part = 0; part < 16; part += ZC_LANES) {
        for (unsigned i = 0; i < ZC_LANES; i++) {
            ZC_VECTOR(bytes) row;
            memcpy(&row, blocks[i] + offset + 4 * part, sizeof row);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            row = ZC_SHUFFLE(ZC_VECTOR(bytes), row, row, ZC_BYTE_GROUPS);
#endif
            w[part + i] = (ZC_WORDS)row;
        }
        ZC_VECTOR(transpose)(w + part);
    }
}

#define ZC_ROTATE(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
/* Maj(a, b, c) = b ^ ((a ^ b) & (b ^ c)); b ^ c is the a ^ b of the round before. */
#define ZC_ROUND(a, b, c, d, e, f, g, h, t)                                                                               \
    do {                                                                                                                  \
        ZC_WORDS t1 = h + (ZC_ROTATE(e, 6) ^ ZC_ROTATE(e, 11) ^ ZC_ROTATE(e, 25)) + (g ^ (e & (f ^ g))) + (w[t] + k[t]);  \
        ZC_WORDS ab = a ^ b;                                                                                              \
        d += t1;                                                                                                          \
        h = t1 + (ZC_ROTATE(a, 2) ^ ZC_ROTATE(a, 13) ^ ZC_ROTATE(a, 22)) + (b ^ (ab & bc));                               \
        bc = ab;                                                                                                          \
    } while (0)
#define ZC_SCHEDULE(t)                                                                                                    \
    do {                                                                                                                  \
        ZC_WORDS x = w[((t) + 1) & 15], y = w[((t) + 14) & 15];                                                           \
        w[t] += (ZC_ROTATE(x, 7) ^ ZC_ROTATE(x, 18) ^ (x >> 3)) + w[((t) + 9) & 15] +                                     \
                (ZC_ROTATE(y, 17) ^ ZC_ROTATE(y, 19) ^ (y >> 10));                                                        \
    } while (0)
#define ZC_EIGHT_ROUNDS(before, t)                                                                                        \
    before((t) + 0);                                                                                                      \
    ZC_ROUND(a, b, c, d, e, f, g, h, (t) + 0);                                                                            \
    before((t) + 1);                                                                                                      \
    ZC_ROUND(h, a, b, c, d, e, f, g, (t) + 1);                                                                            \
    before((t) + 2);                                                                                                      \
    ZC_ROUND(g, h, a, b, c, d, e, f, (t) + 2);                                                                            \
    before((t) + 3);                                                                                                      \
    ZC_ROUND(f, g, h, a, b, c, d, e, (t) + 3);                                                                            \
    before((t) + 4);                                                                                                      \
    ZC_ROUND(e, f, g, h, a, b, c, d, (t) + 4);                                                                            \
    before((t) + 5);                                                                                                      \
    ZC_ROUND(d, e, f, g, h, a, b, c, (t) + 5);                                                                            \
    before((t) + 6);                                                                                                      \
    ZC_ROUND(c, d, e, f, g, h, a, b, (t) + 6);                                                                            \
    before((t) + 7);                                                                                                      \
    ZC_ROUND(b, c, d, e, f, g, h, a, (t) + 7)
#define ZC_AS_LOADED(t)

ZC_TARGET static void ZC_VECTOR(compress)(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    ZC_WORDS *s = (ZC_WORDS *)state;
    ZC_WORDS a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
    for (size_t offset = 0; offset < count * ZC_BLOCK_BYTES; offset += ZC_BLOCK_BYTES) {
        const uint32_t *k = zc_sha256_k;
        ZC_WORDS w[16], bc = b ^ c;
        ZC_VECTOR(load)(w, blocks, offset);
        ZC_EIGHT_ROUNDS(ZC_AS_LOADED, 0);
        ZC_EIGHT_ROUNDS(ZC_AS_LOADED, 8);
        for (k += 16; k < zc_sha256_k + 64; k += 16) {
            ZC_EIGHT_ROUNDS(ZC_SCHEDULE, 0);
            ZC_EIGHT_ROUNDS(ZC_SCHEDULE, 8);
        }
        s[0] = a += s[0];
        s[1] = b += s[1];
        s[2] = c += s[2];
        s[3] = d += s[3];
        s[4] = e += s[4];
        s[5] = f += s[5];
        s[6] = g += s[6];
        s[7] = h += s[7];
    }
}

#if defined(ZC_SINGLE)
/* One message: the schedules of ZC_LANES consecutive blocks in the lanes, then the rounds of each block in scalar registers. */
ZC_TARGET static void ZC_VECTOR(single)(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    const uint8_t *next = blocks[0];
    for (; count >= ZC_LANES; count -= ZC_LANES, next += ZC_LANES * ZC_BLOCK_BYTES) {
        const uint8_t *lanes[ZC_LANES];
        ZC_WORDS w[16], wk[64];
        for (unsigned i = 0; i < ZC_LANES; i++)
            lanes[i] = next + i * ZC_BLOCK_BYTES;
        ZC_VECTOR(load)(w, lanes, 0);
        for (unsigned t = 0; t < 16; t++)
            wk[t] = w[t] + zc_sha256_k[t];
        for (unsigned base = 16; base < 64; base += 16) {
            _Pragma("GCC unroll 16") for (unsigned t = 0; t < 16; t++)
            {
                ZC_SCHEDULE(t);
                wk[base + t] = w[t] + zc_sha256_k[base + t];
            }
        }
        for (unsigned i = 0; i < ZC_LANES; i++)
            zc_sha256_rounds(state, (const uint32_t *)wk + i, ZC_LANES);
    }
    zc_sha256_compress_portable(state, &next, count);
}
#endif

#undef ZC_AS_LOADED
#undef ZC_EIGHT_ROUNDS
#undef ZC_SCHEDULE
#undef ZC_ROUND
#undef ZC_ROTATE
#undef ZC_PERMUTE
#undef ZC_WORDS
#undef ZC_BYTE_GROUPS
#undef ZC_GROUPS
#undef ZC_TARGET
#undef ZC_VECTOR
#undef ZC_LANES
#undef ZC_SINGLE
