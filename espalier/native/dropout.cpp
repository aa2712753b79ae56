/* Dropout without a mask in memory: whether number i stays is a hash of the seed and i, so that the
   gradient is the same call on the gradient. n contiguous numbers in bf16 or fp32. */

#include "number.h"

namespace {

constexpr long RUN = 4096; /* numbers that share a key */

template <typename Number>
void drop(long n, float p, uint64_t seed, int threads, const Number *x, Number *y) {
    uint32_t limit = drop_limit(p);
    float scale = 1.0f / (1.0f - p);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long run = 0; run < (n + RUN - 1) / RUN; run++) {
        uint32_t key = run_key(seed, run);
        long first = run * RUN, count = n - first < RUN ? n - first : RUN;
#pragma omp simd
        for (long i = 0; i < count; i++) {
            float kept = hash(key + (uint32_t)i) >= limit ? scale : 0.0f;
            put(y + first + i, get(x[first + i]) * kept);
        }
    }
}

} // namespace

/* y = x / (1 - p) where x stays, else 0; each number goes with probability p. */
extern "C" void dropout(long n, float p, uint64_t seed, int bf16, int threads, const void *x,
                        void *y) {
    bf16 ? drop(n, p, seed, threads, (const uint16_t *)x, (uint16_t *)y)
         : drop(n, p, seed, threads, (const float *)x, (float *)y);
}
