#include "kernels/operand.h"

#ifdef FASTSERVE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace fastserve::kernels {

DeviceType device_of(std::int64_t stream, std::initializer_list<Operand> operands) {
  const Operand& first = *operands.begin();
  for (const Operand& operand : operands) {
    if (operand.tensor == nullptr) continue;
    FS_REQUIRE(
        operand.tensor->device == first.tensor->device && operand.tensor->device_index == first.tensor->device_index,
        operand.name, " must be on the device of ", first.name, ", got ", operand.tensor->describe(), " for ",
        first.tensor->describe());
  }
  if (first.tensor->device == DeviceType::kCpu) {
    FS_REQUIRE(stream == 0, "stream is for tensors on the GPU and must be 0 for ", first.tensor->describe(), ", got ",
               stream);
    return DeviceType::kCpu;
  }
#ifdef FASTSERVE_WITH_CUDA
  return DeviceType::kCuda;
#else
  detail::raise<InvalidArgumentError>("this build has no CUDA kernels: ", first.name, " must be on the cpu, got ",
                                      first.tensor->describe());
#endif
}

void* device_address(const TensorView& tensor, const TensorView& device, const char* name) {
  if (tensor.device == device.device) {
    FS_REQUIRE(tensor.device_index == device.device_index, name, " must be on device ", device.device_index, ", got ",
               tensor.device_index);
    return tensor.data;
  }
#ifdef FASTSERVE_WITH_CUDA
  if (tensor.numel() == 0) return nullptr;
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, tensor.data) == cudaSuccess && attributes.type == cudaMemoryTypeHost) {
    return attributes.devicePointer;
  }
#endif
  detail::raise<InvalidArgumentError>(name, " must be on the GPU or in pinned memory, got ", tensor.describe(),
                                      " in pageable memory: allocate it with pin_memory");
}

void require_model_tensor(const TensorView& tensor, const char* name) {
  FS_REQUIRE(tensor.dtype == DType::kFloat32 || tensor.dtype == DType::kBFloat16 || tensor.dtype == DType::kFloat16,
             name, " must be float32, bfloat16 or float16, got ", tensor.describe());
}

void require_matrix(const TensorView& tensor, std::int64_t rows, std::int64_t columns, DType dtype, const char* name) {
  require_shape(tensor, {rows, columns}, name);
  require_dtype(tensor, dtype, name);
  require_dense_rows(tensor, name);
}

void require_vector(const TensorView& tensor, std::int64_t size, DType dtype, const char* name) {
  require_shape(tensor, {size}, name);
  require_dtype(tensor, dtype, name);
  require_dense_rows(tensor, name);
}

}  // namespace fastserve::kernels
