#pragma once

#include "base/tensor_view.h"

namespace fastserve::kernels {

// What most operands of the kernels must fulfil; all throw InvalidArgumentError naming the operand.

/// On the CPU and float32, bfloat16 or float16: the dtypes a model may have.
void require_model_tensor(const TensorView& tensor, const char* name);
/// On the CPU, [rows, columns] of `dtype`, dense in the last dimension; rows may be strided.
void require_matrix(const TensorView& tensor, std::int64_t rows, std::int64_t columns, DType dtype, const char* name);
/// On the CPU, dense [size] of `dtype`.
void require_vector(const TensorView& tensor, std::int64_t size, DType dtype, const char* name);

/// Row stride for a kernel: a matrix of at most one row may have any.
inline std::int64_t row_stride(const TensorView& matrix) {
  return matrix.size(0) <= 1 ? matrix.size(1) : matrix.stride(0);
}
inline void* data_or_null(const TensorView* tensor) { return tensor == nullptr ? nullptr : tensor->data; }

}  // namespace fastserve::kernels
