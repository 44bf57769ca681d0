#include "cudart/kernels.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "cudart/device.h"
#include "cudart/fatbin.h"
#include "cudart/runtime.h"
#include "ptx/error.h"

namespace cudart {
namespace {

std::int64_t number_from_environment(const char* name, std::int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

std::unique_ptr<ptx::Machine> make_machine() {
  ptx::Machine::Options options;
  options.seed = static_cast<std::uint64_t>(number_from_environment("GPU_SIMULATOR_SEED", 1));
  options.most_instructions = number_from_environment("GPU_SIMULATOR_BUDGET", options.most_instructions);
  return std::make_unique<ptx::Machine>(options);
}

struct OneMachine {
  std::mutex mutex;
  std::unique_ptr<ptx::Machine> machine = make_machine();
};

OneMachine& the_machine() {
  static OneMachine instance;
  return instance;
}

}  // namespace

const ptx::Kernel& Binary::kernel(const std::string& name) {
  std::lock_guard lock(mutex_);
  if (!module_) {
    const auto texts = ptx_of_fatbin(container_);
    const PtxText* text = choose(texts, 10 * device().major + device().minor);
    if (text == nullptr) throw std::runtime_error("there is no PTX of " + name + " for this device");
    module_ = ptx::Module::parse(text->text);
  }
  return module_->kernel(name);
}

Launch::Launch(const ptx::Kernel& kernel, ptx::Dim3 grid, ptx::Dim3 block, std::size_t dynamic_shared_bytes,
               void* const* arguments)
    : kernel_(&kernel), grid_(grid), block_(block), dynamic_shared_bytes_(dynamic_shared_bytes) {
  for (const ptx::Parameter& parameter : kernel.parameters) {
    const auto* bytes = static_cast<const std::byte*>(*arguments++);
    arguments_.emplace_back(bytes, bytes + parameter.num_bytes);
  }
}

cudaError_t Launch::run() const {
  std::vector<void*> addresses;
  for (const auto& argument : arguments_) addresses.push_back(const_cast<std::byte*>(argument.data()));
  auto& [mutex, machine] = the_machine();
  std::lock_guard lock(mutex);
  try {
    machine->launch(*kernel_, grid_, block_, dynamic_shared_bytes_, addresses);
    return cudaSuccess;
  } catch (const ptx::OverBudget& error) {
    return explain(cudaErrorLaunchTimeout, error.what());
  } catch (const std::exception& error) {
    return lose_device(cudaErrorLaunchFailure, error.what());
  }
}

Graph*& captured_graph() {
  static Graph* graph = nullptr;
  return graph;
}

void reset_machine() {
  auto& [mutex, machine] = the_machine();
  std::lock_guard lock(mutex);
  machine = make_machine();
}

}  // namespace cudart
