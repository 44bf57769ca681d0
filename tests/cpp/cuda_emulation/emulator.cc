#include <ucontext.h>

#include <array>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulation {
namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr unsigned kWarp = 32;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  dim3 index;
  bool done = false;
  const std::uint64_t* waits_for = nullptr;  // generation of a barrier ...
  std::uint64_t generation = 0;              // ... when this fiber came to it
};

/// Opens when as many have arrived as have not returned.
struct Barrier {
  unsigned members = 0;
  unsigned arrived = 0;
  std::uint64_t generation = 0;
  std::array<std::uint64_t, kWarp> arriving{}, seen{};

  void open_if_full() {
    if (arrived < members || members == 0) return;
    arrived = 0;
    seen = arriving;
    ++generation;
  }
};

struct Cta {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  Barrier block;
  ucontext_t scheduler;
  std::size_t current = 0;
  const std::function<void()>* thread = nullptr;
};

Cta cta;  // one at a time
Order order = Order::kForward;

unsigned flat(dim3 index) { return index.x + blockDim.x * (index.y + blockDim.y * index.z); }

void fiber_main() {
  (*cta.thread)();
  Fiber& fiber = cta.fibers[cta.current];
  fiber.done = true;
  for (Barrier* barrier : {&cta.block, &cta.warps[cta.current / kWarp]}) {
    --barrier->members;
    barrier->open_if_full();
  }
  swapcontext(&fiber.context, &cta.scheduler);
}

void wait_at(Barrier& barrier) {
  Fiber& fiber = cta.fibers[cta.current];
  fiber.waits_for = &barrier.generation;
  fiber.generation = barrier.generation;
  ++barrier.arrived;
  barrier.open_if_full();
  if (fiber.generation == barrier.generation || order != Order::kForward) {
    swapcontext(&fiber.context, &cta.scheduler);
  }
}

std::vector<std::size_t> turns(std::size_t count) {
  static std::mt19937 random(7);
  std::vector<std::size_t> result(count);
  std::iota(result.begin(), result.end(), std::size_t{0});
  if (order == Order::kBackward) std::reverse(result.begin(), result.end());
  if (order == Order::kShuffled) std::shuffle(result.begin(), result.end(), random);
  return result;
}

void start_fibers(unsigned threads) {
  cta.fibers.resize(threads);
  cta.warps.assign((threads + kWarp - 1) / kWarp, {});
  cta.block = {.members = threads};
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = cta.fibers[t];
    fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    fiber.done = false;
    fiber.waits_for = nullptr;
    ++cta.warps[t / kWarp].members;
    getcontext(&fiber.context);
    fiber.context.uc_stack = {.ss_sp = fiber.stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
}

/// Let every fiber that can run do so once; whether there was one.
bool take_turns() {
  bool progress = false;
  for (const std::size_t t : turns(cta.fibers.size())) {
    Fiber& fiber = cta.fibers[t];
    if (fiber.done || (fiber.waits_for != nullptr && *fiber.waits_for == fiber.generation)) continue;
    progress = true;
    cta.current = t;
    threadIdx = fiber.index;
    swapcontext(&cta.scheduler, &fiber.context);
  }
  return progress;
}

void run_cta(unsigned threads) {
  start_fibers(threads);
  while (take_turns()) {
  }
  for (const Fiber& fiber : cta.fibers) {
    if (!fiber.done) throw std::logic_error("a barrier was not reached by all threads that are still running");
  }
}

}  // namespace

void set_order(Order new_order) { order = new_order; }

void run(dim3 grid, dim3 block, const std::function<void()>& thread) {
  gridDim = grid;
  blockDim = block;
  cta.thread = &thread;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_cta(block.x * block.y * block.z);
      }
    }
  }
}

unsigned lane() { return flat(threadIdx) % kWarp; }

void sync_block() { wait_at(cta.block); }

const std::uint64_t* exchange(std::uint64_t value) {
  Barrier& warp = cta.warps[cta.current / kWarp];
  warp.arriving[lane()] = value;
  wait_at(warp);
  return warp.seen.data();
}

}  // namespace cuda_emulation
