#pragma once

#include <type_traits>

#include "base/error.h"
#include "kernels/attention/attention_gpu.h"

namespace fastserve::kernels::cuda {

/// Call fn<kType, kHeadDim>() for a shape that attention_fits_tensor_cores.
template <DType kType, typename Fn>
void with_head_dim(int head_dim, Fn fn) {
  switch (head_dim) {
    case 64: return fn.template operator()<kType, 64>();
    case 80: return fn.template operator()<kType, 80>();
    case 96: return fn.template operator()<kType, 96>();
    case 128: return fn.template operator()<kType, 128>();
    case 256: return fn.template operator()<kType, 256>();
    default: detail::raise<InternalError>("no attention kernel for head_dim ", head_dim);
  }
}
template <typename Fn>
void with_attention_shape(const AttentionParams& params, Fn fn) {
  if (params.dtype == DType::kBFloat16) {
    with_head_dim<DType::kBFloat16>(params.head_dim, fn);
  } else {
    with_head_dim<DType::kFloat16>(params.head_dim, fn);
  }
}

}  // namespace fastserve::kernels::cuda
