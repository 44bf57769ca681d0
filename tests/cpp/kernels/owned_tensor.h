#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "base/tensor_view.h"

namespace fastserve::kernels {

/// A dense tensor that owns its elements, on the heap with nothing around them.
template <typename T>
struct Tensor {
  std::vector<T> data;
  TensorView view;

  Tensor(std::initializer_list<std::int64_t> shape, DType dtype, T value = T{}) {
    view.dtype = dtype;
    view.ndim = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), view.shape.begin());
    std::int64_t stride = 1;
    for (int d = view.ndim - 1; d >= 0; --d) {
      view.strides[static_cast<std::size_t>(d)] = stride;
      stride *= view.size(d);
    }
    data.assign(static_cast<std::size_t>(stride), value);
    view.data = data.data();
  }
};

}  // namespace fastserve::kernels
