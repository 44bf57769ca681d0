#pragma once

#include <cstdint>

// The part of the DLPack 1.x ABI that FastServe reads, declared from its specification (dmlc/dlpack). Field order and
// widths are fixed by that specification.
namespace fastserve::dlpack {

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

enum DeviceCode : std::int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3 };
enum TypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // elements; null means contiguous before DLPack 1.2
  std::uint64_t byte_offset;
};

/// The function table a framework hangs on its tensor type as `__dlpack_c_exchange_api__` (DLPack 1.2).
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  /// Fill a borrowed view of a Python tensor; null when the framework lacks it. 0 on success.
  int (*tensor_from_py_object)(void* py_object, Tensor* out);
  void* current_work_stream;
};

}  // namespace fastserve::dlpack
