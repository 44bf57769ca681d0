#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "ptx/machine.h"
#include "ptx/parser/module.h"

namespace cudart {

/// What nvcc has embedded of one source file. Its PTX is parsed when one of its kernels is wanted for the first time.
class Binary {
 public:
  explicit Binary(const void* container) : container_(container) {}
  /// Throws std::exception when it has no PTX for the device, or some that the machine does not understand.
  const ptx::Kernel& kernel(const std::string& name);

 private:
  const void* container_;
  std::mutex mutex_;
  std::optional<ptx::Module> module_;
};

/// A kernel as the host knows it.
struct Function {
  Binary* binary = nullptr;
  std::string name;
  std::size_t most_dynamic_shared_bytes = 0;  // what cudaFuncSetAttribute has allowed; 0: not called

  const ptx::Kernel& kernel() const { return binary->kernel(name); }
};

/// A launch with its own copy of the arguments.
class Launch {
 public:
  Launch(const ptx::Kernel& kernel, ptx::Dim3 grid, ptx::Dim3 block, std::size_t dynamic_shared_bytes,
         void* const* arguments);
  /// Run it now, one launch at a time. What the machine finds wrong loses the device (cudaErrorLaunchFailure). A launch
  /// over the budget of instructions is given up and its cudaErrorLaunchTimeout explained, but the device stays.
  cudaError_t run() const;

 private:
  const ptx::Kernel* kernel_;
  ptx::Dim3 grid_, block_;
  std::size_t dynamic_shared_bytes_;
  std::vector<std::vector<std::byte>> arguments_;
};

/// The launches of a graph.
using Graph = std::vector<Launch>;

/// The graph that is being captured: launches go there instead of being run. Null: none.
Graph*& captured_graph();

/// Begin again with the first seed, GPU_SIMULATOR_SEED; with it a program has its launches repeated exactly.
void reset_machine();

}  // namespace cudart
