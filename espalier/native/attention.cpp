/* Causal attention for training on a CPU, forward and backward, in fp32 arithmetic.

   q, k, v: (batch, time, heads, width) in bf16 or fp32 with any strides but a contiguous last
   dimension, so that views of one fused projection need no copy; key/value heads may be shared by
   groups of queries; `window` bounds how far a query sees (time or more: everything).

   One thread takes a (batch, key/value head). Keys and values are laid out once in fp32; queries go
   by in panels of ROWS. A panel's scores are kept whole (ROWS x time floats lie in the second-level
   cache), so that the softmax is exact without rescaling. The backward pass recomputes them from the
   forward's log-sum-exp. Both matrix products run on one 8 x 32 register tile.

   Dropout of weights keeps no mask: whether a weight stays is a hash of the seed and its place. */

#include <cmath>
#include <cstdlib>

#include "lanes.h"
#include "number.h"
#include "view.h"

namespace {

constexpr long ROWS = 32, TALL = 8, WIDE = 32;
constexpr float HIDDEN = -1e30f; /* the score of a key that may not be seen */

struct Shape {
    long batch, time, heads, kv_heads, width, window;
    uint64_t seed;
    float scale, dropout;
    int bf16, threads;
};

inline long most(long a, long b) { return a > b ? a : b; }
inline long padded(long n) { return (n + WIDE - 1) / WIDE * WIDE; }
/* Rows of a power of two would share few sets of the cache. */
inline long leading(long n) { return padded(n) + 16; }

/* out[time][stride] = one head in fp32; what lies past `width` stays as it is (zero). */
void load(const View *view, const Shape *s, long b, long h, float *out, long stride) {
    for (long t = 0; t < s->time; t++) {
        const uint16_t *half = view->at<uint16_t>(b, t, h);
        if (s->bf16)
            for (long i = 0; i < s->width; i++) out[t * stride + i] = get(half[i]);
        else
            memcpy(out + t * stride, view->at<float>(b, t, h), sizeof(float) * s->width);
    }
}

void store(const View *view, const Shape *s, long b, long h, const float *in, long stride) {
    for (long t = 0; t < s->time; t++) {
        uint16_t *half = view->at<uint16_t>(b, t, h);
        if (s->bf16)
            for (long i = 0; i < s->width; i++) put(half + i, in[t * stride + i]);
        else
            memcpy(view->at<float>(b, t, h), in + t * stride, sizeof(float) * s->width);
    }
}

/* out[c][r] = in[r][c]; a vector of 16 rows at a time, so that whole cache lines are written. */
void transpose(const float *in, long rows, long columns, long stride, float *out, long to) {
    for (long r = 0; r < rows; r += 16)
        for (long c = 0; c < columns; c++) {
            lanes line = {};
            for (long i = 0; i < least(16, rows - r); i++) line[i] = in[(r + i) * stride + c];
            *(lanes *)(out + c * to + r) = line;
        }
}

/* Lane by lane, not by halves: another order would move every published loss curve by rounding. */
inline float in_order(lanes x) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    return sum;
}

inline float dot(const float *a, const float *b, long n) {
    lanes sum = {};
    for (long i = 0; i < n; i += 16) sum += *(const lanes *)(a + i) * *(const lanes *)(b + i);
    return in_order(sum);
}

/* One tile: out[rows][32] (+)= sum over k of A(row, k) * b[k][32], A(row, k) = a[row*down + k*along].
   `rows` <= 8; short tiles compute garbage rows from a's last row and do not store them. */
