#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/forward.h"
#include "kernels/isa.h"

namespace fastserve::kernels {

/// Elements of a head at most: the kernel works on a head in fp32 on the stack.
constexpr std::int64_t kMaxHeadDim = 512;

/// Strides are in elements; the heads of a token are dense: [num_heads, head_dim].
struct RopeKvWriteParams {
  void* q;                        // [num_tokens, num_q_heads, head_dim], rotated in place
  const void* k;                  // [num_tokens, num_kv_heads, head_dim]
  const void* v;                  // [num_tokens, num_kv_heads, head_dim]
  const std::int32_t* positions;  // [num_tokens], rows of cos_sin
  const float* cos_sin;           // [max_position, rot_dim] or null: no rotation
  void* kv_cache;                 // [num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]
  const std::int64_t* slots;      // [num_tokens]: block * block_size + row, or -1 to skip the write
  const void* q_norm;             // [head_dim] or null: no norm
  const void* k_norm;             // [head_dim] or null: no norm
  DType dtype;                    // of q, k, v, kv_cache and the norms
  bool interleaved;
  float norm_eps;
  std::int64_t q_stride, k_stride, v_stride, cos_sin_stride;
  std::int64_t num_tokens, num_q_heads, num_kv_heads, head_dim, rot_dim;
  std::int64_t num_layers, layer, block_size;
  std::int64_t max_position, num_slots;
};

FS_DECLARE_CPU(void rope_kv_write(const RopeKvWriteParams& params, ThreadPool& pool))

/// Operands of rope_kv_write; null pointers leave a step out.
struct RopeKvWriteOperands {
  const TensorView& q;
  const TensorView& k;
  const TensorView& v;
  const TensorView& positions;
  const TensorView* cos_sin;
  const TensorView& kv_cache;
  const TensorView& slots;
  const TensorView* q_norm;
  const TensorView* k_norm;
};

/// Normalise (RMSNorm per head, optional) and rotate q in place; normalise and rotate k and write it with v into the KV
/// cache. k and v are left as they are.
///
/// q [T, Hq, D], k and v [T, Hkv, D] may be views into one fused row (any token stride, dense heads). positions is
/// int32 [T]; cos_sin is float32 [max_position, rot_dim] with the cosines in the first half of a row and the sines in
/// the second, rot_dim even and at most D: the first rot_dim elements of a head rotate, paired as (i, i + rot_dim / 2),
/// or with `interleaved` as (2i, 2i + 1). kv_cache is contiguous [block][layer][K|V][kv_head][row][D]; slots is int64
/// [T], each in [0, num_blocks * block_size) and at most once, or -1. All arithmetic is in fp32 and rounded once.
/// Throws InvalidArgumentError before anything is written when operands do not fit, or a position or a slot is outside.
/// On a GPU the work is queued on `stream` (a cudaStream_t as an integer; 0 on the CPU), and positions and slots cannot
/// be checked: a token whose position is outside gets NaN, one whose slot is outside writes nothing.
/// Source: RoFormer (Su et al., 2021).
void rope_kv_write(const RopeKvWriteOperands& operands, std::int64_t layer, bool interleaved, float norm_eps,
                   std::int64_t stream, ThreadPool& pool);

/// Queue the kernel on `stream` (a cudaStream_t); throws DeviceError when the launch fails.
void rope_kv_write_cuda(const RopeKvWriteParams& params, void* stream);

}  // namespace fastserve::kernels
