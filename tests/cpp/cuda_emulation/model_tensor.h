#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/tensor_view.h"

// Matrices in a model dtype inside buffers of NaN, as the tests of the emulated kernels use them.

namespace fastserve::kernels {

inline float read_element(const void* data, DType dtype, std::int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
  const std::uint32_t bits = static_cast<const std::uint16_t*>(data)[i];
  if (dtype == DType::kBFloat16) return std::bit_cast<float>(bits << 16);
  const float sign = (bits & 0x8000u) != 0 ? -1.0f : 1.0f;
  const auto exponent = static_cast<int>(bits >> 10 & 31u);
  const auto fraction = static_cast<float>(bits & 1023u);
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

/// Rows of `width` elements, `stride` apart, `margin` elements into the buffer; everything else is NaN.
class ModelTensor {
 public:
  /// `gap` elements between rows; with margin and gap multiples of 8 all rows stay aligned to 16 bytes.
  ModelTensor(std::int64_t rows, std::int64_t width, DType dtype, std::int64_t gap = 0, std::int64_t margin = 0)
      : rows_(rows), width_(width), stride_(width + gap), margin_(margin), dtype_(dtype) {
    const auto elements = static_cast<std::size_t>(margin + rows * stride_ + margin + 8);
    words_.assign((elements * static_cast<std::size_t>(dtype_bytes(dtype)) + 15) / 16, Words{~0ull, ~0ull});  // NaN
  }

  /// Small numbers that every dtype holds exactly.
  ModelTensor& randomize(unsigned seed) {
    std::mt19937 random(seed);
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < width_; ++c) {
        set(r, c, static_cast<float>(static_cast<int>(random() % 65) - 32) / 16);
      }
    }
    return *this;
  }

  void set(std::int64_t row, std::int64_t column, float value) {
    const std::int64_t i = margin_ + row * stride_ + column;
    if (dtype_ == DType::kFloat32) {
      reinterpret_cast<float*>(words_.data())[i] = value;
    } else if (dtype_ == DType::kBFloat16) {
      reinterpret_cast<std::uint16_t*>(words_.data())[i] =
          static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
    } else {  // exact for what the tests store: integers / 16 up to 2
      const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
      const int exponent = value == 0 ? -15 : std::ilogb(value);
      const auto fraction = value == 0 ? 0 : static_cast<int>(std::ldexp(std::fabs(value), 10 - exponent)) - 1024;
      reinterpret_cast<std::uint16_t*>(words_.data())[i] =
          static_cast<std::uint16_t>(sign | (exponent + 15) << 10 | fraction);
    }
  }

  float at(std::int64_t row, std::int64_t column) const {
    return read_element(words_.data(), dtype_, margin_ + row * stride_ + column);
  }

  /// [rows, width] on `device`; the memory is the same.
  TensorView view(DeviceType device) {
    TensorView tensor;
    tensor.data = reinterpret_cast<char*>(words_.data()) + margin_ * dtype_bytes(dtype_);
    tensor.dtype = dtype_;
    tensor.device = device;
    tensor.ndim = 2;
    tensor.shape = {rows_, width_};
    tensor.strides = {stride_, 1};
    return tensor;
  }
  /// The only row as [width].
  TensorView vector(DeviceType device) {
    TensorView tensor = view(device);
    tensor.ndim = 1;
    tensor.shape = {width_};
    tensor.strides = {1};
    return tensor;
  }

  void expect_intact_around() const {
    const std::int64_t elements = margin_ + rows_ * stride_ + margin_;
    for (std::int64_t i = 0; i < elements; ++i) {
      const std::int64_t inside = i - margin_;
      if (inside >= 0 && inside < rows_ * stride_ && inside % stride_ < width_) continue;
      ASSERT_TRUE(std::isnan(read_element(words_.data(), dtype_, i))) << "wrote beside the matrix, element " << i;
    }
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t width() const { return width_; }
  DType dtype() const { return dtype_; }

 private:
  struct alignas(16) Words {
    std::uint64_t low, high;
  };
  std::int64_t rows_, width_, stride_, margin_;
  DType dtype_;
  std::vector<Words> words_;
};

/// Equal but for one rounding to the dtype and `error`; NaN equals NaN.
inline void expect_close(const ModelTensor& result, const ModelTensor& expected, float error) {
  const float rounding = result.dtype() == DType::kFloat32 ? 2e-7f : result.dtype() == DType::kBFloat16 ? 8e-3f : 1e-3f;
  for (std::int64_t r = 0; r < result.rows(); ++r) {
    for (std::int64_t c = 0; c < result.width(); ++c) {
      const float a = result.at(r, c);
      const float b = expected.at(r, c);
      if (std::isnan(a) && std::isnan(b)) continue;
      ASSERT_LE(std::fabs(a - b), error + rounding * std::fabs(b)) << "row " << r << " column " << c << ": " << a
                                                                 << " instead of " << b;
    }
  }
}

template <typename T>
TensorView view_of(std::vector<T>& values, DType dtype, DeviceType device) {
  TensorView tensor;
  tensor.data = values.data();
  tensor.dtype = dtype;
  tensor.device = device;
  tensor.ndim = 1;
  tensor.shape = {static_cast<std::int64_t>(values.size())};
  tensor.strides = {1};
  return tensor;
}

inline std::string dtype_test_name(const testing::TestParamInfo<DType>& info) { return dtype_name(info.param); }

}  // namespace fastserve::kernels
