#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/dtype.h"
#include "base/error.h"

namespace fastserve {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

std::int64_t dtype_bytes(DType dtype);
const char* dtype_name(DType dtype);

/// A borrowed, typed view of a dense tensor (at most 8 dimensions); never owns memory.
/// Strides are in elements. `data` points to element 0 (DLPack's byte offset is already applied).
struct TensorView {
  static constexpr int kMaxDims = 8;

  void* data = nullptr;
  DType dtype = DType::kFloat32;
  DeviceType device = DeviceType::kCpu;
  int device_index = 0;
  int ndim = 0;
  std::array<std::int64_t, kMaxDims> shape{};
  std::array<std::int64_t, kMaxDims> strides{};

  std::int64_t size(int dim) const { return shape[static_cast<std::size_t>(dim < 0 ? dim + ndim : dim)]; }
  std::int64_t stride(int dim) const { return strides[static_cast<std::size_t>(dim < 0 ? dim + ndim : dim)]; }
  std::int64_t numel() const;
  bool is_contiguous() const;
  /// For example "float32[3, 64] on cpu", for error messages.
  std::string describe() const;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// Throw InvalidArgumentError naming `name`, what was expected and what came, unless the view fits.
void require_ndim(const TensorView& tensor, int ndim, const char* name);
void require_dtype(const TensorView& tensor, DType dtype, const char* name);
void require_shape(const TensorView& tensor, std::initializer_list<std::int64_t> shape, const char* name);
/// The last dimension is dense (stride 1); earlier ones may be strided.
void require_dense_rows(const TensorView& tensor, const char* name);
void require_contiguous(const TensorView& tensor, const char* name);
void require_cpu(const TensorView& tensor, const char* name);

}  // namespace fastserve
