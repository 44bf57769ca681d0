#pragma once

// Runs the bodies of GPU kernels (kernels/simt.h) on the CPU: every thread of a thread block is a fiber, and a warp
// instruction waits for all of its lanes. What goes wrong only sometimes on a GPU goes wrong every time here: copied
// bytes arrive when they are waited for and not before, their target holds NaN until then, shared memory begins as NaN,
// and the order in which warps run can be turned around.

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/dtype.h"
#include "kernels/simt.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastserve::kernels {

inline float widen(DType dtype, std::uint16_t bits) {
  if (dtype == DType::kBFloat16) return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
  return bits >> 15 != 0 ? -value : value;
}

/// Round to nearest even.
inline std::uint16_t narrow(DType dtype, float value) {
  if (dtype == DType::kBFloat16) {
    if (std::isnan(value)) return 0x7fff;
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float size = std::fabs(value);
  if (std::isnan(value)) return 0x7fff;
  if (size >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7c00);
  if (size < 0x1p-14f) return static_cast<std::uint16_t>(sign | static_cast<int>(std::nearbyint(size * 0x1p24f)));
  int exponent = 0;
  const float fraction = std::frexp(size, &exponent);  // in [0.5, 1)
  const int rounded = static_cast<int>(std::nearbyint(fraction * 2048.0f));
  return static_cast<std::uint16_t>(sign | (((exponent + 13) << 10) + rounded));
}

/// One thread block at a time; `run` does them all.
class GpuEmulator {
 public:
  struct Order {
    bool last_cta_first = false;
    bool last_thread_first = false;
  };

  static void run(int num_ctas, int threads, int shared_bytes, Order order, const std::function<void()>& body) {
    for (int i = 0; i < num_ctas; ++i) {
      GpuEmulator cta(order.last_cta_first ? num_ctas - 1 - i : i, num_ctas, threads, shared_bytes, body);
      cta.finish(order.last_thread_first);
    }
  }

  struct Copy {
    char* target;
    const char* source;
    bool wanted;
  };
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    int thread = 0;
    bool done = false;
    std::vector<Copy> open_group;
    std::deque<std::vector<Copy>> groups;
  };
  /// Fibers that wait for each other, and what they bring and take.
  struct Meeting {
    int size = 0;
    int arrived = 0;
    std::uint64_t round = 0;
    const char* what = nullptr;
    std::array<const void*, 128> brought{};
  };

  static GpuEmulator& current() { return *current_; }
  Fiber& fiber() { return *fibers_[static_cast<std::size_t>(running_)]; }
  Meeting& warp() { return warps_[static_cast<std::size_t>(running_ / 32)]; }
  Meeting& warpgroup() { return warpgroups_[static_cast<std::size_t>(running_ / 128)]; }
  Meeting& all() { return all_; }
  int cta() const { return cta_; }
  int num_ctas() const { return num_ctas_; }
  char* shared() { return shared_; }
  /// For work that is done later: no thread runs then, so it cannot leave.
  void report(const char* message) {
    if (error_ == nullptr) error_ = message;
  }
  bool in_shared(const void* pointer, int bytes) const {
    const auto* p = static_cast<const char*>(pointer);
    return p >= shared_ && p + bytes <= shared_ + shared_bytes_;
  }

  /// Wait for the others; the last one to come does the work, before anyone goes on.
  template <typename Work>
  void meet(Meeting& meeting, const char* what, const Work& work) {
    if (meeting.arrived == 0) meeting.what = what;
    if (std::strcmp(meeting.what, what) != 0) fail("lanes of a warp are at different instructions");
    const std::uint64_t round = meeting.round;
    progress_ = true;
    if (++meeting.arrived == meeting.size) {
      meeting.arrived = 0;
      work();
      ++meeting.round;
      return;
    }
    while (meeting.round == round && error_ == nullptr) yield();
    if (error_ != nullptr) throw Stop();
  }

  /// Wait until something that other threads do makes it true.
  template <typename Ready>
  void wait_until(const Ready& ready) {
    while (error_ == nullptr && !ready()) yield();
    if (error_ != nullptr) throw Stop();
    progress_ = true;
  }

  /// Do it when no thread can go on otherwise: as late as possible.
  void later(std::function<void()> work) { later_.push_back(std::move(work)); }

  /// What machines add to a thread block; made by the first to ask, lives as long as the thread block. Its
  /// check_at_end() says what is wrong when all threads have ended, or null.
  template <typename Extension>
  Extension& extension() {
    if (extension_ == nullptr) {
      const auto made = std::make_shared<Extension>(static_cast<int>(fibers_.size()));
      extension_ = made;
      check_at_end_ = [made] { return made->check_at_end(); };
    }
    return *static_cast<Extension*>(extension_.get());
  }

  /// Give up: the fiber ends, and the scheduler throws.
  [[noreturn]] void fail(const char* message) {
    report(message);
    throw Stop();
  }

 private:
  static constexpr std::size_t kStackBytes = 256 * 1024;
  struct Stop {};  // ends a fiber

  GpuEmulator(int cta, int num_ctas, int threads, int shared_bytes, const std::function<void()>& body)
      : cta_(cta), num_ctas_(num_ctas), shared_bytes_(shared_bytes), body_(body),
        memory_(static_cast<std::size_t>(shared_bytes) / 16 + 1, Word4{~0u, ~0u, ~0u, ~0u}),
        shared_(reinterpret_cast<char*>(memory_.data())), warps_(static_cast<std::size_t>(threads / 32)),
        warpgroups_(static_cast<std::size_t>(threads / 128)) {
    current_ = this;
    for (Meeting& warp : warps_) warp.size = 32;
    for (Meeting& warpgroup : warpgroups_) warpgroup.size = 128;
    all_.size = threads;
    for (int thread = 0; thread < threads; ++thread) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->thread = thread;
      prepare(*fibers_.back());
    }
  }

  static void prepare(Fiber& fiber) {
    fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &GpuEmulator::enter, 0);
  }

  static void enter() {
    finish_switch(nullptr);
    try {
      current_->body_();
    } catch (const Stop&) {
    }
    Fiber& fiber = current_->fiber();
    if (!fiber.groups.empty() && current_->error_ == nullptr) {
      for (const auto& group : fiber.groups) {
        if (!group.empty()) current_->error_ = "a thread ended before the bytes that it copies had arrived";
      }
    }
    current_->leave();
  }

  void finish(bool last_thread_first) {
    const int threads = static_cast<int>(fibers_.size());
    for (bool left = true; left;) {
      left = false;
      progress_ = false;
      for (int i = 0; i < threads && error_ == nullptr; ++i) {
        running_ = last_thread_first ? threads - 1 - i : i;
        if (fiber().done) continue;
        resume();
        left = true;
      }
      if (error_ == nullptr && left && !progress_) {
        if (later_.empty()) {
          error_ = "threads wait for each other for ever";
        } else {
          do_later(last_thread_first);
        }
      }
      if (error_ != nullptr) throw std::runtime_error(error_);
    }
    if (!later_.empty()) error_ = "the threads ended before the bytes that were asked for had arrived";
    if (error_ == nullptr && check_at_end_) error_ = check_at_end_();
    if (error_ != nullptr) throw std::runtime_error(error_);
  }

  void do_later(bool last_first) {
    const std::function<void()> work = last_first ? later_.back() : later_.front();
    if (last_first) {
      later_.pop_back();
    } else {
      later_.pop_front();
    }
    work();
  }

  void resume() {
    void* fake_stack = nullptr;
    start_switch(&fake_stack, fiber().stack.get(), kStackBytes);
    swapcontext(&scheduler_, &fiber().context);
    finish_switch(fake_stack);
  }
  void yield() {
    void* fake_stack = nullptr;
    start_switch(&fake_stack, scheduler_stack_, scheduler_bytes_);
    swapcontext(&fiber().context, &scheduler_);
    finish_switch(fake_stack);
  }
  [[noreturn]] void leave() {
    fiber().done = true;
    progress_ = true;
    start_switch(nullptr, scheduler_stack_, scheduler_bytes_);
    setcontext(&scheduler_);
    std::abort();
  }

