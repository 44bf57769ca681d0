#pragma once

#include <cstdint>

#include "kernels/isa.h"

namespace fastserve {
class ThreadPool;
struct TensorView;
}  // namespace fastserve

namespace fastserve::kernels {

struct MemoryRoofParams {
  const float* x;  // [size]
  std::int64_t size;
  std::int64_t elements_per_chunk;
  float* sums;  // [ceil(size / elements_per_chunk)]
};

FS_DECLARE_CPU(void memory_roof(const MemoryRoofParams& params, ThreadPool& pool))

/// Read every element of x (float32, contiguous, CPU) once on all threads and return the sum: the least that any kernel
/// bound by reading x can take, for benchmarks to compare with.
double memory_roof(const TensorView& x, ThreadPool& pool);

}  // namespace fastserve::kernels
