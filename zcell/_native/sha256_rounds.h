/* The 64 rounds of FIPS 180-4 section 6.2.2 on one block, in scalar registers.
 *
 * wk[t * stride] is the schedule's word t plus its constant. Always inlined, so that each caller's target attribute (andn, rorx)
 * applies to it.
 */
#ifndef ZCELL_SHA256_ROUNDS_H
#define ZCELL_SHA256_ROUNDS_H

#include "sha256_lanes.h"

static inline uint32_t zc_rotate(uint32_t x, unsigned n)
{
    return (x >> n) | (x << (32 - n));
}

/* Maj(a, b, c) = b ^ ((a ^ b) & (b ^ c)); b ^ c is the a ^ b of the round before. */
#define ZC_SCALAR_ROUND(a, b, c, d, e, f, g, h, t)                                                                        \
    do {                                                                                                                  \
        uint32_t ab = a ^ b;                                                                                              \
        h += wk[(t) * stride] + (g ^ (e & (f ^ g)));                                                                      \
        h += zc_rotate(e, 6) ^ zc_rotate(e, 11) ^ zc_rotate(e, 25);                                                       \
        d += h;                                                                                                           \
        h += (b ^ (ab & bc)) + (zc_rotate(a, 2) ^ zc_rotate(a, 13) ^ zc_rotate(a, 22));                                   \
        bc = ab;                                                                                                          \
    } while (0)

static inline __attribute__((always_inline)) void zc_sha256_rounds(uint32_t *state, const uint32_t *wk, const size_t stride)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    uint32_t bc = b ^ c;
    for (unsigned t = 0; t < 64; t += 8, wk += 8 * stride) {
        ZC_SCALAR_ROUND(a, b, c, d, e, f, g, h, 0);
        ZC_SCALAR_ROUND(h, a, b, c, d, e, f, g, 1);
        ZC_SCALAR_ROUND(g, h, a, b, c, d, e, f, 2);
        ZC_SCALAR_ROUND(f, g, h, a, b, c, d, e, 3);
        ZC_SCALAR_ROUND(e, f, g, h, a, b, c, d, 4);
        ZC_SCALAR_ROUND(d, e, f, g, h, a, b, c, 5);
        ZC_SCALAR_ROUND(c, d, e, f, g, h, a, b, 6);
        ZC_SCALAR_ROUND(b, c, d, e, f, g, h, a, 7);
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

#endif