#if defined(__SANITIZE_ADDRESS__)
  static void start_switch(void** save, const void* bottom, std::size_t bytes) {
    __sanitizer_start_switch_fiber(save, bottom, bytes);
  }
  static void finish_switch(void* fake_stack) {
    const void* bottom = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
    if (fake_stack == nullptr && scheduler_stack_ == nullptr) {  // the first fiber learns where it came from
      scheduler_stack_ = bottom;
      scheduler_bytes_ = bytes;
    }
  }
#else
  static void start_switch(void**, const void*, std::size_t) {}
  static void finish_switch(void*) {}
#endif
  inline static const void* scheduler_stack_ = nullptr;
  inline static std::size_t scheduler_bytes_ = 0;

  inline static GpuEmulator* current_ = nullptr;
  int cta_;
  int num_ctas_;
  int shared_bytes_;
  const std::function<void()>& body_;
  std::vector<Word4> memory_;
  char* shared_;
  std::vector<Meeting> warps_;
  std::vector<Meeting> warpgroups_;
  Meeting all_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  ucontext_t scheduler_{};
  int running_ = 0;
  bool progress_ = false;
  const char* error_ = nullptr;
  std::deque<std::function<void()>> later_;
  std::shared_ptr<void> extension_;
  std::function<const char*()> check_at_end_;
};

