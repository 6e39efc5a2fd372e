/* SHA-256 kernels for arm64. Invariant: the SHA2 instructions run only after the kernel's HWCAP has said they may. */
#include "sha256_lanes.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#define ZC_LANES 4
#define ZC_VECTOR(name) neon_##name
#define ZC_TARGET
#include "sha256_vector.h"

/* clang before 16 declares these instructions only when the whole file is compiled for them */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_SHA2)
#define HAVE_SHA2 1
#endif

#if defined(HAVE_SHA2)

#if defined(__clang__)
#define SHA2 __attribute__((target("sha2")))
#else
#define SHA2 __attribute__((target("+crypto"))) /* what arm_neon.h asks for; nothing but SHA2 is used of it */
#endif
#define EVERY_STREAM _Pragma("GCC unroll 4") for (unsigned s = 0; s < streams; s++)

/* Four rounds of one message have a latency of several cycles; two independent messages in flight hide most of it. */
SHA2 static inline __attribute__((always_inline)) void armv8(uint32_t *state, const uint8_t *const *blocks, size_t count,
                                                             const unsigned streams)
{
    uint32x4_t abcd[2], efgh[2], w[2][4];
    EVERY_STREAM
    {
        const uint32_t *v = state + s;
        abcd[s] = (uint32x4_t){v[0], v[streams], v[2 * streams], v[3 * streams]};
        efgh[s] = (uint32x4_t){v[4 * streams], v[5 * streams], v[6 * streams], v[7 * streams]};
    }
    for (size_t offset = 0; offset < count * ZC_BLOCK_BYTES; offset += ZC_BLOCK_BYTES) {
        uint32x4_t abcd_before[2], efgh_before[2];
        EVERY_STREAM
        {
            abcd_before[s] = abcd[s];
            efgh_before[s] = efgh[s];
            _Pragma("GCC unroll 4") for (unsigned i = 0; i < 4; i++)
                w[s][i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks[s] + offset + 16 * i)));
        }
        _Pragma("GCC unroll 16") for (unsigned i = 0; i < 16; i++)
        {
            const uint32x4_t k = vld1q_u32(zc_sha256_k + 4 * i);
            EVERY_STREAM
            {
                const uint32x4_t wk = vaddq_u32(w[s][i & 3], k), old = abcd[s];
                if (i < 12)
                    w[s][i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[s][i & 3], w[s][(i + 1) & 3]), w[s][(i + 2) & 3],
                                                  w[s][(i + 3) & 3]);
                abcd[s] = vsha256hq_u32(abcd[s], efgh[s], wk);
                efgh[s] = vsha256h2q_u32(efgh[s], old, wk);
            }
        }
        EVERY_STREAM
        {
            abcd[s] = vaddq_u32(abcd[s], abcd_before[s]);
            efgh[s] = vaddq_u32(efgh[s], efgh_before[s]);
        }
    }
    EVERY_STREAM
    {
        _Pragma("GCC unroll 4") for (unsigned i = 0; i < 4; i++)
        {
            state[i * streams + s] = abcd[s][i];
            state[(i + 4) * streams + s] = efgh[s][i];
        }
    }
}

SHA2 static void armv8_pair(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    armv8(state, blocks, count, 2);
}

SHA2 static void armv8_single(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    armv8(state, blocks, count, 1);
}

static int has_sha2(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & (1UL << 6)) != 0; /* HWCAP_SHA2 */
#elif defined(__ARM_FEATURE_SHA2)
    return 1;
#else
    return 0;
#endif
}

#endif

static int has_neon(void)
{
    return 1; /* part of the arm64 base */
}

const zc_sha256_kernel zc_sha256_kernels_arm[] = {
#if defined(HAVE_SHA2)
    {"armv8", 2, 2, armv8_pair, armv8_single, has_sha2, 0},
#endif
    {"neon", 4, 3, neon_compress, zc_sha256_compress_portable, has_neon, 0},
    {0},
};

#else

const zc_sha256_kernel zc_sha256_kernels_arm[] = {{0}};

#endif
