/* Squared relu and its gradient, one pass over memory each; n contiguous numbers in bf16 or fp32.
   The result equals that of two operators of torch. */

#include "number.h"

namespace {

template <typename Number> void forward(long n, int threads, const Number *x, Number *y) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        float r = get(x[i]) > 0 ? get(x[i]) : 0;
        put(y + i, r * r);
    }
}

template <typename Number>
void backward(long n, int threads, const Number *dy, const Number *x, Number *dx) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        float r = get(x[i]) > 0 ? get(x[i]) : 0;
        put(dx + i, 2 * r * get(dy[i]));
    }
}

} // namespace

extern "C" {

void relu2_forward(long n, int bf16, int threads, const void *x, void *y) {
    bf16 ? forward(n, threads, (const uint16_t *)x, (uint16_t *)y)
         : forward(n, threads, (const float *)x, (float *)y);
}

void relu2_backward(long n, int bf16, int threads, const void *dy, const void *x, void *dx) {
    bf16 ? backward(n, threads, (const uint16_t *)dy, (const uint16_t *)x, (uint16_t *)dx)
         : backward(n, threads, (const float *)dy, (const float *)x, (float *)dx);
}
}