/// The machine of kernels/simt.h for a body that GpuEmulator runs. Fragments are laid out as the PTX manual says.
struct EmulatedMachine {
  static GpuEmulator& gpu() { return GpuEmulator::current(); }
  static int thread() { return gpu().fiber().thread; }
  static int fresh_lane() { return thread() % 32; }
  static int cta() { return gpu().cta(); }
  static int num_ctas() { return gpu().num_ctas(); }
  static char* shared() { return gpu().shared(); }
  static void sync() {
    gpu().meet(gpu().all(), "sync", [] {});
  }
  static void sync_warp() {
    gpu().meet(gpu().warp(), "sync_warp", [] {});
  }
  static void fence() {}

  /// All lanes bring a value of their own, `work` sees those of all lanes and writes to them.
  template <typename T, typename Work>
  static void together(const char* what, T& mine, const Work& work) {
    GpuEmulator::Meeting& warp = gpu().warp();
    warp.brought[static_cast<std::size_t>(thread() % 32)] = &mine;
    gpu().meet(warp, what, [&] {
      std::array<T*, 32> lanes;
      for (std::size_t i = 0; i < 32; ++i) lanes[i] = const_cast<T*>(static_cast<const T*>(warp.brought[i]));
      work(lanes);
    });
  }

  template <typename T>
  struct Shuffled {
    T value;
    int source;
    T result;
  };
  template <typename T>
  static T shuffle(const char* what, T value, int source) {
    Shuffled<T> mine{value, source, value};
    together(what, mine, [](std::array<Shuffled<T>*, 32>& lanes) {
      for (Shuffled<T>* lane : lanes) lane->result = lanes[static_cast<std::size_t>(lane->source & 31)]->value;
    });
    return mine.result;
  }
  template <typename T>
  static T shfl(T value, int lane) {
    return shuffle("shfl", value, lane);
  }
  template <typename T>
  static T shfl_up(T value, int distance) {
    const int lane = thread() % 32;
    return shuffle("shfl_up", value, lane < distance ? lane : lane - distance);
  }
  template <typename T>
  static T shfl_xor(T value, int mask) {
    return shuffle("shfl_xor", value, thread() % 32 ^ mask);
  }

  static bool all(bool mine) {
    struct Vote {
      bool mine;
      bool result;
    } vote{mine, mine};
    together("all", vote, [](std::array<Vote*, 32>& lanes) {
      const bool every = std::ranges::all_of(lanes, [](const Vote* lane) { return lane->mine; });
      for (Vote* lane : lanes) lane->result = every;
    });
    return vote.result;
  }

  static std::uint32_t fetch_add(std::uint32_t* address, std::uint32_t value) {
    const std::uint32_t before = *address;
    *address += value;
    return before;
  }
  static float load_fresh(const float* address) { return *address; }

