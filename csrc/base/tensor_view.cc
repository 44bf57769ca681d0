#include "base/tensor_view.h"

#include <algorithm>
#include <initializer_list>

namespace fastserve {

std::int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32: return 4;
    case DType::kFloat16:
    case DType::kBFloat16: return 2;
    case DType::kInt64: return 8;
    case DType::kUInt8:
    case DType::kBool: return 1;
  }
  detail::raise<InternalError>("unknown dtype ", static_cast<int>(dtype));
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kInt32: return "int32";
    case DType::kInt64: return "int64";
    case DType::kUInt8: return "uint8";
    case DType::kBool: return "bool";
  }
  return "unknown";
}

std::int64_t TensorView::numel() const {
  std::int64_t count = 1;
  for (int d = 0; d < ndim; ++d) count *= size(d);
  return count;
}

bool TensorView::is_contiguous() const {
  if (numel() == 0) return true;
  std::int64_t expected = 1;
  for (int d = ndim - 1; d >= 0; --d) {
    if (size(d) != 1 && stride(d) != expected) return false;
    expected *= size(d);
  }
  return true;
}

std::string TensorView::describe() const {
  std::ostringstream text;
  text << dtype_name(dtype) << '[';
  for (int d = 0; d < ndim; ++d) text << (d ? ", " : "") << size(d);
  text << "] on " << (device == DeviceType::kCpu ? "cpu" : "cuda");
  return text.str();
}

void require_ndim(const TensorView& tensor, int ndim, const char* name) {
  FS_REQUIRE(tensor.ndim == ndim, name, " must have ", ndim, " dimensions, got ", tensor.describe());
}

void require_dtype(const TensorView& tensor, DType dtype, const char* name) {
  FS_REQUIRE(tensor.dtype == dtype, name, " must be ", dtype_name(dtype), ", got ", tensor.describe());
}

void require_shape(const TensorView& tensor, std::initializer_list<std::int64_t> shape, const char* name) {
  const bool fits =
      tensor.ndim == static_cast<int>(shape.size()) && std::equal(shape.begin(), shape.end(), tensor.shape.begin());
  if (fits) return;
  std::ostringstream expected;
  for (const char* comma = ""; const std::int64_t size : shape) {
    expected << comma << size;
    comma = ", ";
  }
  detail::raise<InvalidArgumentError>(name, " must have shape [", expected.str(), "], got ", tensor.describe());
}

void require_dense_rows(const TensorView& tensor, const char* name) {
  FS_REQUIRE(tensor.ndim >= 1 && (tensor.stride(-1) == 1 || tensor.size(-1) <= 1), name,
             " must be dense in its last dimension, got ", tensor.describe(), " with last stride ", tensor.stride(-1));
}

void require_contiguous(const TensorView& tensor, const char* name) {
  FS_REQUIRE(tensor.is_contiguous(), name, " must be contiguous, got ", tensor.describe());
}

void require_cpu(const TensorView& tensor, const char* name) {
  FS_REQUIRE(tensor.device == DeviceType::kCpu, name, " must be on the cpu, got ", tensor.describe());
}

}  // namespace fastserve
