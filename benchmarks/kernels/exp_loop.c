// SPDX-License-Identifier: Apache-2.0
// exp of float32, by hand for AVX-512 and for AVX2: what the Numba kernel is measured against. Not part of the package.
// Same polynomial and the same range as steepest's exp: subnormal results, overflow to inf, NaN kept.
#include <immintrin.h>
#include <stddef.h>

static const float C[7] = {1.0f, 1.0f, 0x1.fffffcp-2f, 0.16666518151760101f, 0.041669651865959167f, 0.0083689447492361069f,
                           0.0013744963798671961f};
#define LOG2E 0x1.715476p+0f
#define LN2_HI 0x1.62E43p-1f
#define LN2_LO -0x1.05C61p-29f

#if defined(__AVX512F__)
#define WIDTH 16
typedef __m512 lanes;
static inline lanes vexp(lanes x) {
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-105.0f), x));
    lanes n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    lanes t = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HI), x);
    t = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LO), t);
    lanes p = _mm512_set1_ps(C[6]);
    for (int i = 5; i >= 0; i--) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(C[i]));
    return _mm512_scalef_ps(p, n);
}
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#else
#define WIDTH 8
typedef __m256 lanes;
static inline lanes vexp(lanes x) {
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-105.0f), x));
    lanes k = _mm256_fmadd_ps(x, _mm256_set1_ps(LOG2E), _mm256_set1_ps(0x1.8p23f));
    lanes n = _mm256_sub_ps(k, _mm256_set1_ps(0x1.8p23f));
    lanes t = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_HI), x);
    t = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LO), t);
    lanes p = _mm256_set1_ps(C[6]);
    for (int i = 5; i >= 0; i--) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(C[i]));
    // 2^n in two factors, so that subnormal results are rounded once and 2^128 overflows.
    __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(k), _mm256_set1_epi32(0x4B400000));
    __m256i half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#endif

void exp_loop(const float *x, float *y, ptrdiff_t count) {
    ptrdiff_t i = 0;
    for (; i + 4 * WIDTH <= count; i += 4 * WIDTH)
        for (int j = 0; j < 4; j++) STORE(y + i + j * WIDTH, vexp(LOAD(x + i + j * WIDTH)));
    for (; i < count; i += WIDTH) {  // the caller's arrays are a multiple of WIDTH long
        STORE(y + i, vexp(LOAD(x + i)));
    }
}
