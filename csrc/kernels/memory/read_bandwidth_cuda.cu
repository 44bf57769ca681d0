// A read of everything, for benchmarks to compare with.
//
// Thread mapping: as many CTAs of 512 threads as there are sums wanted. The CTAs walk over x side by side; a thread has
// 4 vectors of 16 bytes in flight. Shared memory: 128 bytes.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/memory/read_bandwidth.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 512;
constexpr int kInFlight = 4;

/// kSize is 4, or 1 where x is not aligned.
template <int kSize>
__global__ void __launch_bounds__(kThreads) read_kernel(const float* x, std::int64_t size, float* out) {
  __shared__ float partials[kWarp];
  const std::int64_t num_vectors = size / kSize;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float sum = 0.0f;
  for (std::int64_t base = first; base < num_vectors; base += kInFlight * step) {
    float values[kInFlight][kSize];
#pragma unroll
    for (int v = 0; v < kInFlight; ++v) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) values[v][i] = 0.0f;
      if (base + v * step < num_vectors) load_floats<float, kSize>(x + (base + v * step) * kSize, values[v]);
    }
#pragma unroll
    for (int v = 0; v < kInFlight; ++v) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += values[v][i];
    }
  }
  if (first < size % kSize) sum += x[num_vectors * kSize + first];
  sum = block_sum(sum, partials);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

}  // namespace

void read_bandwidth_cuda(const float* x, std::int64_t size, float* out, std::int64_t num_sums, void* stream) {
  const auto kernel = aligned({x}) ? read_kernel<kVectorSize<float>> : read_kernel<1>;
  launch(FS_SITE("read_bandwidth"), kernel, dim3(static_cast<unsigned>(num_sums)), kThreads, stream, x, size, out);
}

}  // namespace fastserve::kernels
