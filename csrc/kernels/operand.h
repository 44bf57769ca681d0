#pragma once

#include <initializer_list>

#include "base/tensor_view.h"

namespace fastserve::kernels {

// What most operands of the kernels must fulfil; all throw InvalidArgumentError naming the operand.

struct Operand {
  const TensorView* tensor;  // null: left out
  const char* name;
};

/// Where an operator runs: on the device of its first operand, where all others must be too. `stream` is a cudaStream_t
/// as an integer, and 0 on the CPU. A build without CUDA refuses tensors on a GPU here.
DeviceType device_of(std::int64_t stream, std::initializer_list<Operand> operands);

/// Address for the kernels on `device` of an array that may also lie in pinned host memory: the one at which the GPU
/// sees it. Throws InvalidArgumentError for memory that the GPU does not see.
void* device_address(const TensorView& tensor, const TensorView& device, const char* name);

/// float32, bfloat16 or float16: the dtypes a model may have.
void require_model_tensor(const TensorView& tensor, const char* name);
/// [rows, columns] of `dtype`, dense in the last dimension; rows may be strided.
void require_matrix(const TensorView& tensor, std::int64_t rows, std::int64_t columns, DType dtype, const char* name);
/// Dense [size] of `dtype`.
void require_vector(const TensorView& tensor, std::int64_t size, DType dtype, const char* name);

/// Row stride for a kernel: a matrix of at most one row may have any.
inline std::int64_t row_stride(const TensorView& matrix) {
  return matrix.size(0) <= 1 ? matrix.size(1) : matrix.stride(0);
}
inline void* data_or_null(const TensorView* tensor) { return tensor == nullptr ? nullptr : tensor->data; }

}  // namespace fastserve::kernels
