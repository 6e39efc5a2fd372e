/* SHA-256 kernels for x86-64. Invariant: code for an extension runs only after CPUID and the OS (XGETBV) have said it may. */
#include "sha256_rounds.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define ZC_LANES 16
#define ZC_VECTOR(name) avx512_##name
#define ZC_TARGET __attribute__((target("avx512f,avx512bw,avx512vl")))
#include "sha256_vector.h"

#define ZC_LANES 8
#define ZC_VECTOR(name) avx2_##name
#define ZC_TARGET __attribute__((target("avx2,bmi,bmi2")))
#define ZC_SINGLE
#include "sha256_vector.h"

#define ZC_LANES 4
#define ZC_VECTOR(name) ssse3_##name
#define ZC_TARGET __attribute__((target("ssse3")))
#define ZC_SINGLE
#include "sha256_vector.h"

#define SHANI __attribute__((target("sha,sse4.1,ssse3")))
#define EVERY_STREAM _Pragma("GCC unroll 4") for (unsigned s = 0; s < streams; s++)

/* The SHA extensions compute two rounds of one message with a latency of about twice their throughput, so two independent
 * messages in flight take little more time than one. Registers hold the words as the instruction wants them: ABEF and CDGH. */
SHANI static inline __attribute__((always_inline)) void shani(uint32_t *state, const uint8_t *const *blocks, size_t count,
                                                              const unsigned streams)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef[2], cdgh[2], w[2][4];
    EVERY_STREAM
    {
        const uint32_t *v = state + s;
        abef[s] = _mm_set_epi32((int)v[0], (int)v[streams], (int)v[4 * streams], (int)v[5 * streams]);
        cdgh[s] = _mm_set_epi32((int)v[2 * streams], (int)v[3 * streams], (int)v[6 * streams], (int)v[7 * streams]);
    }
    for (size_t offset = 0; offset < count * ZC_BLOCK_BYTES; offset += ZC_BLOCK_BYTES) {
        __m128i abef_before[2], cdgh_before[2];
        EVERY_STREAM
        {
            abef_before[s] = abef[s];
            cdgh_before[s] = cdgh[s];
            _Pragma("GCC unroll 4") for (unsigned i = 0; i < 4; i++)
            {
                const __m128i raw = _mm_loadu_si128((const __m128i *)(const void *)(blocks[s] + offset + 16 * i));
                w[s][i] = _mm_shuffle_epi8(raw, swap);
            }
        }
        _Pragma("GCC unroll 16") for (unsigned i = 0; i < 16; i++)
        {
            const __m128i k = _mm_load_si128((const __m128i *)(const void *)(zc_sha256_k + 4 * i));
            EVERY_STREAM
            {
                __m128i wk = _mm_add_epi32(w[s][i & 3], k);
                cdgh[s] = _mm_sha256rnds2_epu32(cdgh[s], abef[s], wk);
                abef[s] = _mm_sha256rnds2_epu32(abef[s], cdgh[s], _mm_shuffle_epi32(wk, 0x0e));
                if (i < 12) {
                    const __m128i last = w[s][(i + 3) & 3];
                    const __m128i mid = _mm_alignr_epi8(last, w[s][(i + 2) & 3], 4);
                    const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[s][i & 3], w[s][(i + 1) & 3]), mid);
                    w[s][i & 3] = _mm_sha256msg2_epu32(sum, last);
                }
            }
        }
        EVERY_STREAM
        {
            abef[s] = _mm_add_epi32(abef[s], abef_before[s]);
            cdgh[s] = _mm_add_epi32(cdgh[s], cdgh_before[s]);
        }
    }
    EVERY_STREAM
    {
        uint32_t *v = state + s;
        v[0] = (uint32_t)_mm_extract_epi32(abef[s], 3);
        v[streams] = (uint32_t)_mm_extract_epi32(abef[s], 2);
        v[2 * streams] = (uint32_t)_mm_extract_epi32(cdgh[s], 3);
        v[3 * streams] = (uint32_t)_mm_extract_epi32(cdgh[s], 2);
        v[4 * streams] = (uint32_t)_mm_extract_epi32(abef[s], 1);
        v[5 * streams] = (uint32_t)_mm_extract_epi32(abef[s], 0);
        v[6 * streams] = (uint32_t)_mm_extract_epi32(cdgh[s], 1);
        v[7 * streams] = (uint32_t)_mm_extract_epi32(cdgh[s], 0);
    }
}

SHANI static void shani_pair(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    shani(state, blocks, count, 2);
}

SHANI static void shani_single(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    shani(state, blocks, count, 1);
}

static int has_shani(void)
{
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.1") || !__builtin_cpu_supports("ssse3") || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return (b >> 29) & 1;
}

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static int has_ssse3(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("ssse3") != 0;
}

/* One lane of a vector is about half as fast as the same message alone, hence `worthwhile` from three busy lanes on. */
const zc_sha256_kernel zc_sha256_kernels_x86[] = {
    {"shani", 2, 2, shani_pair, shani_single, has_shani, 0},
    {"avx512", 16, 3, avx512_compress, avx2_single, has_avx512, 0},
    {"avx2", 8, 3, avx2_compress, avx2_single, has_avx2, 0},
    {"ssse3", 4, 3, ssse3_compress, ssse3_single, has_ssse3, 0},
    {0},
};

#else

const zc_sha256_kernel zc_sha256_kernels_x86[] = {{0}};

#endif
