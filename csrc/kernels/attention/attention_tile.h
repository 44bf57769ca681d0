#pragma once

// What the two attention kernels share, for attention_*_cpu.cc only (see kernels/simd.h for the rules of such files).

#include "kernels/attention/attention.h"
#include "kernels/simd.h"

namespace fastserve::kernels::FS_ISA {

constexpr int kLanes = Vec::kLanes;
constexpr int kPageTokens = 8;  // tokens in a row that always lie in one page: the smallest block size
constexpr float kMinusInf = -__builtin_inff();

// Vectors of 8 values out of 16 lanes: head_dim is a multiple of 8 only. Elsewhere a vector never needs cutting.
#if defined(FS_ISA_avx512)
FS_INLINE Vec load_half(const float* p) { return {_mm512_maskz_loadu_ps(0xff, p)}; }
FS_INLINE Vec load_half(const BFloat16* p) {
  const __m256i half = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm512_maskz_mov_ps(0xff, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)))};
}
FS_INLINE Vec load_half(const Float16* p) {
  return {_mm512_maskz_cvtph_ps(0xff, _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
FS_INLINE void store_half(float* p, Vec a) { _mm256_storeu_ps(p, _mm512_castps512_ps256(a.v)); }
template <typename T>
FS_INLINE void store_half(T* p, Vec a) {
  T lanes[kLanes];
  store(lanes, a);
  __builtin_memcpy(p, lanes, 8 * sizeof(T));
}
#else
template <typename T>
FS_INLINE Vec load_half(const T* p) {
  return load(p);
}
template <typename T>
FS_INLINE void store_half(T* p, Vec a) {
  store(p, a);
}
#endif

/// The `count` values at p, a whole vector or 8 of 16 lanes; the other lanes are 0.
template <typename T>
FS_INLINE Vec load_some(const T* p, std::int64_t count) {
  return count >= kLanes ? load(p) : load_half(p);
}
template <typename T>
FS_INLINE void store_some(T* p, Vec a, std::int64_t count) {
  if (count >= kLanes) {
    store(p, a);
  } else {
    store_half(p, a);
  }
}

/// rows[i] lane j <-> rows[j] lane i.
FS_INLINE void transpose(Vec (&rows)[kLanes]) {
#if defined(FS_ISA_avx512)
  __m512 pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  __m512 quads[16];  // quads[4 i + c]: column c of each 128-bit lane, of rows 4 i .. 4 i + 3
  for (int i = 0; i < 16; i += 4) {
    quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512 low01 = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x88);  // lanes 0, 2 of rows 0-3, then of 4-7
    const __m512 high01 = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xdd);
    const __m512 low23 = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x88);
    const __m512 high23 = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xdd);
    rows[c].v = _mm512_shuffle_f32x4(low01, low23, 0x88);
    rows[4 + c].v = _mm512_shuffle_f32x4(high01, high23, 0x88);
    rows[8 + c].v = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    rows[12 + c].v = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
#elif defined(FS_ISA_avx2)
  __m256 pairs[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  __m256 quads[8];
  for (int i = 0; i < 8; i += 4) {
    quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    rows[c].v = _mm256_permute2f128_ps(quads[c], quads[4 + c], 0x20);
    rows[4 + c].v = _mm256_permute2f128_ps(quads[c], quads[4 + c], 0x31);
  }
#else
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float kept = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = kept;
    }
  }
#endif
}

/// The keys or the values of one (row, layer, KV head), by token.
template <typename T>
struct PagedRows {
  const T* base;  // of block 0
  const std::int32_t* block_ids;
  std::int64_t block_stride;  // elements
  int block_shift;            // log2 of the block size
  int head_dim;

  /// Token `token`; the following ones up to the next multiple of kPageTokens come right after it.
  FS_INLINE const T* at(std::int64_t token) const {
    const std::int64_t within = token & ((std::int64_t{1} << block_shift) - 1);
    return base + block_ids[token >> block_shift] * block_stride + within * head_dim;
  }
};

template <typename T>
FS_INLINE PagedRows<T> paged_rows(const AttentionParams& p, std::int64_t row, std::int64_t kv_head, bool values) {
  const std::int64_t head_stride = std::int64_t{p.block_size} * p.head_dim;
  const T* base = static_cast<const T*>(p.kv) + ((values ? p.num_kv_heads : 0) + kv_head) * head_stride;
  return {base, p.block_ids + p.block_start[row], p.block_stride, __builtin_ctz(static_cast<unsigned>(p.block_size)),
          p.head_dim};
}

FS_INLINE float exp_scalar(float x) {
  float lanes[kLanes];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

/// Weights that bring two online softmaxes to a common maximum, for merging a later split into the ones before it.
struct MergeWeights {
  Vec earlier, later, maximum;
};
FS_INLINE MergeWeights merge_weights(Vec earlier_max, Vec later_max) {
  const Vec maximum = max(earlier_max, later_max);
  return {exp(earlier_max - maximum), exp(later_max - maximum), maximum};
}

}  // namespace fastserve::kernels::FS_ISA
