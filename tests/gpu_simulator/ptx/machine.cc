#include "ptx/machine.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "ptx/error.h"

namespace ptx {
namespace {

constexpr std::uint64_t kMostQuantum = 200;           // instructions of a warp until another may go on
constexpr std::int64_t kMostIdleTurns = 10'000;       // per warp, without any change: a hang
constexpr std::int64_t kPatientTurns = 4;             // per warp, until a copy has to arrive
constexpr std::size_t kMostThreads = 1024;            // of a CTA
constexpr std::size_t kMostSharedBytes = 227 * 1024;  // the same, of compute capability 9.0

/// One launch: the CTAs that are resident, and whose turn it is.
class Launch {
 public:
  Launch(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t dynamic_shared_bytes,
         std::vector<std::byte> parameters, const Machine::Options& options, std::mt19937_64& random)
      : kernel_(kernel),
        grid_(grid),
        block_(block),
        dynamic_shared_bytes_(dynamic_shared_bytes),
        parameters_(std::move(parameters)),
        options_(options),
        random_(random) {
    // Copies arrive at once, or after any longer time.
    delivery_mask_ = (std::uint64_t{1} << random_() % 4 * 2) - 1;
  }

  void run() {
    const std::uint64_t num_ctas = std::uint64_t{grid_.x} * grid_.y * grid_.z;
    while (next_cta_ < num_ctas || !turns_.empty()) {
      while (next_cta_ < num_ctas && ctas_.size() < static_cast<std::size_t>(std::max(options_.resident_ctas, 1))) {
        start(next_cta_++);
      }
      if (Turn* const turn = next_turn(); turn != nullptr) {
        take(*turn);
      } else if (!deliver_any()) {
        throw Error(where("deadlock"));
      }
    }
  }

 private:
  struct Turn {
    Cta* cta = nullptr;
    Warp* warp = nullptr;
    bool waits = false;  // until the CTA's changes() are others than
    std::uint64_t changes = 0;
  };

  void start(std::uint64_t number) {
    const Dim3 index{static_cast<unsigned>(number % grid_.x), static_cast<unsigned>(number / grid_.x % grid_.y),
                     static_cast<unsigned>(number / grid_.x / grid_.y)};
    ctas_.push_back(std::make_unique<Cta>(kernel_, grid_, block_, index, dynamic_shared_bytes_, parameters_, random_));
    for (Warp& warp : ctas_.back()->warps()) turns_.push_back({.cta = ctas_.back().get(), .warp = &warp});
  }

  Turn* next_turn() {
    const std::size_t first = random_() % turns_.size();
    for (std::size_t i = 0; i < turns_.size(); ++i) {
      Turn& turn = turns_[(first + i) % turns_.size()];
      if (!turn.waits || turn.changes != turn.cta->changes()) return &turn;
    }
    return nullptr;
  }

  void take(Turn& turn) {
    Cta& cta = *turn.cta;
    Warp& warp = *turn.warp;
    const std::uint64_t drawn = random_();
    const std::uint64_t changes = cta.changes();
    const std::int64_t executed = warp.executed();
    turn.changes = changes;
    turn.waits = !warp.run(static_cast<int>(1 + drawn % kMostQuantum));
    num_instructions_ += warp.executed() - executed;
    if (num_instructions_ > options_.most_instructions) {
      throw OverBudget(
          where("over the budget of " + std::to_string(options_.most_instructions) + " warp instructions"));
    }
    const bool idle = (turn.waits || warp.spinning()) && cta.changes() == changes;
    idle_turns_ = idle ? idle_turns_ + 1 : 0;
    if ((drawn >> 32 & delivery_mask_) == 0 && cta.deliver()) idle_turns_ = 0;
    const auto num_turns = static_cast<std::int64_t>(turns_.size());
    if (idle_turns_ > kPatientTurns * num_turns && deliver_any()) idle_turns_ = 0;
    if (idle_turns_ > kMostIdleTurns * num_turns) throw Error(where("hang: warps only wait for what does not come"));
    if (warp.live() == 0) leave(turn);
  }

  void leave(Turn& turn) {
    Cta* const cta = turn.cta;
    turn = turns_.back();
    turns_.pop_back();
    idle_turns_ = 0;
    if (!cta->ended()) return;
    if (cta->has_posted()) fail(kernel_.name, ": a CTA ends while its copies are under way");
    std::erase_if(ctas_, [cta](const std::unique_ptr<Cta>& other) { return other.get() == cta; });
  }

  bool deliver_any() {
    const std::size_t first = random_() % ctas_.size();
    for (std::size_t i = 0; i < ctas_.size(); ++i) {
      if (ctas_[(first + i) % ctas_.size()]->deliver()) return true;
    }
    return false;
  }

  // What has happened, and where every warp is.
  std::string where(const std::string& what) const {
    std::string text = kernel_.name + ": " + what;
    for (const Turn& turn : turns_) {
      const Dim3 index = turn.cta->index;
      text += "\n  CTA (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
              ") " + turn.warp->where();
    }
    return text;
  }

  const Kernel& kernel_;
  Dim3 grid_, block_;
  std::size_t dynamic_shared_bytes_;
  std::vector<std::byte> parameters_;
  const Machine::Options& options_;
  std::mt19937_64& random_;
  std::uint64_t delivery_mask_ = 0;
  std::vector<std::unique_ptr<Cta>> ctas_;  // resident
  std::vector<Turn> turns_;                 // of their warps that have not ended
  std::uint64_t next_cta_ = 0;
  std::int64_t num_instructions_ = 0;
  std::int64_t idle_turns_ = 0;  // in a row
};

void require_launchable(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t dynamic_shared_bytes) {
  const std::size_t num_threads = std::size_t{block.x} * block.y * block.z;
  const std::size_t most = kernel.max_threads > 0 ? static_cast<std::size_t>(kernel.max_threads) : kMostThreads;
  if (num_threads == 0 || num_threads > most) {
    fail(kernel.name, ": launched with ", num_threads, " threads in a CTA, of which it takes 1 to ", most);
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail(kernel.name, ": launched with an empty grid");
  if (grid.y > 65535 || grid.z > 65535) fail(kernel.name, ": grid.y or grid.z is above 65535");
  if (kernel.shared_bytes + dynamic_shared_bytes > kMostSharedBytes) {
    fail(kernel.name, ": launched with ", kernel.shared_bytes, " + ", dynamic_shared_bytes,
         " bytes of shared memory, of which there are ", kMostSharedBytes);
  }
}

}  // namespace

void Machine::launch(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t dynamic_shared_bytes,
                     std::span<void* const> arguments) {
  require_launchable(kernel, grid, block, dynamic_shared_bytes);
  if (arguments.size() < kernel.parameters.size()) {
    fail(kernel.name, ": launched with ", arguments.size(), " arguments for ", kernel.parameters.size(), " parameters");
  }
  std::vector<std::byte> parameters(kernel.parameter_bytes);
  for (std::size_t i = 0; i < kernel.parameters.size(); ++i) {
    std::memcpy(parameters.data() + kernel.parameters[i].offset, arguments[i], kernel.parameters[i].num_bytes);
  }
  std::mt19937_64 random(options_.seed + 0x9e3779b97f4a7c15ULL * launches_++);
  Launch(kernel, grid, block, dynamic_shared_bytes, std::move(parameters), options_, random).run();
}

}  // namespace ptx
