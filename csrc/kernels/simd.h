#pragma once

// One vector type per instruction set, for <op>_cpu.cc files only: they are compiled once per instruction set with
// FS_ISA set by CMake, and everything here lives in that namespace, so the linker can never hand AVX-512 code to an
// AVX2 machine. For the same reason those files include no header with inline functions shared with other files (no
// <vector>, <algorithm>, <cmath>): use the helpers below and builtins. The tests isa_objects_* check the objects.

#include <cstdint>

#if defined(FS_ISA_avx512) || defined(FS_ISA_avx2)
#include <immintrin.h>
#endif

#define FS_INLINE inline __attribute__((always_inline))
/// For the phases of a kernel: large functions that are compiled once, not once per caller.
#define FS_NOINLINE __attribute__((noinline))

namespace fastserve::kernels::FS_ISA {

/// 16-bit floats as stored; arithmetic is in fp32.
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

FS_INLINE std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
FS_INLINE std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
FS_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

FS_INLINE float to_float(float x) { return x; }
FS_INLINE float to_float(BFloat16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16); }
FS_INLINE float to_float(Float16 x) {
#if defined(FS_ISA_scalar)
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return __builtin_bit_cast(float, sign | ((magnitude + (112u << 10)) << 13));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal or zero
  return sign ? -value : value;
#else
  return _cvtsh_ss(x.bits);
#endif
}

template <typename T>
T from_float(float x);
template <>
FS_INLINE float from_float<float>(float x) {
  return x;
}
template <>
FS_INLINE BFloat16 from_float<BFloat16>(float x) {  // round to nearest even; NaN stays NaN
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <>
FS_INLINE Float16 from_float<Float16>(float x) {
#if defined(FS_ISA_scalar)
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: let fp32 addition round
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (__builtin_bit_cast(std::uint32_t, shifted) - 0x3f000000u))};
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
  return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
#else
  return {_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};
#endif
}

#if defined(FS_ISA_avx512)

struct Vec {
  static constexpr int kLanes = 16;
  __m512 v;
};
FS_INLINE Vec set1(float x) { return {_mm512_set1_ps(x)}; }
FS_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
FS_INLINE Vec load(const BFloat16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
FS_INLINE Vec load(const Float16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
FS_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
FS_INLINE void store(BFloat16* p, Vec a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), lsb), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
FS_INLINE void store(Float16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
FS_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
FS_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
FS_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
FS_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
FS_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
FS_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
FS_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FS_INLINE Vec round_to_int(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
/// a * 2^n for integral n in [-126, 127].
FS_INLINE Vec scale_by_pow2(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

#elif defined(FS_ISA_avx2)

struct Vec {
  static constexpr int kLanes = 8;
  __m256 v;
};
FS_INLINE Vec set1(float x) { return {_mm256_set1_ps(x)}; }
FS_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
FS_INLINE Vec load(const BFloat16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
FS_INLINE Vec load(const Float16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
FS_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
FS_INLINE void store(BFloat16* p, Vec a) {
  float lanes[8];
  _mm256_storeu_ps(lanes, a.v);
  for (int i = 0; i < 8; ++i) p[i] = from_float<BFloat16>(lanes[i]);
}
FS_INLINE void store(Float16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
FS_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
FS_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
FS_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
FS_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
FS_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
FS_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
FS_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FS_INLINE Vec round_to_int(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
FS_INLINE Vec scale_by_pow2(Vec a, Vec n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
  return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(exponent))};
}

#else

// The compiler's own vectors rather than arrays: arrays in memory cost minutes of compile time under the sanitizers.
typedef float Lanes __attribute__((vector_size(16)));
typedef std::int32_t IntLanes __attribute__((vector_size(16)));
struct Vec {
  static constexpr int kLanes = 4;
  Lanes v;
};
FS_INLINE Vec set1(float x) { return {Lanes{x, x, x, x}}; }
template <typename T>
FS_INLINE Vec load(const T* p) {
  return {Lanes{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}};
}
template <typename T>
FS_INLINE void store(T* p, Vec a) {
  for (int i = 0; i < 4; ++i) p[i] = from_float<T>(a.v[i]);
}
FS_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
FS_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
FS_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
FS_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
FS_INLINE Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
FS_INLINE Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
FS_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
FS_INLINE Vec round_to_int(Vec a) {
  return {Lanes{__builtin_rintf(a.v[0]), __builtin_rintf(a.v[1]), __builtin_rintf(a.v[2]), __builtin_rintf(a.v[3])}};
}
FS_INLINE Vec scale_by_pow2(Vec a, Vec n) {
  return {a.v * __builtin_bit_cast(Lanes, (__builtin_convertvector(n.v, IntLanes) + 127) << 23)};
}

#endif

// Lanes are combined in halves: i with i + 8, then i with i + 4, and so on, on every instruction set.
#if defined(FS_ISA_scalar)
FS_INLINE float reduce_sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
FS_INLINE float reduce_max(Vec a) {
  const float even = a.v[0] > a.v[2] ? a.v[0] : a.v[2];
  const float odd = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return even > odd ? even : odd;
}
#else
#if defined(FS_ISA_avx512)
FS_INLINE __m256 low_half(Vec a) { return _mm512_castps512_ps256(a.v); }
FS_INLINE __m256 high_half(Vec a) { return _mm512_extractf32x8_ps(a.v, 1); }
FS_INLINE __m128 fold_sum(Vec a) {
  const __m256 x = _mm256_add_ps(low_half(a), high_half(a));
  return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}
FS_INLINE __m128 fold_max(Vec a) {
  const __m256 x = _mm256_max_ps(low_half(a), high_half(a));
  return _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}
#else
FS_INLINE __m128 fold_sum(Vec a) { return _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1)); }
FS_INLINE __m128 fold_max(Vec a) { return _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1)); }
#endif
FS_INLINE float reduce_sum(Vec a) {
  const __m128 four = fold_sum(a);
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
FS_INLINE float reduce_max(Vec a) {
  const __m128 four = fold_max(a);
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
#endif

/// Lane by lane: a <= b ? x : y.
FS_INLINE Vec select_le(Vec a, Vec b, Vec x, Vec y) {
#if defined(FS_ISA_avx512)
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ), y.v, x.v)};
#elif defined(FS_ISA_avx2)
  return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ))};
#else
  return {a.v <= b.v ? x.v : y.v};
#endif
}

/// exp(x), relative error below 2e-7 on [-87, 88]; smaller x gives 0 (so exp(-inf) = 0), larger x the value at 88;
/// NaN stays NaN.
FS_INLINE Vec exp(Vec x) {
#if defined(FS_ISA_scalar)
  const Vec clamped = max(min(x, set1(88.0f)), set1(-87.0f));  // NaN becomes 88, so that it can be cast to an integer
#else
  const Vec clamped = max(set1(-87.0f), min(set1(88.0f), x));  // NaN stays: the second operand wins
#endif
  const Vec n = round_to_int(clamped * set1(1.44269504088896341f));
  const Vec r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), clamped));
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r + set1(1.0f));
  const Vec value = scale_by_pow2(p, n);
#if defined(FS_ISA_avx512)
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ), value.v)};
#elif defined(FS_ISA_avx2)
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, _mm256_set1_ps(-87.0f), _CMP_NLT_UQ), value.v)};
#else
  const Lanes small_or_nan = x.v < -87.0f ? Lanes{} : x.v;
  return {x.v >= -87.0f ? value.v : small_or_nan};
#endif
}

}  // namespace fastserve::kernels::FS_ISA
