/* Sixteen numbers at a time: one register where there is AVX-512, several elsewhere. */

#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" /* gcc 12, in its own header */
#include <immintrin.h>
#endif

typedef float lanes __attribute__((vector_size(64), aligned(4)));
typedef int32_t ints __attribute__((vector_size(64), aligned(4)));
typedef uint32_t words __attribute__((vector_size(64), aligned(4)));

typedef uint16_t halves __attribute__((vector_size(32), aligned(2)));

inline long least(long a, long b) { return a < b ? a : b; }

/* The first n of 16 numbers in fp32 or bf16; `rest` for the others. */
inline lanes read(const float *at, long n, float rest = 0) {
    lanes x = lanes{} + rest;
    n == 16 ? memcpy(&x, at, 64) : memcpy(&x, at, 4 * n);
    return x;
}
inline lanes read(const uint16_t *at, long n, float rest = 0) {
    halves some = {};
    n == 16 ? memcpy(&some, at, 32) : memcpy(&some, at, 2 * n);
    lanes x = (lanes)(__builtin_convertvector(some, words) << 16);
    for (long i = n; i < 16; i++) x[i] = rest;
    return x;
}

inline void write(float *at, lanes x, long n) {
    n == 16 ? memcpy(at, &x, 64) : memcpy(at, &x, 4 * n);
}
inline void write(uint16_t *at, lanes x, long n) {
#ifdef __AVX512BF16__
    halves some = (halves)_mm512_cvtneps_pbh((__m512)x);
#else
    words bits = (words)x;
    halves some = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, halves);
#endif
    n == 16 ? memcpy(at, &some, 32) : memcpy(at, &some, 2 * n);
}

/* The sum of 16 lanes, by halves. */
template <class T, class V> inline T across(V x) {
    typedef T eight __attribute__((vector_size(32)));
    typedef T four __attribute__((vector_size(16)));
    eight halves[2];
    memcpy(halves, &x, sizeof x);
    eight half = halves[0] + halves[1];
    four quarters[2];
    memcpy(quarters, &half, sizeof half);
    four sum = quarters[0] + quarters[1];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* The largest of n numbers, n a multiple of 16. */
inline float largest(const float *at, long n) {
    lanes top = *(const lanes *)at;
    for (long j = 16; j < n; j += 16) {
        lanes x = *(const lanes *)(at + j);
        top = x > top ? x : top;
    }
    float best = top[0];
    for (int i = 1; i < 16; i++) best = top[i] > best ? top[i] : best;
    return best;
}

/* e^x for x <= 0 to about 2 ulp: 2^n times a polynomial on [-ln2/2, ln2/2]. */
inline lanes exponential(lanes x) {
    x = x > -87.0f ? x : lanes{} - 87.0f;
    ints whole = __builtin_convertvector(x * 1.44269504f - 0.5f, ints);
    lanes n = __builtin_convertvector(whole, lanes);
    lanes f = x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return p * (lanes)((whole + 127) << 23);
}
