/* Linear layers for generation: y = x W^T + b for few rows of x, W in fp32, bf16 or int8.

   Decoding is bound by the bytes of W, so each weight is read once for all rows of x; all else is
   fp32 (fp32 and bf16 weights), or 16-bit fixed point with exact sums (int8). What a row gives does
   not depend on the rows beside it nor on the number of threads, to the last bit.

   W is stored with its rows padded with zeros to a multiple of 64. bf16: a 32-bit lane holds two
   weights, the even one is the lane shifted up, the odd one the lane with its lower half cleared; so
   x is first parted into even and odd features. int8: x = step * (256 high + low - 32768) in two
   unsigned bytes, so that products of bytes do the work. */

#include <cmath>
#include <cstdlib>
#ifdef __AVX512VNNI__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" /* gcc 12, in its own header */
#include <immintrin.h>
#endif

#include "lanes.h"

namespace {

constexpr long WIDE = 64;       /* rows of W are padded to a multiple */
constexpr long BLOCK = 1 << 18; /* bytes of W that stay near while the rows of x go by */
constexpr float LARGEST = 32767;

struct Matrix {
    const void *weights;  /* (n_out, stride) */
    const float *scale;   /* int8: (n_out) */
    const int32_t *sums;  /* int8: (n_out), the sum of each row of W */
    const float *bias;    /* (n_out) or null */
    long n_out, n_in, stride;
    long bytes; /* of a weight: 4, 2 or 1 */
};

/* x as the kernels want it: floats (rows, stride), or bytes (rows, stride / 64, 2, 64), high and low,
   with the size of a step for each row. */
struct Input {
    const void *data;
    const float *step;
};

/* Load once: gcc would else read x again in every product. */
template <class V> inline V hold(V x) {
#ifdef __AVX512F__
    asm("" : "+v"(x));
#endif
    return x;
}

/* How many weights ahead to fetch: the next tile, and where W is read in one stream (which memory
   serves best) 8 KB. */
template <int OUTS> inline long distance(const Matrix *m) {
    return OUTS == 1 ? 8192 / m->bytes : OUTS * m->stride;
}

/* Two vectors of 16 weights, in the order in which `place` lays out 32 features. */
struct Fp32 {
    typedef float type;
    static inline lanes first(const type *at) { return *(const lanes *)at; }
    static inline lanes second(const type *at) { return *(const lanes *)(at + 16); }
    static constexpr long place(long i) { return i; }
};

struct Bf16 {
    typedef uint16_t type;
    static inline lanes first(const type *at) { return (lanes)(*(const words *)at << 16); }
    static inline lanes second(const type *at) { return (lanes)(*(const words *)at & 0xffff0000u); }
    static constexpr long place(long i) { return i / 32 * 32 + i % 2 * 16 + i % 32 / 2; }
};

template <class Weight> struct Floats {
    typedef typename Weight::type type;
    static constexpr int GROUP = 8; /* rows at a time */
    static constexpr int outs(int rows) { return rows < 3 ? 1 : rows < 6 ? 4 : 3; }

    static void lay(const float *x, const Matrix *m, void *data, float *) {
        float *to = (float *)data;
        for (long i = 0; i < m->n_in; i++) to[Weight::place(i)] = x[i];
        for (long i = m->n_in; i < m->stride; i++) to[Weight::place(i)] = 0;
    }

    /* Outputs n to n + OUTS (at most `end`) of ROWS rows from r on. */
    template <int ROWS, int OUTS>
    static void tile(const Matrix *m, Input in, float *y, long r, long n, long end) {
        lanes sum[OUTS][ROWS] = {};
        const type *at[OUTS];
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            at[o] = (const type *)m->weights + least(n + o, end - 1) * m->stride;
        const float *x = (const float *)in.data + r * m->stride;
        long ahead = distance<OUTS>(m);
        for (long k = 0; k < m->stride; k += 32) {
            lanes w[OUTS];
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) {
                __builtin_prefetch(at[o] + k + ahead);
                w[o] = hold(Weight::first(at[o] + k));
            }
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                lanes here = hold(*(const lanes *)(x + i * m->stride + k));
#pragma GCC unroll 4
                for (int o = 0; o < OUTS; o++) sum[o][i] += w[o] * here;
            }
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) w[o] = hold(Weight::second(at[o] + k));
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                lanes here = hold(*(const lanes *)(x + i * m->stride + k + 16));
#pragma GCC unroll 4
                for (int o = 0; o < OUTS; o++) sum[o][i] += w[o] * here;
            }
        }
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
                if (n + o < end)
                    y[(r + i) * m->n_out + n + o] =
                        across<float>(sum[o][i]) + (m->bias ? m->bias[n + o] : 0.0f);
    }
};

/* sum + x w, products of unsigned and signed bytes, four to a lane. */
inline ints dot(ints sum, ints x, ints w) {
#ifdef __AVX512VNNI__
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#else
    for (int i = 0; i < 32; i += 8)
        sum += ((x >> i) & 255) * ((w << (24 - i)) >> 24);
    return sum;
#endif
}

struct Bytes {
    static constexpr int GROUP = 4;
    static constexpr int outs(int rows) { return rows < 2 ? 1 : rows < 4 ? 4 : 3; }

