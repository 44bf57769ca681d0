// The passes over rows of logits.
//
// Thread mapping: grid (rows, pieces of a row), 256 threads; 16 lanes take a block of 64 tokens, 4 each, and a CTA 64
// blocks, so every thread has 16 loads in flight. Lane l adds the tokens l, l + 16, l + 32 and l + 48 of a block and
// the lanes are folded in halves: the operations of the AVX-512 kernel one by one, so that a mass has the same bits.
// Shared memory: 128 bytes.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vocab_row.cuh"
#include "kernels/cuda/vocab_rows.h"

namespace fastserve::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 16;
constexpr int kTokensPerLane = static_cast<int>(kVocabBlock) / kLanes;
constexpr int kGroups = kThreads / kLanes;
constexpr int kRounds = 4;
constexpr int kBlocksPerCta = kGroups * kRounds;

/// Combine the 16 lanes of a group, in all of them.
template <typename Combine>
FS_DEVICE float fold(float x, Combine combine) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

/// The block of 64 tokens that this thread takes part in, in round r.
FS_DEVICE std::int64_t block_of(int r) {
  return static_cast<std::int64_t>(blockIdx.y) * kBlocksPerCta + r * kGroups + threadIdx.x / kLanes;
}

/// This thread's tokens of the blocks it takes part in; what is not finite or beyond the row is -inf.
FS_DEVICE void load_tokens(const VocabRows& rows, float (&tokens)[kRounds][kTokensPerLane]) {
  const float* logits = row_logits(rows, blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
#pragma unroll
    for (int v = 0; v < kTokensPerLane; ++v) {
      const std::int64_t id = block_of(r) * kVocabBlock + v * kLanes + lane;
      tokens[r][v] = id < rows.vocab_size ? finite_or_minus_inf(logits[id]) : -INFINITY;
    }
  }
}

/// Store what round r has found in its block, once per block.
FS_DEVICE void store_of_block(const VocabRows& rows, float* per_block, int r, float value) {
  const std::int64_t block = block_of(r);
  if (threadIdx.x % kLanes == 0 && block < rows.num_blocks) {
    per_block[static_cast<std::int64_t>(blockIdx.x) * rows.num_blocks + block] = value;
  }
}

/// exp(x) as the AVX-512 kernels compute it, operation by operation; smaller x than -87 gives 0.
FS_DEVICE float exp_as_on_the_cpu(float x) {
  const float clamped = fmaxf(-87.0f, fminf(88.0f, x));
  const float n = rintf(__fmul_rn(clamped, 1.44269504088896341f));
  const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, clamped));
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p, __fmul_rn(r, r), __fadd_rn(r, 1.0f));
  const float power = __uint_as_float(static_cast<unsigned>(static_cast<int>(n) + 127) << 23);
  return x < -87.0f ? 0.0f : __fmul_rn(p, power);
}

__global__ void __launch_bounds__(kThreads) maxima_kernel(VocabRows rows) {
  float tokens[kRounds][kTokensPerLane];
  load_tokens(rows, tokens);
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    float highest = tokens[r][0];
#pragma unroll
    for (int v = 1; v < kTokensPerLane; ++v) highest = fmaxf(highest, tokens[r][v]);
    store_of_block(rows, rows.maxima, r, fold(highest, [](float a, float b) { return fmaxf(a, b); }));
  }
}

__global__ void __launch_bounds__(kThreads) masses_kernel(VocabRows rows) {
  __shared__ float partials[kWarp];
  const float inverse_temperature = rows.inverse_temperature == nullptr ? 1.0f : rows.inverse_temperature[blockIdx.x];
  if (inverse_temperature < 0.0f) return;
  float tokens[kRounds][kTokensPerLane];
  load_tokens(rows, tokens);
  const float maximum = row_maximum(rows, blockIdx.x, partials);
  if (maximum == -INFINITY) return;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kTokensPerLane; ++v) {
      sum = __fadd_rn(sum, exp_as_on_the_cpu(__fmul_rn(__fsub_rn(tokens[r][v], maximum), inverse_temperature)));
    }
    store_of_block(rows, rows.masses, r, fold(sum, [](float a, float b) { return __fadd_rn(a, b); }));
  }
}

dim3 grid_of(const VocabRows& rows) {
  return dim3(static_cast<unsigned>(rows.num_rows), ceil_div(rows.num_blocks, kBlocksPerCta));
}

}  // namespace

void block_maxima_cuda(const VocabRows& rows, void* stream) {
  launch(FS_SITE("block_maxima"), maxima_kernel, grid_of(rows), kThreads, stream, rows);
}

void block_masses_cuda(const VocabRows& rows, void* stream) {
  launch(FS_SITE("block_masses"), masses_kernel, grid_of(rows), kThreads, stream, rows);
}

}  // namespace fastserve::kernels::cuda
