/* Chooses the kernel, once, at run time.
 *
 * Invariant: ZCELL_SHA256_KERNEL is a demand. It is met by the kernel of that name or not at all; nothing falls back silently.
 * Without it the first kernel of the table that this CPU can run is used. The order of the table is fixed, from measurements
 * (bench/test_hashing.py); nothing is timed at run time:
 *
 *   x86-64  shani > avx512 > avx2 > ssse3 > portable
 *   arm64   armv8 > neon > portable
 *
 * Measured on Zen 3, in MiB/s of 64 KiB leaves on one core: shani 2,700, avx2 1,430, ssse3 700, portable 270, with hashlib at
 * 1,440 (430 without its SHA extensions). Not measured but counted in instructions: avx512, about as fast as shani with sixteen
 * full lanes and far slower with one or two messages, which puts it second; and the arm64 order.
 */
#include "sha256_lanes.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const zc_sha256_kernel *const tables[] = {zc_sha256_kernels_x86, zc_sha256_kernels_arm, zc_sha256_kernels_portable};
static _Atomic(const zc_sha256_kernel *) chosen;

const zc_sha256_kernel *zc_sha256_kernel_at(size_t index)
{
    for (size_t table = 0; table < sizeof tables / sizeof *tables; table++) {
        for (const zc_sha256_kernel *kernel = tables[table]; kernel->name; kernel++) {
            if (!index--)
                return kernel;
        }
    }
    return NULL;
}

const char *zc_sha256_kernel_name(const zc_sha256_kernel *kernel)
{
    return kernel->name;
}

int zc_sha256_kernel_usable(const zc_sha256_kernel *kernel)
{
    return kernel->usable();
}

int zc_sha256_kernel_test_only(const zc_sha256_kernel *kernel)
{
    return kernel->test_only;
}

/* The first usable kernel, of that name unless `name` is NULL; NULL when there is none. */
static const zc_sha256_kernel *find(const char *name)
{
    const zc_sha256_kernel *kernel;
    for (size_t index = 0; (kernel = zc_sha256_kernel_at(index)); index++) {
        if (!kernel->test_only && (!name || !strcmp(name, kernel->name)) && kernel->usable())
            return kernel;
    }
    return NULL;
}

const zc_sha256_kernel *zc_sha256_kernel_in_use(void)
{
    const zc_sha256_kernel *kernel = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!kernel) {
        const char *demand = getenv("ZCELL_SHA256_KERNEL");
        kernel = find(demand && *demand ? demand : NULL);
        if (kernel)
            atomic_store_explicit(&chosen, kernel, memory_order_release);
    }
    return kernel;
}

const zc_sha256_kernel *zc_sha256_kernel_or_default(void)
{
    const zc_sha256_kernel *kernel = zc_sha256_kernel_in_use();
    return kernel ? kernel : find(NULL);
}

int zc_sha256_demand_met(void)
{
    return zc_sha256_kernel_in_use() != NULL;
}
