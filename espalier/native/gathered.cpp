/* y = x W + b for few rows of x, most of whose features are zero: what a zero meets is not read.

   W is (n_in, n_out), fp32 or bf16, each of its rows in one piece, so that a silent feature is a row
   left out. Sums run over the features in order, in fp32: leaving a zero out changes no bit. */

#include <cstdlib>

#include "lanes.h"

namespace {

constexpr long TILE = 256;  /* outputs whose sums stay in registers */
constexpr int SUMS = TILE / 16;
constexpr long AHEAD = 3;   /* rows of W to fetch before they are used */

struct Matrix {
    const void *weights; /* (n_in, n_out) */
    const float *bias;   /* (n_out) or null */
    long n_in, n_out;    /* n_out is a multiple of 32 */
    long bytes;          /* of a weight: 4 or 2 */
};

/* The features of one row that are not zero, and how many. */
struct Active {
    long count;
    const int32_t *at;
    const float *value;
};

/* fp32: outputs in order. */
struct Fp32 {
    static constexpr long BYTES = 4;
    static inline void add(const char *row, float x, lanes *sum, int count) {
#pragma GCC unroll 16
        for (int i = 0; i < count; i++) sum[i] += ((const lanes *)row)[i] * x;
    }
    static void write(const lanes *sum, float *y, int count) { memcpy(y, sum, count * sizeof *sum); }
};

/* bf16: of each 32 outputs the even ones, then the odd ones, as a 32-bit lane holds them. */
struct Bf16 {
    static constexpr long BYTES = 2;
    static inline void add(const char *row, float x, lanes *sum, int count) {
#pragma GCC unroll 8
        for (int i = 0; i < count; i += 2) {
            words both = ((const words *)row)[i / 2];
            sum[i] += (lanes)(both << 16) * x;
            sum[i + 1] += (lanes)(both & 0xffff0000u) * x;
        }
    }
    static void write(const lanes *sum, float *y, int count) {
        for (int i = 0; i < 16 * count; i++) y[i] = sum[i / 32 * 2 + i % 2][i % 32 / 2];
    }
};

/* Outputs [from, from + 16 count) of one row. */
template <class Weight, int COUNT>
void tile(const Matrix *m, Active x, float *y, long from, int count) {
    lanes sum[SUMS] = {};
    const int all = COUNT ? COUNT : count;
    const char *base = (const char *)m->weights + from * Weight::BYTES;
    const long stride = m->n_out * Weight::BYTES;
    for (long j = 0; j < x.count; j++) {
        const char *next = base + x.at[least(j + AHEAD, x.count - 1)] * stride;
#pragma GCC unroll 16
        for (long line = 0; line < all * 16 * Weight::BYTES; line += 64)
            __builtin_prefetch(next + line);
        Weight::add(base + x.at[j] * stride, x.value[j], sum, all);
    }
    float found[TILE];
    Weight::write(sum, found, all);
    for (long i = 0; i < 16 * all; i++) y[from + i] = found[i] + (m->bias ? m->bias[from + i] : 0);
}

template <class Weight>
void span(const Matrix *m, const Active *x, float *y, long rows, long from, long to) {
    for (long n = from; n < to; n += TILE)
        for (long r = 0; r < rows; r++) {
            if (to - n >= TILE)
                tile<Weight, SUMS>(m, x[r], y + r * m->n_out, n, SUMS);
            else
                tile<Weight, 0>(m, x[r], y + r * m->n_out, n, (int)((to - n) / 16));
        }
}

} // namespace

extern "C" {

/* y (rows, n_out) = x (rows, n_in) W + b; returns 0, or -1 when memory ran out. */
int gathered(const Matrix *m, const float *x, float *y, long rows, long threads) {
    size_t size = rows * (sizeof(Active) + m->n_in * (sizeof(int32_t) + sizeof(float)));
    char *memory = (char *)malloc(size);
    if (!memory) return -1;
    Active *active = (Active *)memory;
    float *value = (float *)(active + rows);
    int32_t *at = (int32_t *)(value + rows * m->n_in);
    for (long r = 0; r < rows; r++, value += m->n_in, at += m->n_in, x += m->n_in) {
        long count = 0;
        for (long i = 0; i < m->n_in; i++) {
            at[count] = (int32_t)i;
            value[count] = x[i];
            count += x[i] != 0;
        }
        active[r] = {count, at, value};
    }
    long strips = m->n_out / 32;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long t = 0; t < threads; t++) {
        long from = strips * t / threads * 32, to = strips * (t + 1) / threads * 32;
        if (m->bytes == 4)
            span<Fp32>(m, active, y, rows, from, to);
        else
            span<Bf16>(m, active, y, rows, from, to);
    }
    free(memory);
    return 0;
}
}
