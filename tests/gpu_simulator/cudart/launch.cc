// The calls of the CUDA runtime that concern kernels, and those that nvcc's stubs make.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cudart/device.h"
#include "cudart/kernels.h"
#include "cudart/runtime.h"

namespace cudart {
namespace {

/// Kernels by the address of their host function, and by that of their Function, which serves as cudaKernel_t.
struct Registry {
  std::mutex mutex;
  std::unordered_map<const void*, std::shared_ptr<Function>> functions;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

Function* find(const void* symbol) {
  std::lock_guard lock(registry().mutex);
  const auto found = registry().functions.find(symbol);
  return found == registry().functions.end() ? nullptr : found->second.get();
}

/// Calls `use` with a kernel; an error of the runtime when there is none, or none that can be used.
template <typename Use>
cudaError_t with_kernel(const char* call, const void* symbol, Use use) {
  if (const cudaError_t status = status_of(call); status != cudaSuccess) return status;
  Function* function = find(symbol);
  if (function == nullptr) return explain(cudaErrorInvalidDeviceFunction, std::string(call) + " of no kernel");
  try {
    return use(*function, function->kernel());
  } catch (const std::exception& error) {
    return explain(cudaErrorInvalidPtx, error.what());
  }
}

struct Configuration {
  dim3 grid, block;
  std::size_t dynamic_shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

std::vector<Configuration>& pushed_configurations() {
  thread_local std::vector<Configuration> stack;
  return stack;
}

/// What a GPU refuses, before anything runs.
cudaError_t check(const Function& function, const ptx::Kernel& kernel, const Configuration& wanted) {
  const auto threads = std::size_t{wanted.block.x} * wanted.block.y * wanted.block.z;
  const auto most_threads = kernel.max_threads > 0 ? kernel.max_threads : kMostThreadsPerCta;
  if (threads == 0 || wanted.block.z > 64) return explain(cudaErrorInvalidConfiguration, "a block of a wrong shape");
  if (threads > static_cast<std::size_t>(most_threads)) {
    return explain(cudaErrorInvalidConfiguration, "a block of " + std::to_string(threads) +
                                                      " threads of a kernel for " + std::to_string(most_threads));
  }
  if (wanted.grid.x == 0 || wanted.grid.y == 0 || wanted.grid.z == 0 || wanted.grid.x > 0x7fffffffu ||
      wanted.grid.y > 0xffffu || wanted.grid.z > 0xffffu) {
    return explain(cudaErrorInvalidConfiguration, "a grid of a wrong shape");
  }
  const std::size_t most_dynamic = function.most_dynamic_shared_bytes > 0 ? function.most_dynamic_shared_bytes
                                                                          : kOrdinarySharedBytes - kernel.shared_bytes;
  if (wanted.dynamic_shared_bytes > most_dynamic) {
    return explain(cudaErrorInvalidValue, std::to_string(wanted.dynamic_shared_bytes) +
                                              " bytes of dynamic shared memory where " + std::to_string(most_dynamic) +
                                              " are allowed");
  }
  return cudaSuccess;
}

cudaError_t launch(const void* symbol, const Configuration& wanted, void* const* arguments) {
  return with_kernel("cudaLaunchKernel", symbol, [&](const Function& function, const ptx::Kernel& kernel) {
    if (const cudaError_t status = check(function, kernel, wanted); status != cudaSuccess) return status;
    Launch launch(kernel, {wanted.grid.x, wanted.grid.y, wanted.grid.z},
                  {wanted.block.x, wanted.block.y, wanted.block.z}, wanted.dynamic_shared_bytes, arguments);
    if (captured_graph() != nullptr) {
      captured_graph()->push_back(std::move(launch));
      return cudaSuccess;
    }
    auto status = std::make_shared<cudaError_t>(cudaSuccess);
    cudart::launch(wanted.stream, [launch = std::move(launch), status] { *status = launch.run(); });
    return wanted.stream == nullptr ? *status : cudaSuccess;  // others run later
  });
}

}  // namespace
}  // namespace cudart

using namespace cudart;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  struct Wrapper {  // fatbinary_section.h
    int magic, version;
    const void* container;
    void* others;
  };
  return reinterpret_cast<void**>(new Binary(static_cast<const Wrapper*>(wrapper)->container));
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void** handle) {
  auto* binary = reinterpret_cast<Binary*>(handle);
  {
    std::lock_guard lock(registry().mutex);
    std::erase_if(registry().functions, [&](const auto& entry) { return entry.second->binary == binary; });
  }
  delete binary;
}
void __cudaRegisterFunction(void** handle, const char* host_function, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  auto function = std::make_shared<Function>();
  function->binary = reinterpret_cast<Binary*>(handle);
  function->name = name;
  std::lock_guard lock(registry().mutex);
  registry().functions[host_function] = registry().functions[function.get()] = function;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  Function* function = find(host_function);
  *kernel = reinterpret_cast<cudaKernel_t>(function);
  return function == nullptr ? cudaErrorInvalidDeviceFunction : cudaSuccess;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared_bytes, CUstream_st* stream) {
  pushed_configurations().push_back({grid, block, shared_bytes, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared_bytes, void* stream) {
  auto& stack = pushed_configurations();
  if (stack.empty()) return cudaErrorMissingConfiguration;
  *grid = stack.back().grid;
  *block = stack.back().block;
  *shared_bytes = stack.back().dynamic_shared_bytes;
  *static_cast<cudaStream_t*>(stream) = stack.back().stream;
  stack.pop_back();
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared_bytes,
                               cudaStream_t stream) {
  return launch(kernel, {grid, block, shared_bytes, stream}, arguments);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  if (config->numAttrs != 0) return explain(cudaErrorNotSupported, "a launch with attributes");
  return launch(function, {config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream}, arguments);
}

/// What ptxas would make of a kernel is not known.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* symbol) {
  return with_kernel("cudaFuncGetAttributes", symbol, [&](const Function&, const ptx::Kernel& kernel) {
    *attributes = {};
    attributes->sharedSizeBytes = kernel.shared_bytes;
    attributes->maxThreadsPerBlock = kernel.max_threads > 0 ? kernel.max_threads : kMostThreadsPerCta;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncSetAttribute(const void* symbol, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return status_of("cudaFuncSetAttribute");  // a hint
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return explain(cudaErrorNotSupported, "an attribute of a kernel that the simulated GPU does not have");
  }
  if (captured_graph() != nullptr) return cudaErrorStreamCaptureUnsupported;
  return with_kernel("cudaFuncSetAttribute", symbol, [&](Function& function, const ptx::Kernel& kernel) {
    if (value < 0 || kernel.shared_bytes + static_cast<std::size_t>(value) > device().most_shared_bytes) {
      return explain(cudaErrorInvalidValue, std::to_string(value) + " bytes of dynamic shared memory are too many");
    }
    function.most_dynamic_shared_bytes = static_cast<std::size_t>(value);
    return cudaSuccess;
  });
}

/// By threads and shared memory; how many registers ptxas would use is not known.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* num_ctas, const void* symbol, int threads,
                                                                   std::size_t dynamic_shared_bytes, unsigned) {
  return with_kernel("cudaOccupancy", symbol, [&](const Function&, const ptx::Kernel& kernel) {
    const std::size_t bytes = kernel.shared_bytes + dynamic_shared_bytes + kReservedSharedBytes;
    *num_ctas = std::min({kMostCtasPerProcessor, kMostThreadsPerProcessor / threads,
                          static_cast<int>(device().shared_bytes_per_processor / bytes)});
    return cudaSuccess;
  });
}

}  // extern "C"