inline void tile(long depth, const float *a, long down, long along, const float *b, long ldb,
                        float *out, long ldo, long rows, int add) {
    lanes left[TALL], right[TALL];
    const float *from[TALL];
    for (int r = 0; r < TALL; r++) {
        left[r] = right[r] = lanes{};
        from[r] = a + least(r, rows - 1) * down;
    }
    for (long k = 0; k < depth; k++) {
        lanes b0 = *(const lanes *)(b + k * ldb), b1 = *(const lanes *)(b + k * ldb + 16);
#pragma GCC unroll 8
        for (int r = 0; r < TALL; r++) {
            float x = from[r][k * along];
            left[r] += x * b0;
            right[r] += x * b1;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < TALL; r++)
        if (r < rows) {
            lanes *at = (lanes *)(out + r * ldo);
            at[0] = add ? at[0] + left[r] : left[r];
            at[1] = add ? at[1] + right[r] : right[r];
        }
}

/* out[rows][columns] (+)= A b for any number of rows; columns a multiple of 32. */
void product(long rows, long columns, long depth, const float *a, long down, long along,
                    const float *b, long ldb, float *out, long ldo, int add) {
    for (long c = 0; c < columns; c += WIDE)
        for (long r = 0; r < rows; r += TALL)
            tile(depth, a + r * down, down, along, b + c, ldb, out + r * ldo + c, ldo,
                 least(TALL, rows - r), add);
}

/* The keys that a panel of queries starting at `first` sees: [begin, end), begin a multiple of 32. */
inline long panel_begin(const Shape *s, long first) {
    return most(0, first - s->window + 1) / WIDE * WIDE;
}

/* Scores of a panel to weights e^(scale*score - shift), zero where the query may not look; the rows
   are summed into `total`. `shift` is given (backward) or found as the row's maximum (forward). */
void weigh(const Shape *s, float *panel, long ld, long first, long rows, long begin, long end,
                  float *shift, float *total) {
    for (long r = 0; r < rows; r++) {
        float *row = panel + r * ld;
        long from = most(begin, first + r - s->window + 1), to = first + r + 1;
        for (long j = begin; j < from; j++) row[j - begin] = HIDDEN;
        for (long j = to; j < end; j++) row[j - begin] = HIDDEN;
        if (total) shift[r] = largest(row, end - begin) * s->scale;
        lanes sum = {};
        for (long j = 0; j < end - begin; j += 16) {
            lanes x = *(lanes *)(row + j);
            lanes e = exponential(x * s->scale - shift[r]);
            e = x > HIDDEN ? e : lanes{};
            sum += e;
            *(lanes *)(row + j) = e;
        }
        if (total) total[r] = in_order(sum);
    }
}

/* What sixteen weights from column j on are multiplied by: 0, or 1 / (1 - dropout). */
inline lanes kept(const Shape *s, uint32_t key, long j) {
    words place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    words drawn = hash(place + (key + (uint32_t)j));
    lanes stays = lanes{} + 1.0f / (1.0f - s->dropout);
    return drawn >= words{} + drop_limit(s->dropout) ? stays : lanes{};
}

/* Drop weights of a panel whose first row has the number `row` among all rows of all heads. */
void thin(const Shape *s, float *panel, long ld, long row, long rows, long begin, long end) {
    for (long r = 0; r < rows; r++) {
        uint32_t key = run_key(s->seed, row + r);
        for (long j = begin; j < end; j += 16) {
            lanes *at = (lanes *)(panel + r * ld + j - begin);
            *at = *at * kept(s, key, j);
        }
    }
}

float *zeroed(size_t floats) {
    size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    float *memory = (float *)aligned_alloc(64, bytes);
    if (memory) memset(memory, 0, bytes);
    return memory;
}

/* Turn a panel of weights p and of their gradients dp into gradients of the scores, in place. */
void score_gradients(const Shape *s, const float *p, float *dp, long ld, long rows, long span,
                     const float *delta) {
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < span; j += 16) {
            lanes *at = (lanes *)(dp + r * ld + j);
            *at = *(const lanes *)(p + r * ld + j) * (*at - delta[r]) * s->scale;
        }
}

} // namespace

