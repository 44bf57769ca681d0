#pragma once

#include <cstdint>
#include <span>

#include "ptx/cta.h"
#include "ptx/parser/module.h"

namespace ptx {

/// Runs kernels of PTX on the CPU: a GPU as the PTX manual describes it, in an order drawn by chance among those that it
/// allows (which warp goes on, when a copy arrives), so that code that depends on luck fails for some seed.
/// It tells what the compiled instructions compute. It does not tell about ptxas, caches, memory order between CTAs, or time.
class Machine {
 public:
  struct Options {
    std::uint64_t seed = 1;
    int resident_ctas = 4;                     // run interleaved
    std::int64_t most_instructions = 1 << 30;  // of warps, per launch; more is taken for a hang
  };
  explicit Machine(Options options) : options_(options) {}

  /// Runs the whole grid. `arguments`: host address of each parameter, as cudaLaunchKernel takes them.
  /// Throws Error for what a GPU would fault at, a deadlock, and everything that the manual calls undefined and the
  /// machine sees: reads of unfinished copies are not seen as such but give NaN.
  void launch(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t dynamic_shared_bytes,
              std::span<void* const> arguments);

 private:
  Options options_;
  std::uint64_t launches_ = 0;
};

}  // namespace ptx
