/* Root-mean-square normalisation of rows, forward and backward: one pass over memory each.

   Rows come as (outer, inner) with any two strides and a contiguous last dimension, so that the
   queries in a fused projection need no copy; results are contiguous. bf16 or fp32, arithmetic in
   fp32. */

#include <cmath>
#include <cstdint>
#include <cstring>

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

inline float get(const Rows *rows, long at, int bf16) {
    if (!bf16) return ((const float *)rows->data)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)rows->data)[at] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

inline void put(void *data, long at, float x, int bf16) {
    if (!bf16) {
        ((float *)data)[at] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    ((uint16_t *)data)[at] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Templates, so that each loop is compiled without a question in it. */
template <int BF16>
void forward(const Shape *s, const Rows *x, const float *gain, void *y, float *scale) {
    long n = s->width;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long row = 0; row < s->outer * s->inner; row++) {
        long at = row / s->inner * x->outer + row % s->inner * x->inner;
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < n; i++) square += get(x, at + i, BF16) * get(x, at + i, BF16);
        float r = 1.0f / sqrtf(square / n + s->eps);
        scale[row] = r;
        if (gain)
            for (long i = 0; i < n; i++) put(y, row * n + i, get(x, at + i, BF16) * r * gain[i], BF16);
        else
            for (long i = 0; i < n; i++) put(y, row * n + i, get(x, at + i, BF16) * r, BF16);
    }
}

/* dx = r (g - x r^2 mean(g x)) with g = dy gain; dgain, one row of sums per thread: dy x r. */
template <int BF16>
void backward(const Shape *s, const Rows *dy, const Rows *x, const float *gain, const float *scale,
              void *dx, float *dgain) {
    long n = s->width, rows = s->outer * s->inner;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int t = 0; t < s->threads; t++) {
        float *sums = dgain ? dgain + t * n : nullptr;
        for (long row = rows * t / s->threads; row < rows * (t + 1) / s->threads; row++) {
            long ax = row / s->inner * x->outer + row % s->inner * x->inner;
            long ag = row / s->inner * dy->outer + row % s->inner * dy->inner;
            float r = scale[row], dot = 0;
            if (gain) {
#pragma omp simd reduction(+ : dot)
                for (long i = 0; i < n; i++)
                    dot += get(dy, ag + i, BF16) * gain[i] * get(x, ax + i, BF16);
                float c = dot * r * r * r / n;
                for (long i = 0; i < n; i++) {
                    float g = get(dy, ag + i, BF16), v = get(x, ax + i, BF16);
                    put(dx, row * n + i, r * g * gain[i] - c * v, BF16);
                    sums[i] += g * v * r;
                }
            } else {
#pragma omp simd reduction(+ : dot)
                for (long i = 0; i < n; i++) dot += get(dy, ag + i, BF16) * get(x, ax + i, BF16);
                float c = dot * r * r * r / n;
                for (long i = 0; i < n; i++)
                    put(dx, row * n + i, r * get(dy, ag + i, BF16) - c * get(x, ax + i, BF16), BF16);
            }
        }
    }
}

} // namespace

extern "C" {

/* y = x r gain, r = 1 / sqrt(mean(x^2) + eps) kept in `scale`; gain may be null. */
void rms_forward(const Shape *s, const Rows *x, const float *gain, void *y, float *scale) {
    s->bf16 ? forward<1>(s, x, gain, y, scale) : forward<0>(s, x, gain, y, scale);
}

/* Gradients of x and, where there is a gain, of it: (threads, width) zeroed, to be added up. */
void rms_backward(const Shape *s, const Rows *dy, const Rows *x, const float *gain,
                  const float *scale, void *dx, float *dgain) {
    s->bf16 ? backward<1>(s, dy, x, gain, scale, dx, dgain)
            : backward<0>(s, dy, x, gain, scale, dx, dgain);
}
}