extern "C" {

/* out = softmax(scale q k^T) v; lse (batch, heads, time) fp32 = log of the softmax's denominator.
   Returns 0, or -1 when memory ran out. */
int attention_forward(const Shape *s, const View *q, const View *k, const View *v, const View *out,
                      float *lse) {
    long T = s->time, D = padded(s->width), L = leading(T), group = s->heads / s->kv_heads;
    int failed = 0;
#pragma omp parallel num_threads(s->threads)
    {
        float *memory = zeroed((size_t)(4 * T * D + D * L + ROWS * L));
        float *queries = memory, *keys = queries + T * D, *values = keys + T * D;
        float *result = values + T * D, *keys_t = result + T * D, *panel = keys_t + D * L;
        if (!memory) failed = -1;
#pragma omp for schedule(static)
        for (long job = 0; job < s->batch * s->kv_heads; job++) {
            if (!memory) continue;
            long b = job / s->kv_heads, kv = job % s->kv_heads;
            load(k, s, b, kv, keys, D);
            load(v, s, b, kv, values, D);
            transpose(keys, T, s->width, D, keys_t, L);
            for (long h = kv * group; h < (kv + 1) * group; h++) {
                float *row_lse = lse + (b * s->heads + h) * T, shift[ROWS], total[ROWS];
                load(q, s, b, h, queries, D);
                for (long i = 0; i < T; i += ROWS) {
                    long rows = least(ROWS, T - i), begin = panel_begin(s, i), end = padded(i + rows);
                    product(rows, end - begin, s->width, queries + i * D, D, 1, keys_t + begin, L,
                            panel, L, 0);
                    weigh(s, panel, L, i, rows, begin, end, shift, total);
                    if (s->dropout > 0)
                        thin(s, panel, L, (b * s->heads + h) * T + i, rows, begin, end);
                    product(rows, D, least(end, T) - begin, panel, L, 1, values + begin * D, D,
                            result + i * D, D, 0);
                    for (long r = 0; r < rows; r++) {
                        for (long d = 0; d < D; d++) result[(i + r) * D + d] /= total[r];
                        row_lse[i + r] = shift[r] + logf(total[r]);
                    }
                }
                store(out, s, b, h, result, D);
            }
        }
        free(memory);
    }
    return failed;
}

/* Gradients of q, k and v from those of out. Returns 0, or -1 when memory ran out. */
int attention_backward(const Shape *s, const View *q, const View *k, const View *v, const View *out,
                       const float *lse, const View *dout, const View *dq, const View *dk,
                       const View *dv) {
    long T = s->time, D = padded(s->width), L = leading(T), group = s->heads / s->kv_heads;
    int failed = 0;
#pragma omp parallel num_threads(s->threads)
    {
        float *memory = zeroed((size_t)(8 * T * D + 2 * D * L + 2 * ROWS * L));
        float *queries = memory, *keys = queries + T * D, *values = keys + T * D;
        float *outs = values + T * D, *grads = outs + T * D, *dqs = grads + T * D;
        float *dks = dqs + T * D, *dvs = dks + T * D, *keys_t = dvs + T * D;
        float *values_t = keys_t + D * L, *p = values_t + D * L, *dp = p + ROWS * L;
        if (!memory) failed = -1;
#pragma omp for schedule(static)
        for (long job = 0; job < s->batch * s->kv_heads; job++) {
            if (!memory) continue;
            long b = job / s->kv_heads, kv = job % s->kv_heads;
            load(k, s, b, kv, keys, D);
            load(v, s, b, kv, values, D);
            transpose(keys, T, s->width, D, keys_t, L);
            transpose(values, T, s->width, D, values_t, L);
            memset(dks, 0, sizeof(float) * 2 * T * D); /* dks and dvs */
            for (long h = kv * group; h < (kv + 1) * group; h++) {
                const float *row_lse = lse + (b * s->heads + h) * T;
                load(q, s, b, h, queries, D);
                load(out, s, b, h, outs, D);
                load(dout, s, b, h, grads, D);
                for (long i = 0; i < T; i += ROWS) {
                    long rows = least(ROWS, T - i), begin = panel_begin(s, i), end = padded(i + rows);
                    long span = end - begin, real = least(end, T) - begin;
                    float shift[ROWS], delta[ROWS];
                    for (long r = 0; r < rows; r++) {
                        shift[r] = row_lse[i + r];
                        delta[r] = dot(outs + (i + r) * D, grads + (i + r) * D, D);
                    }
                    product(rows, span, s->width, queries + i * D, D, 1, keys_t + begin, L, p, L, 0);
                    weigh(s, p, L, i, rows, begin, end, shift, NULL);
                    product(rows, span, s->width, grads + i * D, D, 1, values_t + begin, L, dp, L, 0);
                    long row = (b * s->heads + h) * T + i;
                    if (s->dropout > 0) thin(s, dp, L, row, rows, begin, end);
                    score_gradients(s, p, dp, L, rows, span, delta);
                    if (s->dropout > 0) thin(s, p, L, row, rows, begin, end);
                    product(rows, D, real, dp, L, 1, keys + begin * D, D, dqs + i * D, D, 0);
                    product(real, D, rows, dp, 1, L, queries + i * D, D, dks + begin * D, D, 1);
                    product(real, D, rows, p, 1, L, grads + i * D, D, dvs + begin * D, D, 1);
                }
                store(dq, s, b, h, dqs, D);
            }
            store(dk, s, b, kv, dks, D);
            store(dv, s, b, kv, dvs, D);
        }
        free(memory);
    }
    return failed;
}

}
