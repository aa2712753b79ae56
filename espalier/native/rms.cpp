/* Root-mean-square normalisation of rows, forward and backward: one pass over memory each.

   Rows come as (outer, inner) with any two strides and a contiguous last dimension, so that the
   queries in a fused projection need no copy; results are contiguous. bf16 or fp32, arithmetic in
   fp32. */

#include <cmath>

#include "number.h"

namespace {

struct Rows {
    void *data;
    long outer, inner; /* strides in elements */
};

struct Shape {
    long outer, inner, width;
    float eps;
    int bf16, threads;
};

template <typename Number> const Number *place(const Rows *rows, const Shape *s, long row) {
    long at = row / s->inner * rows->outer + row % s->inner * rows->inner;
    return (const Number *)rows->data + at;
}

template <typename Number>
void forward(const Shape *s, const Rows *x, const float *gain, Number *y, float *scale) {
    long n = s->width;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long row = 0; row < s->outer * s->inner; row++) {
        const Number *from = place<Number>(x, s, row);
        Number *to = y + row * n;
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < n; i++) square += get(from[i]) * get(from[i]);
        float r = 1.0f / sqrtf(square / n + s->eps);
        scale[row] = r;
        if (gain)
            for (long i = 0; i < n; i++) put(to + i, get(from[i]) * r * gain[i]);
        else
            for (long i = 0; i < n; i++) put(to + i, get(from[i]) * r);
    }
}

/* dx = r (g - x r^2 mean(g x)) with g = dy gain; dgain, one row of sums per thread: dy x r. */
template <typename Number>
void backward(const Shape *s, const Rows *dy, const Rows *x, const float *gain, const float *scale,
              Number *dx, float *dgain) {
    long n = s->width, rows = s->outer * s->inner;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int t = 0; t < s->threads; t++) {
        float *sums = dgain ? dgain + t * n : nullptr;
        for (long row = rows * t / s->threads; row < rows * (t + 1) / s->threads; row++) {
            const Number *from = place<Number>(x, s, row), *grad = place<Number>(dy, s, row);
            Number *to = dx + row * n;
            float r = scale[row], dot = 0;
            if (gain) {
#pragma omp simd reduction(+ : dot)
                for (long i = 0; i < n; i++)
                    dot += get(grad[i]) * gain[i] * get(from[i]);
                float c = dot * r * r * r / n;
                for (long i = 0; i < n; i++) {
                    float g = get(grad[i]), v = get(from[i]);
                    put(to + i, r * g * gain[i] - c * v);
                    sums[i] += g * v * r;
                }
            } else {
#pragma omp simd reduction(+ : dot)
                for (long i = 0; i < n; i++) dot += get(grad[i]) * get(from[i]);
                float c = dot * r * r * r / n;
                for (long i = 0; i < n; i++)
                    put(to + i, r * get(grad[i]) - c * get(from[i]));
            }
        }
    }
}

} // namespace

extern "C" {

/* y = x r gain, r = 1 / sqrt(mean(x^2) + eps) kept in `scale`; gain may be null. */
void rms_forward(const Shape *s, const Rows *x, const float *gain, void *y, float *scale) {
    s->bf16 ? forward(s, x, gain, (uint16_t *)y, scale) : forward(s, x, gain, (float *)y, scale);
}

/* Gradients of x and, where there is a gain, of it: (threads, width) zeroed, to be added up. */
void rms_backward(const Shape *s, const Rows *dy, const Rows *x, const float *gain,
                  const float *scale, void *dx, float *dgain) {
    s->bf16 ? backward(s, dy, x, gain, scale, (uint16_t *)dx, dgain)
            : backward(s, dy, x, gain, scale, (float *)dx, dgain);
}
}
