/* Rotary positions: pairs (a, b) of a head turned by an angle, one pass over memory.

   x is (batch, time, heads, width) in bf16 or fp32 with any strides but a contiguous last dimension;
   the result is contiguous. Tables of cosines and sines are fp32, (tables, time, turned / 2), where
   `tables` is the batch or 1. The gradient is the same turn backwards (`sign` -1). */

#include "number.h"
#include "view.h"

namespace {

struct Shape {
    long batch, time, heads, width, turned, tables;
    float sign;
    int bf16, interleaved, threads;
};

/* Pair i is (i, i + half), or (2i, 2i + 1) when they are interleaved. */
template <typename Number, int STEP>
inline void turn_head(const Number *x, const float *cos, const float *sin, float sign, long half,
                      Number *y) {
    long other = STEP == 2 ? 1 : half;
#pragma omp simd
    for (long i = 0; i < half; i++) {
        float a = get(x[i * STEP]), b = get(x[i * STEP + other]), s = sign * sin[i];
        put(y + i * STEP, a * cos[i] - b * s);
        put(y + i * STEP + other, b * cos[i] + a * s);
    }
}

template <typename Number, int STEP>
void turn(const Shape *s, const View *x, const float *cos, const float *sin, Number *y) {
    long half = s->turned / 2;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long row = 0; row < s->batch * s->time; row++) {
        long b = row / s->time, t = row % s->time;
        long at = ((s->tables > 1 ? b : 0) * s->time + t) * half;
        for (long h = 0; h < s->heads; h++) {
            const Number *from = x->at<const Number>(b, t, h);
            Number *to = y + (row * s->heads + h) * s->width;
            turn_head<Number, STEP>(from, cos + at, sin + at, s->sign, half, to);
            memcpy(to + s->turned, from + s->turned, sizeof(Number) * (s->width - s->turned));
        }
    }
}

} // namespace

extern "C" void rotary(const Shape *s, const View *x, const float *cos, const float *sin, void *y) {
    if (s->bf16)
        s->interleaved ? turn<uint16_t, 2>(s, x, cos, sin, (uint16_t *)y)
                       : turn<uint16_t, 1>(s, x, cos, sin, (uint16_t *)y);
    else
        s->interleaved ? turn<float, 2>(s, x, cos, sin, (float *)y)
                       : turn<float, 1>(s, x, cos, sin, (float *)y);
}
