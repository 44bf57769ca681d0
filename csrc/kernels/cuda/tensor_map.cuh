#pragma once

// Tensor maps of the copy engine. The function that makes them is the driver's; it is asked for at run time, so that
// nothing is linked with the driver and a machine without one can load the library.

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <unordered_map>

#include "base/dtype.h"
#include "base/error.h"
#include "kernels/hopper.h"

namespace fastserve::kernels::cuda {

/// The driver's cuTensorMapEncodeTiled; null where there is no driver or one that does not have it.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

/// Make the map of an array of bf16 or fp16; tensor_map_encoder() is not null. It depends on its arguments alone and
/// touches no device. Throws InvalidArgumentError when the driver refuses.
inline CUtensorMap make_tensor_map(const TensorMapSpec& spec, DType dtype) {
  std::array<cuuint64_t, 5> sizes{};
  std::array<cuuint64_t, 4> strides{};
  std::array<cuuint32_t, 5> box{};
  std::array<cuuint32_t, 5> steps{};
  for (std::size_t i = 0; i < 5; ++i) {
    sizes[i] = static_cast<cuuint64_t>(spec.sizes[i]);
    box[i] = static_cast<cuuint32_t>(spec.box[i]);
    steps[i] = 1;
    if (i > 0) strides[i - 1] = static_cast<cuuint64_t>(spec.strides[i - 1]);
  }
  const auto type = dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const auto swizzle = spec.swizzle_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                       : spec.swizzle_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                  : CU_TENSOR_MAP_SWIZZLE_32B;
  CUtensorMap map;
  const CUresult result = tensor_map_encoder()(
      &map, type, 5, const_cast<void*>(spec.base), sizes.data(), strides.data(), box.data(), steps.data(),
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FS_REQUIRE(result == CUDA_SUCCESS, "the driver refused a tensor map of an array of ", sizes[4], " x ", sizes[3],
             " x ", sizes[2], " x ", sizes[1], " x ", sizes[0], " with error ", static_cast<int>(result),
             "; use another attention backend");
  return map;
}

/// The same for an array that outlives many launches, such as a layer of a cache: made once per thread.
inline CUtensorMap lasting_tensor_map(const TensorMapSpec& spec, DType dtype) {
  struct Known {
    TensorMapSpec spec;
    DType dtype;
    CUtensorMap map;
  };
  thread_local std::unordered_map<const void*, Known> known;  // by base
  const auto found = known.find(spec.base);
  if (found != known.end() && found->second.spec == spec && found->second.dtype == dtype) return found->second.map;
  const CUtensorMap map = make_tensor_map(spec, dtype);
  known.insert_or_assign(spec.base, Known{spec, dtype, map});
  return map;
}

}  // namespace fastserve::kernels::cuda
