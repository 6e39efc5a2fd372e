/* SHA-256 compression in plain C (FIPS 180-4 section 6.2): runs everywhere, and finishes single messages for vector kernels.
 *
 * The 16-lane template is compiled here once more without any target attribute, so that tests can compare it bit for bit on a
 * CPU that has no AVX-512.
 */
#include "sha256_rounds.h"

const uint32_t zc_sha256_initial[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

_Alignas(64) const uint32_t zc_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t load_be32(const uint8_t *in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

void zc_sha256_compress_portable(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    const uint8_t *block = blocks[0];
    for (; count; count--, block += ZC_BLOCK_BYTES) {
        uint32_t w[64];
        for (unsigned t = 0; t < 16; t++)
            w[t] = load_be32(block + 4 * t);
        for (unsigned t = 16; t < 64; t++) {
            uint32_t x = w[t - 15], y = w[t - 2];
            w[t] = w[t - 16] + (zc_rotate(x, 7) ^ zc_rotate(x, 18) ^ (x >> 3)) + w[t - 7] +
                   (zc_rotate(y, 17) ^ zc_rotate(y, 19) ^ (y >> 10));
        }
        for (unsigned t = 0; t < 64; t++)
            w[t] += zc_sha256_k[t];
        zc_sha256_rounds(state, w, 1);
    }
}

#define ZC_LANES 16
#define ZC_VECTOR(name) generic16_##name
#define ZC_TARGET
#include "sha256_vector.h"

static int everywhere(void)
{
    return 1;
}

const zc_sha256_kernel zc_sha256_kernels_portable[] = {
    {"portable", 1, 1, zc_sha256_compress_portable, zc_sha256_compress_portable, everywhere, 0},
    {"lanes16-generic", 16, 3, generic16_compress, zc_sha256_compress_portable, everywhere, 1},
    {0},
};