    static void lay(const float *x, const Matrix *m, void *data, float *step) {
        float top = 0, broken = 0;
        for (long i = 0; i < m->n_in; i++) {
            top = fmaxf(top, fabsf(x[i]));
            broken += x[i] * 0; /* NaN from NaN and infinity */
        }
        bool sound = top > 0 && broken == 0;
        float per = sound ? LARGEST / top : 0;
        *step = sound ? top / LARGEST : broken;
        uint8_t *to = (uint8_t *)data;
        for (long i = 0; i < m->stride; i++) {
            uint32_t value = i < m->n_in ? (uint32_t)(int32_t)(sound ? x[i] * per + 32768.5f : 0) : 0;
            to[i / WIDE * 2 * WIDE + i % WIDE] = (uint8_t)(value >> 8);
            to[i / WIDE * 2 * WIDE + WIDE + i % WIDE] = (uint8_t)value;
        }
    }

    template <int ROWS, int OUTS>
    static void tile(const Matrix *m, Input in, float *y, long r, long n, long end) {
        ints high[OUTS][ROWS] = {}, low[OUTS][ROWS] = {};
        const int8_t *at[OUTS];
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            at[o] = (const int8_t *)m->weights + least(n + o, end - 1) * m->stride;
        const uint8_t *x = (const uint8_t *)in.data + r * 2 * m->stride;
        long ahead = distance<OUTS>(m);
        for (long k = 0; k < m->stride; k += WIDE) {
            ints w[OUTS];
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) {
                __builtin_prefetch(at[o] + k + ahead);
                w[o] = hold(*(const ints *)(at[o] + k));
            }
#pragma GCC unroll 4
            for (int i = 0; i < ROWS; i++) {
                const ints *here = (const ints *)(x + i * 2 * m->stride + 2 * k);
                ints upper = hold(here[0]), lower = hold(here[1]);
#pragma GCC unroll 4
                for (int o = 0; o < OUTS; o++) {
                    high[o][i] = dot(high[o][i], upper, w[o]);
                    low[o][i] = dot(low[o][i], lower, w[o]);
                }
            }
        }
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
#pragma GCC unroll 4
            for (int i = 0; i < ROWS; i++) {
                if (n + o >= end) continue;
                int64_t sum = (int64_t)across<int32_t>(high[o][i]) * 256 + across<int32_t>(low[o][i]);
                sum -= (int64_t)m->sums[n + o] * 32768;
                y[(r + i) * m->n_out + n + o] = (float)sum * in.step[r + i] * m->scale[n + o] +
                                                (m->bias ? m->bias[n + o] : 0.0f);
            }
    }
};

template <class Kernel, int ROWS>
void strip(const Matrix *m, Input in, float *y, long r, long from, long to) {
    constexpr int OUTS = Kernel::outs(ROWS);
    for (long n = from; n < to; n += OUTS) Kernel::template tile<ROWS, OUTS>(m, in, y, r, n, to);
}

/* Outputs [from, to) of all rows: W by blocks, each block with every group of rows. */
template <class Kernel>
void span(const Matrix *m, Input in, float *y, long rows, long from, long to) {
    long block = rows > Kernel::GROUP ? BLOCK / (m->stride * m->bytes) / 12 * 12 + 12 : to - from;
    for (long n = from; n < to; n += block)
        for (long r = 0; r < rows; r += Kernel::GROUP) {
            long end = least(n + block, to);
            switch (least(Kernel::GROUP, rows - r)) {
            case 1: strip<Kernel, 1>(m, in, y, r, n, end); break;
            case 2: strip<Kernel, 2>(m, in, y, r, n, end); break;
            case 3: strip<Kernel, 3>(m, in, y, r, n, end); break;
            case 4: strip<Kernel, 4>(m, in, y, r, n, end); break;
            default:
                if constexpr (Kernel::GROUP > 4) switch (least(Kernel::GROUP, rows - r)) {
                    case 5: strip<Kernel, 5>(m, in, y, r, n, end); break;
                    case 6: strip<Kernel, 6>(m, in, y, r, n, end); break;
                    case 7: strip<Kernel, 7>(m, in, y, r, n, end); break;
                    case 8: strip<Kernel, 8>(m, in, y, r, n, end); break;
                    }
            }
        }
}

/* Scratch that a thread keeps from call to call. */
struct Scratch {
    void *memory = nullptr;
    size_t size = 0;
    ~Scratch() { free(memory); }
    void *take(size_t wanted) {
        if (wanted > size) {
            free(memory);
            size = (wanted + 4095) / 4096 * 4096;
            memory = aligned_alloc(64, size);
            if (!memory) size = 0;
        }
        return memory;
    }
};
thread_local Scratch scratch;

template <class Kernel> int run(const Matrix *m, const float *x, float *y, long rows, long threads) {
    size_t wide = m->stride * (m->bytes == 1 ? 2 : 4);
    char *data = (char *)scratch.take(rows * (wide + sizeof(float)));
    if (!data) return -1;
    float *step = (float *)(data + rows * wide);
    for (long r = 0; r < rows; r++) Kernel::lay(x + r * m->n_in, m, data + r * wide, step + r);
    Input in = {data, step};
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long t = 0; t < threads; t++)
        span<Kernel>(m, in, y, rows, m->n_out * t / threads, m->n_out * (t + 1) / threads);
    return 0;
}

} // namespace

extern "C" {

/* y (rows, n_out) = x (rows, n_in) W^T + b; returns 0, or -1 when memory ran out. */
int matvec(const Matrix *m, const float *x, float *y, long rows, long threads) {
    if (m->bytes == 4) return run<Floats<Fp32>>(m, x, y, rows, threads);
    if (m->bytes == 2) return run<Floats<Bf16>>(m, x, y, rows, threads);
    return run<Bytes>(m, x, y, rows, threads);
}
}
