// The entry points of the driver that we ask the runtime for.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>

#include "cudart/device.h"
#include "cudart/runtime.h"
#include "ptx/memory/tensor_map.h"

namespace {

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                      CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  return static_cast<CUresult>(ptx::encode_tensor_map(map, type, rank, address, sizes, strides, box, steps, interleave,
                                                      swizzle, promotion, fill));
}

}  // namespace

extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = std::string(symbol) == "cuTensorMapEncodeTiled" && cudart::device().major >= 9;
  *function = known ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
  if (result != nullptr) *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudart::status_of("cudaGetDriverEntryPointByVersion");
}

/// Everything is memory of the host that the device sees.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  *attributes = {};
  attributes->type = cudaMemoryTypeHost;
  attributes->hostPointer = attributes->devicePointer = const_cast<void*>(data);
  return cudart::status_of("cudaPointerGetAttributes");
}

}  // extern "C"