  static void copy16(void* shared, const void* global, bool wanted) {
    if (!gpu().in_shared(shared, 16) || reinterpret_cast<std::uintptr_t>(shared) % 16 != 0) {
      gpu().fail("copy16 needs 16 aligned bytes of shared memory");
    }
    if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0) gpu().fail("copy16 needs an aligned source");
    std::memset(shared, 0xff, 16);
    gpu().fiber().open_group.push_back({static_cast<char*>(shared), static_cast<const char*>(global), wanted});
  }
  static void commit() {
    gpu().fiber().groups.push_back(std::move(gpu().fiber().open_group));
    gpu().fiber().open_group.clear();
  }
  template <int kLeft>
  static void wait() {
    auto& groups = gpu().fiber().groups;
    while (groups.size() > kLeft) {
      for (const auto& copy : groups.front()) {
        if (copy.wanted) {
          std::memcpy(copy.target, copy.source, 16);
        } else {
          std::memset(copy.target, 0, 16);
        }
      }
      groups.pop_front();
    }
  }

  struct MatrixRead {
    const void* row;
    std::uint32_t* out;
  };
  template <bool kTransposed>
  static void read_matrices(const char* what, std::uint32_t (&out)[4], const void* row) {
    if (!gpu().in_shared(row, 16) || reinterpret_cast<std::uintptr_t>(row) % 16 != 0) {
      gpu().fail("ldmatrix needs rows of 16 aligned bytes of shared memory");
    }
    MatrixRead mine{row, out};
    together(what, mine, [](std::array<MatrixRead*, 32>& lanes) {
      for (std::size_t lane = 0; lane < 32; ++lane) {
        for (std::size_t matrix = 0; matrix < 4; ++matrix) {
          std::uint16_t pair[2];
          for (std::size_t i = 0; i < 2; ++i) {
            const std::size_t r = kTransposed ? lane % 4 * 2 + i : lane / 4;
            const std::size_t c = kTransposed ? lane / 4 : lane % 4 * 2 + i;
            std::memcpy(&pair[i], static_cast<const char*>(lanes[matrix * 8 + r]->row) + 2 * c, 2);
          }
          std::memcpy(&lanes[lane]->out[matrix], pair, 4);
        }
      }
    });
  }
  static void ldmatrix(std::uint32_t (&out)[4], const void* row) { read_matrices<false>("ldmatrix", out, row); }
  static void ldmatrix_transposed(std::uint32_t (&out)[4], const void* row) {
    read_matrices<true>("ldmatrix_transposed", out, row);
  }

  struct Product {
    float* c;
    const std::uint32_t* a;
    std::uint32_t b[2];
  };
  template <DType kType>
  static float half_of(std::uint32_t word, int half) {
    return widen(kType, static_cast<std::uint16_t>(word >> (16 * half)));
  }
  template <DType kType>
  static void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    Product mine{c, a, {b0, b1}};
    together("mma", mine, [](std::array<Product*, 32>& lanes) {
      float left[16][16];  // [row][k]
      float right[16][8];  // [k][column]
      for (int lane = 0; lane < 32; ++lane) {
        const Product& product = *lanes[static_cast<std::size_t>(lane)];
        for (int half = 0; half < 2; ++half) {
          const int k = lane % 4 * 2 + half;
          for (int part = 0; part < 4; ++part) {
            left[lane / 4 + part % 2 * 8][k + part / 2 * 8] = half_of<kType>(product.a[part], half);
          }
          for (int part = 0; part < 2; ++part) right[k + part * 8][lane / 4] = half_of<kType>(product.b[part], half);
        }
      }
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
          float& sum = lanes[static_cast<std::size_t>(lane)]->c[i];
          for (int k = 0; k < 16; ++k) sum += left[lane / 4 + i / 2 * 8][k] * right[k][lane % 4 * 2 + i % 2];
        }
      }
    });
  }

  template <DType kType>
  static std::uint32_t pack(float low, float high) {
    return narrow(kType, low) | static_cast<std::uint32_t>(narrow(kType, high)) << 16;
  }
  template <DType kType>
  static float load(const void* array, std::int64_t index) {
    if constexpr (kType == DType::kFloat32) return static_cast<const float*>(array)[index];
    return widen(kType, static_cast<const std::uint16_t*>(array)[index]);
  }
  template <DType kType>
  static void store(void* array, std::int64_t index, float value) {
    if constexpr (kType == DType::kFloat32) {
      static_cast<float*>(array)[index] = value;
    } else {
      static_cast<std::uint16_t*>(array)[index] = narrow(kType, value);
    }
  }
  static float exp2(float x) { return std::exp2(x); }
};

}  // namespace fastserve::kernels
