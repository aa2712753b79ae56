/* Block-diagonal maps for training on a CPU in bf16, summed in fp32: a matrix for each branch, or a
   causal convolution over `taps` tokens,

       y[t, h] = bias[h] + sum_j W[h, :, :, j] x[t - (taps - 1 - j), h]   (+ x[t, h]: `residual`).

   x, y: (batch, time, branches, width) with any strides but a contiguous last dimension, of even
   width. W (branches * out, in, taps) and bias are contiguous, in fp32 or bf16, their gradients
   contiguous in fp32.

   Everything is a sum over products of pairs: a 32-bit word holds two bf16 numbers that follow each
   other in the direction of the sum. A token's features are such pairs as they lie. Weights, and
   tokens where the sum goes over tokens, are laid out as pairs first: in panels of up to four
   vectors, (depth, 16 wide), as a register tile reads them. */

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define PAYS 1
#else
#define PAYS 0 /* torch is as fast without instructions for pairs, and faster with units for matrices */
#endif

extern "C" int pays() { return PAYS; }

#if PAYS
#include <cstdlib>

#include "lanes.h"
#include "number.h"
#include "view.h"

namespace {

constexpr long PIECE = 120; /* tokens that are mapped at a time: a multiple of each `tall` */
constexpr long ROWS = 128;  /* tokens that are summed over at a time */
constexpr long NEAR = 4 << 20; /* bytes of dy that stay near */
constexpr long OUTS = 192; /* rows of W of a piece of work: a multiple of every `tall` */

struct Shape {
    long batch, time, branches, in, out, taps;
    int bf16, residual, threads; /* bf16: W and bias are */
};

/* Room for n numbers of four bytes. */
void *room(long n) { return aligned_alloc(64, (4 * n + 63) / 64 * 64); }

/* sum + a[0] b[0] + a[1] b[1] for each of 16 pairs. */
inline lanes add_products(lanes sum, words a, words b) {
    return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

inline uint32_t pair_at(const uint16_t *at) {
    uint32_t pair;
    memcpy(&pair, at, 4);
    return pair;
}

/* How n columns are parted into panels, as equal as can be. */
struct Panels {
    long vectors, count;
    explicit Panels(long n) : vectors((n + 15) / 16), count((vectors + 3) / 4) {}
    long first(long p) const { return p * vectors / count; } /* in vectors */
    long wide(long p) const { return first(p + 1) - first(p); }
    long columns() const { return 16 * vectors; }
};

/* The most rows for which a step's registers suffice. */
constexpr int tall(int wide) { return wide < 3 ? 12 : wide == 3 ? 8 : 6; }

/* sum[r][v] += over `depth` steps k the pair at row[r] + k * along, times b[k][v]. */
template <int WIDE>
inline void tile(lanes (&sum)[tall(WIDE)][WIDE], long depth, const uint16_t *const *row, long along,
                 const uint32_t *b) {
    constexpr int TALL = tall(WIDE);
    for (long k = 0; k < depth; k++, b += 16 * WIDE) {
#pragma GCC unroll 12
        for (int r = 0; r < TALL; r++) {
            words left = words{} + pair_at(row[r] + k * along);
#pragma GCC unroll 4
            for (int v = 0; v < WIDE; v++)
                sum[r][v] = add_products(sum[r][v], left, *(const words *)(b + 16 * v));
        }
    }
}

template <int WIDE> inline void add(const uint16_t *from, lanes (&sum)[WIDE]) {
#pragma GCC unroll 4
    for (int v = 0; v < WIDE; v++) sum[v] += read(from + 16 * v, 16);
}

/* Two vectors of fp32 are one of bf16, a whole cache line. */
template <int WIDE> inline void store(const lanes (&sum)[WIDE], uint16_t *to) {
#pragma GCC unroll 2
    for (int v = 0; v + 1 < WIDE; v += 2) {
        __m512bh line = _mm512_cvtne2ps_pbh((__m512)sum[v + 1], (__m512)sum[v]);
        memcpy(to + 16 * v, &line, 64);
    }
    if (WIDE % 2) write(to + 16 * (WIDE - 1), sum[WIDE - 1], 16);
}

/* Call part.panel<vectors wide>(first vector, more...) for each panel. */
template <class Part, class... More> void each_panel(Panels panels, const Part &part, More... more) {
    for (long p = 0; p < panels.count; p++) switch (panels.wide(p)) {
        case 1: part.template panel<1>(panels.first(p), more...); break;
        case 2: part.template panel<2>(panels.first(p), more...); break;
        case 3: part.template panel<3>(panels.first(p), more...); break;
        case 4: part.template panel<4>(panels.first(p), more...); break;
    }
}

/* Tokens of one branch of one text; zeros before and behind it. */
struct Text {
    const View *view;
    long b, h, time;
    const uint16_t *zeros;

    const uint16_t *operator[](long t) const {
        return t < 0 || t >= time ? zeros : view->at<uint16_t>(b, t, h);
    }
};

/* One branch's map of some tokens: out columns of x W. */
struct Map {
    Text x, y;
    long in, out, taps;
    int back, residual;    /* back: taps reach ahead, as a gradient's do */
    const uint32_t *pairs; /* of W: panels of (taps, in / 2, 16 wide) */
    const float *bias;     /* (out, rounded up to 16) */

    template <int WIDE> void panel(long v0, long begin, long end) const {
        constexpr int TALL = tall(WIDE);
        long depth = in / 2;
        const uint32_t *from = pairs + v0 * 16 * taps * depth;
        for (long t = begin; t < end; t += TALL) {
            for (long r = t + TALL; r < least(t + 2 * TALL, end); r++) {
                if (v0 == 0)
                    for (long i = 0; i < in; i += 32) __builtin_prefetch(x[r] + i);
                for (int v = 0; v < WIDE; v += 2) __builtin_prefetch(y[r] + (v0 + v) * 16, 1);
            }
            lanes sum[TALL][WIDE];
#pragma GCC unroll 12
            for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
                for (int v = 0; v < WIDE; v++) sum[r][v] = *(const lanes *)(bias + (v0 + v) * 16);
            for (long j = 0; j < taps; j++) {
                long reach = back ? taps - 1 - j : j - taps + 1;
                const uint16_t *row[TALL];
                for (int r = 0; r < TALL; r++) row[r] = x[least(t + r, end - 1) + reach];
                tile<WIDE>(sum, depth, row, 2, from + j * depth * 16 * WIDE);
            }
            if (t + TALL <= end && (v0 + WIDE) * 16 <= out) {
#pragma GCC unroll 12
                for (int r = 0; r < TALL; r++) {
                    uint16_t *to = (uint16_t *)y[t + r] + v0 * 16;
                    if (residual) add<WIDE>(x[t + r] + v0 * 16, sum[r]);
                    store<WIDE>(sum[r], to);
                }
                continue;
            }
#pragma GCC unroll 12
            for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
                for (int v = 0; v < WIDE; v++) {
                    long c = (v0 + v) * 16, n = least(16, out - c);
                    if (t + r >= end) continue;
                    lanes z = sum[r][v];
                    if (residual) z += read(x[t + r] + c, n);
                    write((uint16_t *)y[t + r] + c, z, n);
                }
        }
    }
};

struct Numbers {
    const void *data;
    int bf16;
    float operator[](long i) const {
        return bf16 ? get(((const uint16_t *)data)[i]) : ((const float *)data)[i];
    }
    void round(long first, long n, uint16_t *to) const {
        if (bf16) memcpy(to, (const uint16_t *)data + first, 2 * n);
        else for (long i = 0; i < n; i += 16) {
            long some = least(16, n - i);
            write(to + i, read((const float *)data + first + i, some), some);
        }
    }
};

inline void lay_pairs(const uint16_t *one, const uint16_t *two, long n, uint32_t *to) {
    for (long c = 0; c < n; c++) to[c] = one[c] | (uint32_t)two[c] << 16;
}

/* Some tokens from t on as pairs of two tokens, in panels. */
void lay_tokens(const Text &x, long t, long rows, long columns, uint32_t *to) {
    Panels panels(columns);
    for (long p = 0; p < panels.count; p++) {
        long first = panels.first(p) * 16, wide = panels.wide(p) * 16;
        for (long r = 0; r < rows; r += 2, to += wide)
            lay_pairs(x[t + r] + first, x[t + r + 1] + first, least(wide, columns - first), to);
    }
}

/* The gradient of W: for some of its rows, over all tokens. */
struct Products {
    float *sums;           /* (OUTS, columns of the panels) */
    long stride;           /* that number of columns */
    long depth;            /* pairs of tokens */
    const uint32_t *left;  /* (depth, OUTS): pairs of dy */
    const uint32_t *right; /* panels of (laid, 16 wide): pairs of x */
    long laid, skipped;    /* of them, before the first that is used */

    template <int WIDE> void panel(long v0, long outs) const {
        constexpr int TALL = tall(WIDE);
        for (long o = 0; o < outs; o += TALL) {
            lanes sum[TALL][WIDE];
            const uint16_t *row[TALL];
            float *at = sums + o * stride + v0 * 16;
#pragma GCC unroll 12
            for (int r = 0; r < TALL; r++) {
                row[r] = (const uint16_t *)(left + o + r);
#pragma GCC unroll 4
                for (int v = 0; v < WIDE; v++) sum[r][v] = *(lanes *)(at + r * stride + v * 16);
            }
            tile<WIDE>(sum, depth, row, 2 * OUTS, right + 16 * (v0 * laid + skipped * WIDE));
#pragma GCC unroll 12
            for (int r = 0; r < TALL; r++)
#pragma GCC unroll 4
                for (int v = 0; v < WIDE; v++) *(lanes *)(at + r * stride + v * 16) = sum[r][v];
        }
    }
};

/* The maps of all branches; back: their transposes. */
struct Maps {
    const Shape *shape;
    int back;
    long in, out, columns, each, pieces; /* pieces: of the tokens of a branch */
    uint32_t *laid;
    float *bias;
    uint16_t *zeros;
    uint16_t *rounded; /* a row of W in bf16 for each branch, (in, taps) */
    uint16_t *plain;   /* W in bf16, (branches, taps, out, in) */

    Maps(const Shape *s, int transposed)
        : shape(s), back(transposed), in(back ? s->out : s->in), out(back ? s->in : s->out),
          columns(Panels(out).columns()), each(columns * s->taps * (in / 2)),
          pieces(s->batch * ((s->time + PIECE - 1) / PIECE)),
          laid((uint32_t *)room(s->branches * (each + columns + (s->taps * s->in + size()) / 2) +
                                in / 2)),
          bias((float *)(laid + s->branches * each)),
          zeros((uint16_t *)(bias + s->branches * columns)), rounded(zeros + in),
          plain(rounded + s->branches * s->taps * s->in) {
        if (laid) memset(zeros, 0, 2 * in);
    }
    ~Maps() { free(laid); }

    long size() const { return shape->taps * shape->out * shape->in; }

    void lay(long h, Numbers w, Numbers b) const {
        long taps = shape->taps, rows = shape->out, width = shape->in;
        uint16_t *from = plain + h * size(), *row = rounded + h * width * taps;
        if (taps == 1) w.round(h * size(), size(), from);
        else for (long o = 0; o < rows; o++) {
            w.round((h * rows + o) * width * taps, width * taps, row);
            for (long j = 0; j < taps; j++)
                for (long i = 0; i < width; i++)
                    from[(j * rows + o) * width + i] = row[i * taps + j];
        }
        uint32_t *to = laid + h * each;
        if (columns > out) memset(to, 0, 4 * each);
        Panels panels(out);
        for (long p = 0; p < panels.count; p++) {
            long first = panels.first(p) * 16, wide = panels.wide(p) * 16, n = least(wide, out - first);
            for (long j = 0; j < taps; j++) {
                const uint16_t *tap = from + j * rows * width;
                for (long k = 0; k < in; k += 2, to += wide)
                    if (back) lay_pairs(tap + k * width + first, tap + (k + 1) * width + first, n, to);
                    else for (long c = 0; c < n; c++) to[c] = pair_at(tap + (first + c) * width + k);
            }
        }
        for (long c = 0; c < columns; c++)
            bias[h * columns + c] = b.data && c < out ? b[h * out + c] : 0;
    }

    void run(const View *x, const View *y, long job) const {
        long h = job / pieces, piece = job % pieces, blocks = pieces / shape->batch;
        long b = piece / blocks, t = piece % blocks * PIECE;
        Map one = {{x, b, h, shape->time, zeros},
                   {y, b, h, shape->time, zeros},
                   in, out, shape->taps, back, shape->residual,
                   laid + h * each, bias + h * columns};
        each_panel(Panels(out), one, t, least(t + PIECE, shape->time));
    }
};

/* Gradients of W and bias; each thread has one. */
struct Gradients {
    const Shape *shape;
    long columns, parts, rows, sums; /* parts: of the rows of a branch's W */
    long laid, size; /* laid: pairs of x, once for every other tap and once for the rest */
    float *memory, *total;
    uint32_t *left, *right;
    uint16_t *zeros;

    explicit Gradients(const Shape *s)
        : shape(s), columns(Panels(s->in).columns()), parts((s->out + OUTS - 1) / OUTS),
          rows(least(ROWS, (s->time + 1) / 2 * 2)), sums(s->taps * OUTS * columns),
          laid(rows / 2 + (s->taps - 1) / 2),
          size(sums + OUTS + rows / 2 * OUTS + least(s->taps, 2) * laid * columns + s->in + s->out),
          memory((float *)room(size)),
          total(memory + sums), left((uint32_t *)(total + OUTS)), right(left + rows / 2 * OUTS),
          zeros((uint16_t *)(right + least(s->taps, 2) * laid * columns)) {
        if (memory) memset(memory, 0, 4 * size);
    }
    ~Gradients() { free(memory); }

    void run(const View *dy, const View *x, float *dw, float *dbias, long job) const {
        long h = job / parts, first = job % parts * OUTS, outs = least(OUTS, shape->out - first);
        memset(memory, 0, 4 * (sums + OUTS));
        for (long b = 0; b < shape->batch; b++)
            for (long t = 0; t < shape->time; t += rows)
                add({dy, b, h, shape->time, zeros}, {x, b, h, shape->time, zeros}, t, first, outs);
        long row = h * shape->out + first, taps = shape->taps;
        for (long o = 0; o < outs; o++) {
            const float *from = memory + o * columns;
            float *to = dw + (row + o) * shape->in * taps;
            if (taps == 1) memcpy(to, from, shape->in * sizeof(float));
            else for (long i = 0; i < shape->in; i++)
                for (long j = 0; j < taps; j++) to[i * taps + j] = from[j * OUTS * columns + i];
        }
        if (dbias) memcpy(dbias + row, total, 4 * outs);
    }

    void add(const Text &dy, const Text &x, long t, long first, long outs) const {
        for (long r = 0; r < rows; r += 2) {
            for (long i = 0; i < outs; i += 32) {
                __builtin_prefetch(dy[t + r + 8] + first + i);
                __builtin_prefetch(dy[t + r + 9] + first + i);
            }
            lay_pairs(dy[t + r] + first, dy[t + r + 1] + first, outs, left + r / 2 * OUTS);
        }
        words ones = words{} + 0x3f803f80u;
        for (long r = 0; r < rows / 2; r++)
            for (long o = 0; o < OUTS; o += 16) {
                lanes *sum = (lanes *)(total + o);
                *sum = add_products(*sum, *(const words *)(left + r * OUTS + o), ones);
            }
        for (long j = 0; j < shape->taps; j++) {
            uint32_t *pairs = right + j % 2 * laid * columns;
            if (j < 2) lay_tokens(x, t - (shape->taps - 1 - j), 2 * laid, shape->in, pairs);
            Products some = {memory + j * OUTS * columns, columns, rows / 2, left, pairs, laid, j / 2};
            each_panel(Panels(shape->in), some, outs);
        }
    }
};

} // namespace

extern "C" {

/* Both return 0, or -1 when memory ran out. */
int branches_forward(const Shape *s, const View *x, const void *w, const void *bias, const View *y) {
    Maps maps(s, 0);
    if (!maps.laid) return -1;
#pragma omp parallel num_threads(s->threads)
    {
#pragma omp for schedule(static)
        for (long h = 0; h < s->branches; h++) maps.lay(h, {w, s->bf16}, {bias, s->bf16});
#pragma omp for schedule(dynamic)
        for (long job = 0; job < s->branches * maps.pieces; job++) maps.run(x, y, job);
    }
    return 0;
}

/* A few branches at a time, so that their dy is still near when it is read again. */
int branches_backward(const Shape *s, const View *dy, const View *x, const void *w, const View *dx,
                      float *dw, float *dbias) {
    Maps maps(s, 1);
    if (!maps.laid) return -1;
    long some = NEAR / (2 * s->batch * s->time * s->out) + 1;
    int failed = 0;
#pragma omp parallel num_threads(s->threads)
    {
        Gradients gradients(s);
        if (!gradients.memory) failed = -1;
#pragma omp for schedule(static)
        for (long h = 0; h < s->branches; h++) maps.lay(h, {w, s->bf16}, {nullptr, 0});
        for (long first = 0; first < s->branches && !failed; first += some) {
            long last = least(first + some, s->branches);
#pragma omp for schedule(dynamic) nowait
            for (long job = first * maps.pieces; job < last * maps.pieces; job++)
                maps.run(dy, dx, job);
#pragma omp for schedule(dynamic) nowait
            for (long job = first * gradients.parts; job < last * gradients.parts; job++)
                gradients.run(dy, x, dw, dbias, job);
        }
    }
    return failed;
}
}

#endif
