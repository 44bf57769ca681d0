#pragma once

#include <cstdint>

#include "base/forward.h"
#include "kernels/isa.h"

namespace fastserve::kernels {

struct ReadBandwidthParams {
  const float* x;  // [size]
  std::int64_t size;
  std::int64_t elements_per_chunk;
  float* sums;  // [ceil(size / elements_per_chunk)]
};

FS_DECLARE_CPU(void read_bandwidth(const ReadBandwidthParams& params, ThreadPool& pool))

/// Read every element of x (float32, contiguous) once, on all threads: the least that any kernel bound by reading x can
/// take, for benchmarks to compare with. x is shared out in some way among the entries of out, float32 [n], n >= 1;
/// each gets the sum of its share. On a GPU n is the number of CTAs, and the work is queued on `stream` (a cudaStream_t
/// as an integer; 0 on the CPU). Throws InvalidArgumentError when the tensors do not fit.
void read_bandwidth(const TensorView& x, const TensorView& out, std::int64_t stream, ThreadPool& pool);

/// Queue the kernel on `stream` (a cudaStream_t) with a CTA per sum; throws DeviceError when the launch fails.
void read_bandwidth_cuda(const float* x, std::int64_t size, float* out, std::int64_t num_sums, void* stream);

}  // namespace fastserve::kernels
