#include "bindings/tensor_caster.h"

#include <optional>
#include <string_view>

#include "base/dlpack_abi.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

std::optional<DType> dtype_of(dlpack::DataType type) {
  if (type.lanes != 1) return std::nullopt;
  switch (type.code) {
    case dlpack::kFloat:
      if (type.bits == 32) return DType::kFloat32;
      if (type.bits == 16) return DType::kFloat16;
      return std::nullopt;
    case dlpack::kBfloat: return type.bits == 16 ? std::optional(DType::kBFloat16) : std::nullopt;
    case dlpack::kInt:
      if (type.bits == 32) return DType::kInt32;
      if (type.bits == 64) return DType::kInt64;
      return std::nullopt;
    case dlpack::kUInt: return type.bits == 8 ? std::optional(DType::kUInt8) : std::nullopt;
    case dlpack::kBool: return DType::kBool;
    default: return std::nullopt;
  }
}

void fill_contiguous_strides(TensorView& view) {
  std::int64_t stride = 1;
  for (int d = view.ndim - 1; d >= 0; --d) {
    view.strides[static_cast<std::size_t>(d)] = stride;
    stride *= view.size(d);
  }
}

bool fill_view(const dlpack::Tensor& tensor, TensorView& view) {
  const auto dtype = dtype_of(tensor.dtype);
  if (!dtype || tensor.ndim > TensorView::kMaxDims) return false;
  if (tensor.device.type == dlpack::kCuda) {
    view.device = DeviceType::kCuda;
  } else if (tensor.device.type == dlpack::kCpu || tensor.device.type == dlpack::kCudaHost) {
    view.device = DeviceType::kCpu;
  } else {
    return false;
  }
  view.device_index = tensor.device.id;
  view.dtype = *dtype;
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.ndim = tensor.ndim;
  for (int d = 0; d < tensor.ndim; ++d) view.shape[static_cast<std::size_t>(d)] = tensor.shape[d];
  if (tensor.strides == nullptr) {
    fill_contiguous_strides(view);
  } else {
    for (int d = 0; d < tensor.ndim; ++d) view.strides[static_cast<std::size_t>(d)] = tensor.strides[d];
  }
  return true;
}

// The table of the last tensor type seen: in practice torch.Tensor or torch.nn.Parameter. Guarded by the GIL.
const dlpack::ExchangeApi* exchange_api_of(PyTypeObject* type) {
  static PyTypeObject* cached_type = nullptr;
  static const dlpack::ExchangeApi* cached_api = nullptr;
  if (type == cached_type) return cached_api;
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (api == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  while (api != nullptr && api->version.major != 1) api = api->previous;
  if (api == nullptr || api->tensor_from_py_object == nullptr) return nullptr;
  Py_INCREF(type);
  cached_type = type;
  cached_api = api;
  return api;
}

std::optional<DType> dtype_of_buffer(std::string_view format, Py_ssize_t item_bytes) {
  if (!format.empty() && (format.front() == '@' || format.front() == '=' || format.front() == '<')) {
    format.remove_prefix(1);
  }
  if (format == "f") return DType::kFloat32;
  if (format == "e") return DType::kFloat16;
  if (format == "?") return DType::kBool;
  if (format == "B") return DType::kUInt8;
  if (format == "i" || format == "l" || format == "q") {
    if (item_bytes == 4) return DType::kInt32;
    if (item_bytes == 8) return DType::kInt64;
  }
  return std::nullopt;
}

bool fill_from_buffer(py::handle object, TensorView& view) {
  Py_buffer buffer;
  if (PyObject_GetBuffer(object.ptr(), &buffer, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    return false;
  }
  const auto dtype = dtype_of_buffer(buffer.format == nullptr ? "B" : buffer.format, buffer.itemsize);
  bool fits = dtype.has_value() && buffer.ndim <= TensorView::kMaxDims;
  if (fits) {
    view = TensorView{};
    view.data = buffer.buf;
    view.dtype = *dtype;
    view.ndim = buffer.ndim;
    for (int d = 0; d < buffer.ndim; ++d) {
      view.shape[static_cast<std::size_t>(d)] = buffer.shape[d];
      view.strides[static_cast<std::size_t>(d)] = buffer.strides[d] / buffer.itemsize;
      fits = fits && buffer.strides[d] % buffer.itemsize == 0;
    }
  }
  PyBuffer_Release(&buffer);
  return fits;
}

}  // namespace

bool view_of(py::handle object, TensorView& view) {
  if (const auto* api = exchange_api_of(Py_TYPE(object.ptr()))) {
    dlpack::Tensor tensor;
    if (api->tensor_from_py_object(object.ptr(), &tensor) != 0) {
      PyErr_Clear();
      return false;
    }
    return fill_view(tensor, view);
  }
  return PyObject_CheckBuffer(object.ptr()) != 0 && fill_from_buffer(object, view);
}

}  // namespace fastserve::bindings
