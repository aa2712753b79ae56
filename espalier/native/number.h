/* What several kernels share: bf16 numbers, and random ones by hashing. */

#pragma once

#include <cstdint>
#include <cstring>

inline float get(float x) { return x; }
inline float get(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Rounds to the nearest bf16, ties to even. */
inline void put(float *at, float x) { *at = x; }
inline void put(uint16_t *at, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *at = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Two rounds of multiply and shift, for a number or a vector of them (constants:
   nullprogram.com/blog/2018/07/31). */
template <typename Word> inline Word hash(Word x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* Where the random numbers of run number `run` start; each number in it takes the next place. */
inline uint32_t run_key(uint64_t seed, uint64_t run) {
    uint32_t high = (uint32_t)(seed >> 32) ^ (uint32_t)(run >> 32);
    return hash(hash((uint32_t)seed + (uint32_t)run) ^ high);
}

/* A hash below this drops its number, with probability p. */
inline uint32_t drop_limit(float p) { return (uint32_t)((double)p * 4294967296.0); }
