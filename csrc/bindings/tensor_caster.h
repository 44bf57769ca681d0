#pragma once

#include <pybind11/pybind11.h>

#include "base/tensor_view.h"

namespace fastserve::bindings {

/// View a torch tensor (DLPack exchange table, no copy, no torch headers) or anything with the buffer protocol (numpy).
/// False when `object` is neither, or has a type or rank that TensorView cannot hold. The view borrows: it is valid
/// while the caller keeps `object` alive, which pybind11 does for the arguments of a running call.
bool view_of(pybind11::handle object, TensorView& view);

}  // namespace fastserve::bindings

namespace pybind11::detail {

template <>
struct type_caster<fastserve::TensorView> {
  PYBIND11_TYPE_CASTER(fastserve::TensorView, const_name("numpy.ndarray | torch.Tensor"));
  bool load(handle source, bool) { return fastserve::bindings::view_of(source, value); }
};

}  // namespace pybind11::detail
