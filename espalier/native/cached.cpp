/* Attention of new tokens on a cache of keys and values: what a step of generation does, in one call.

   The new keys and values are written to the cache first: slot = position % slots, `seen` = position
   + 1 (0 is an empty slot). Then each query looks at the slots whose position is at or before its own
   and within `window`. A position below 0 stands for no token: nothing is written, the output is 0.
   Arithmetic in fp32; the cache is fp32 or bf16. A thread takes a span of key/value heads; slot by
   slot, so that memory is read in order. What a row gives does not depend on the rows beside it. */

#include <cmath>
#include <cstdlib>

#include "lanes.h"
#include "number.h"
#include "view.h"

namespace {

typedef uint16_t halves __attribute__((vector_size(32), aligned(2)));

/* Every member has 8 bytes. */
struct Call {
    View q, k, v;
    void *keys, *values;      /* (batch, slots + 1, kv_heads, width); the last slot is a bin */
    int64_t *seen;            /* (batch, slots + 1) */
    const int64_t *positions; /* (batch, time) */
    float *out;               /* (batch, time, heads, width) */
    long batch, time, heads, kv_heads, width, slots, window, bf16, threads;
};

inline lanes read(const float *at) { return *(const lanes *)at; }
inline lanes read(const uint16_t *at) {
    return (lanes)(__builtin_convertvector(*(const halves *)at, ints) << 16);
}

template <class T> inline float dot(const float *q, const T *k, long width) {
    lanes sum = {};
    long d = 0;
    for (; d + 16 <= width; d += 16) sum += read(q + d) * read(k + d);
    float total = across<float>(sum);
    for (; d < width; d++) total += q[d] * get(k[d]);
    return total;
}

template <class T> inline void add(float *out, float weight, const T *v, long width) {
    long d = 0;
    for (; d + 16 <= width; d += 16) *(lanes *)(out + d) += weight * read(v + d);
    for (; d < width; d++) out[d] += weight * get(v[d]);
}

/* scores[0..n) to weights that add up to 1; room up to a multiple of 16 is used. */
void normalise(float *scores, long n) {
    long end = (n + 15) / 16 * 16;
    for (long j = n; j < end; j++) scores[j] = -INFINITY;
    float best = largest(scores, end);
    lanes sum = {};
    for (long j = 0; j < end; j += 16) {
        lanes x = read(scores + j), e = exponential(x - best);
        e = x > -INFINITY ? e : lanes{};
        *(lanes *)(scores + j) = e;
        sum += e;
    }
    float share = 1.0f / across<float>(sum);
    for (long j = 0; j < end; j += 16) *(lanes *)(scores + j) *= share;
}

/* The slots that a query at `position` of row b sees, in order; returns how many. */
long look(const Call *c, long b, int64_t position, int32_t *slots) {
    const int64_t *seen = c->seen + b * (c->slots + 1);
    long count = 0, end = least(c->slots, position + 1);
    for (long s = 0; s < end; s++) {
        slots[count] = (int32_t)s;
        count += seen[s] > 0 && seen[s] <= position + 1 && position + 1 - seen[s] < c->window;
    }
    return count;
}

/* Heads [from, to) of the cache for one row: write the new tokens, then answer every query. */
template <class T>
void answer(const Call *c, float scale, long b, long from, long to, float *scores, int32_t *slots) {
    long W = c->width, group = c->heads / c->kv_heads, room = (c->slots + 15) / 16 * 16;
    long row = c->kv_heads * W, heads = (to - from) * group;
    T *keys = (T *)c->keys + b * (c->slots + 1) * row, *values = (T *)c->values + b * (c->slots + 1) * row;
    const int64_t *positions = c->positions + b * c->time;
    for (long t = 0; t < c->time; t++) {
        long at = positions[t] % c->slots * row;
        if (positions[t] < 0) continue;
        for (long h = from; h < to; h++) {
            for (long d = 0; d < W; d++) {
                put(keys + at + h * W + d, c->k.at<float>(b, t, h)[d]);
                put(values + at + h * W + d, c->v.at<float>(b, t, h)[d]);
            }
        }
    }
    for (long t = 0; t < c->time; t++) {
        float *out = c->out + ((b * c->time + t) * c->heads + from * group) * W;
        const float *q = c->q.at<float>(b, t, from * group);
        memset(out, 0, sizeof(float) * heads * W);
        if (positions[t] < 0) continue;
        long n = look(c, b, positions[t], slots);
        for (long j = 0; j < n; j++) {
            const T *k = keys + slots[j] * row + from * W;
            for (long h = 0; h < heads; h++)
                scores[h * room + j] = scale * dot(q + h * c->q.head, k + h / group * W, W);
        }
        for (long h = 0; h < heads; h++) normalise(scores + h * room, n);
        for (long j = 0; j < n; j++) {
            const T *v = values + slots[j] * row + from * W;
            for (long h = 0; h < heads; h++) add(out + h * W, scores[h * room + j], v + h / group * W, W);
        }
    }
}

/* A thread's share of all (row, head) pairs, row by row. */
template <class T> int share(const Call *c, float scale, long from, long to) {
    size_t room = (c->slots + 15) / 16 * 16;
    float *scores = (float *)aligned_alloc(64, sizeof(float) * room * (c->heads + 1));
    if (!scores) return -1;
    int32_t *slots = (int32_t *)(scores + room * c->heads);
    while (from < to) {
        long b = from / c->kv_heads, end = least(to, (b + 1) * c->kv_heads);
        answer<T>(c, scale, b, from - b * c->kv_heads, end - b * c->kv_heads, scores, slots);
        from = end;
    }
    free(scores);
    return 0;
}

} // namespace

extern "C" {

/* Returns 0, or -1 when memory ran out. */
int cached_attention(const Call *c, float scale) {
    for (long b = 0; b < c->batch; b++)
        for (long t = 0; t < c->time; t++) {
            int64_t position = c->positions[b * c->time + t];
            if (position >= 0) c->seen[b * (c->slots + 1) + position % c->slots] = position + 1;
        }
    long pairs = c->batch * c->kv_heads;
    int failed = 0;
#pragma omp parallel for num_threads(c->threads) schedule(static) if (c->threads > 1)
    for (long t = 0; t < c->threads; t++) {
        long from = pairs * t / c->threads, to = pairs * (t + 1) / c->threads;
        if ((c->bf16 ? share<uint16_t>(c, scale, from, to) : share<float>(c, scale, from, to)) != 0) failed = -1;
    }
    return failed;
}
}
