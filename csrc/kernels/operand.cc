#include "kernels/operand.h"

namespace fastserve::kernels {

void require_model_tensor(const TensorView& tensor, const char* name) {
  require_cpu(tensor, name);
  FS_REQUIRE(tensor.dtype == DType::kFloat32 || tensor.dtype == DType::kBFloat16 || tensor.dtype == DType::kFloat16,
             name, " must be float32, bfloat16 or float16, got ", tensor.describe());
}

void require_matrix(const TensorView& tensor, std::int64_t rows, std::int64_t columns, DType dtype, const char* name) {
  require_cpu(tensor, name);
  require_shape(tensor, {rows, columns}, name);
  require_dtype(tensor, dtype, name);
  require_dense_rows(tensor, name);
}

void require_vector(const TensorView& tensor, std::int64_t size, DType dtype, const char* name) {
  require_cpu(tensor, name);
  require_shape(tensor, {size}, name);
  require_dtype(tensor, dtype, name);
  require_dense_rows(tensor, name);
}

}  // namespace fastserve::kernels
