#pragma once

// The machine of kernels/hopper.h on the CPU, by the PTX manual and as strict as it allows a GPU to be. Copies of the
// copy engine arrive when no thread can go on without them; until then their target holds NaN. Products are computed
// when they are waited for, warp by warp, out of shared memory that may not have changed since they were issued; until
// the wait that names them, their accumulators hold numbers that nobody may touch. Descriptors of matrices are decoded
// from their bits, and the strides, boxes and swizzles of tensor maps are followed.

#include "gpu_emulator.h"
#include "hopper_state.h"
#include "kernels/hopper.h"

namespace fastserve::kernels {

struct EmulatedHopper : EmulatedMachine {
  using TensorMap = TensorMapSpec;
  using State = HopperState;

  static State& state() { return gpu().extension<State>(); }
  static State::Thread& self() { return state().threads[static_cast<std::size_t>(thread())]; }
  static State::Warp& warp() { return state().warps[static_cast<std::size_t>(thread() / 32)]; }

  static std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(static_cast<const char*>(pointer) - gpu().shared()) + State::kSharedBase;
  }
  static char* at_address(std::uint32_t address) { return gpu().shared() + (address - State::kSharedBase); }
  /// Where the copy engine and wgmma put the 16 bytes of an address: a function of the address alone.
  static std::uint32_t swizzled(std::uint32_t address, int swizzle_bytes) {
    const auto chunks = static_cast<std::uint32_t>(swizzle_bytes / 16);
    return address ^ (address >> 7 & (chunks - 1)) << 4;
  }

  // ---- barriers in shared memory

  static State::Barrier& barrier_of(std::uint64_t* barrier) {
    const auto found = state().barriers.find(barrier);
    if (found == state().barriers.end()) gpu().fail("a barrier was never initialised");
    return found->second;
  }
  static void barrier_init(std::uint64_t* barrier, int arrivals) {
    if (!gpu().in_shared(barrier, 8) || reinterpret_cast<std::uintptr_t>(barrier) % 8 != 0) {
      gpu().fail("a barrier needs 8 aligned bytes of shared memory");
    }
    if (!state().barriers.try_emplace(barrier, State::Barrier{arrivals, arrivals}).second) {
      gpu().fail("a barrier was initialised twice");
    }
  }
  static void barriers_ready() { state().barriers_ready = true; }
  static void end_phase(State::Barrier& barrier) {
    if (barrier.missing != 0 || barrier.bytes != 0) return;
    barrier.missing = barrier.arrivals;
    barrier.parity ^= 1;
  }
  static void barrier_arrive(std::uint64_t* barrier) { barrier_expect(barrier, 0); }
  static void barrier_expect(std::uint64_t* barrier, int bytes) {
    State::Barrier& found = barrier_of(barrier);
    if (found.missing == 0) gpu().fail("more threads arrived at a barrier than it counts");
    found.bytes += bytes;
    --found.missing;
    end_phase(found);
  }
  static void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
    const State::Barrier& found = barrier_of(barrier);
    if (!state().barriers_ready) gpu().fail("a barrier is used before barriers_ready");
    gpu().wait_until([&] { return found.parity != parity; });
  }

  // ---- the copy engine

  static void check(const TensorMap& map) {
    bool right = reinterpret_cast<std::uintptr_t>(map.base) % 16 == 0 && 2 * map.box[0] == map.swizzle_bytes &&
                 (map.swizzle_bytes == 32 || map.swizzle_bytes == 64 || map.swizzle_bytes == 128);
    for (std::size_t i = 0; i < 5; ++i) right = right && map.box[i] >= 1 && map.box[i] <= 256 && map.sizes[i] >= 1;
    for (const std::int64_t stride : map.strides) right = right && stride % 16 == 0 && stride > 0 && stride < 1LL << 40;
    if (!right) gpu().fail("the driver would refuse this tensor map");
  }

  static void prefetch(const TensorMap& map) { check(map); }

  static void copy_box(void* shared, const TensorMap& map, const int (&at)[5], std::uint64_t* barrier) {
    check(map);
    const int bytes = 2 * map.box[0] * map.box[1] * map.box[2] * map.box[3] * map.box[4];
    if (!gpu().in_shared(shared, bytes) || shared_address(shared) % 128 != 0) {
      gpu().fail("a box needs shared memory aligned to 128 bytes");
    }
    for (int i = 0; i < bytes; i += 16) check_stored(shared_address(shared) + static_cast<std::uint32_t>(i));
    std::memset(shared, 0xff, static_cast<std::size_t>(bytes));
    State::Barrier& waiting = barrier_of(barrier);
    const std::array<int, 5> place{at[0], at[1], at[2], at[3], at[4]};
    gpu().later([shared, map, place, bytes, &waiting] {
      move_box(static_cast<char*>(shared), map, place);
      waiting.bytes -= bytes;
      if (waiting.bytes < 0) gpu().report("bytes arrived at a barrier that did not expect them");
      end_phase(waiting);
    });
  }

  static void move_box(char* shared, const TensorMap& map, const std::array<int, 5>& at) {
    const int rows = map.box[1] * map.box[2] * map.box[3] * map.box[4];
    const std::uint32_t start = shared_address(shared);
    for (int row = 0; row < rows; ++row) {
      std::int64_t offset = 2 * at[0];
      bool inside = at[0] >= 0 && at[0] + map.box[0] <= map.sizes[0];
      int rest = row;
      for (std::size_t i = 1; i < 5; ++i) {
        const std::int64_t index = at[i] + rest % map.box[i];
        rest /= map.box[i];
        inside = inside && index >= 0 && index < map.sizes[i];
        offset += index * map.strides[i - 1];
      }
      for (int byte = 0; byte < map.swizzle_bytes; byte += 16) {
        Word4 chunk{0, 0, 0, 0};
        if (inside) std::memcpy(&chunk, static_cast<const char*>(map.base) + offset + byte, 16);
        const auto target = start + static_cast<std::uint32_t>(row * map.swizzle_bytes + byte);
        std::memcpy(at_address(swizzled(target, map.swizzle_bytes)), &chunk, 16);
      }
    }
  }

  // ---- ordinary stores that the copy engine and wgmma must see

  static void store16(void* shared, Word4 words) {
    if (!gpu().in_shared(shared, 16)) gpu().fail("store16 needs shared memory");
    if (std::memcmp(shared, &words, 16) == 0) return;  // whoever reads it meanwhile reads the same
    std::memcpy(shared, &words, 16);
    state().stores[shared_address(shared)] = {thread()};
  }
  static void proxy_fence() {
    for (auto& [address, store] : state().stores) store.fenced = store.fenced || store.thread == thread();
  }
  static void check_stored(std::uint32_t address) {
    if (!state().stores.empty() && state().stores.contains(address)) {
      gpu().fail("a store to shared memory needs proxy_fence and a barrier before this");
    }
  }

  static State::Named& named_barrier(int id, int threads) {
    if (id < 1 || id > 15) gpu().fail("named barriers are 1 to 15");
    State::Named& barrier = state().named[static_cast<std::size_t>(id)];
    if (barrier.arrived.none()) barrier.expected = threads;
    if (barrier.expected != threads) gpu().fail("a named barrier is used for different numbers of threads");
    if (barrier.arrived.test(static_cast<std::size_t>(thread()))) gpu().fail("a thread arrives twice");
    barrier.arrived.set(static_cast<std::size_t>(thread()));
    if (barrier.arrived.count() < static_cast<std::size_t>(threads)) return barrier;
    std::erase_if(state().stores, [&](const auto& entry) {
      return entry.second.fenced && barrier.arrived.test(static_cast<std::size_t>(entry.second.thread));
    });
    barrier.arrived.reset();
    ++barrier.round;
    return barrier;
  }
  static void named_arrive(int id, int threads) { named_barrier(id, threads); }
  static void named_sync(int id, int threads) {
    if (id < 1 || id > 15) gpu().fail("named barriers are 1 to 15");
    const std::uint64_t round = state().named[static_cast<std::size_t>(id)].round;
    const State::Named& barrier = named_barrier(id, threads);
    gpu().wait_until([&] { return barrier.round != round; });
  }

  template <int kCount>
  static void set_registers() {
    static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
    gpu().meet(gpu().warpgroup(), "setmaxnreg", [] {
      state().registers[static_cast<std::size_t>(thread() / 128)] = kCount;
    });
  }
  template <int kCount>
  static void take_registers() {
    set_registers<kCount>();
  }
  template <int kCount>
  static void give_registers() {
    set_registers<kCount>();
  }

  // ---- products of a warpgroup

  template <typename T, int kTiles>
  static std::vector<std::uint32_t> words_of(const T (&registers)[kTiles][4]) {
    std::vector<std::uint32_t> words(4 * kTiles);
    std::memcpy(words.data(), &registers[0][0], 16 * kTiles);
    return words;
  }
  static std::uint32_t untouched(std::size_t i) { return 0x7149'0000u + static_cast<std::uint32_t>(i); }  // about 1e30

  template <typename... Registers>
  static void wgmma_fence(Registers&... registers) {
    (fence_one(registers), ...);
  }
  template <typename T, int kTiles>
  static void fence_one(T (&registers)[kTiles][4]) {
    if (self().pending.contains(reinterpret_cast<float*>(&registers[0][0]))) {
      gpu().fail("a fence names registers that a product still uses");
    }
    self().fenced[&registers[0][0]] = words_of(registers);
  }
  /// The accumulators go to a product, or on to the next one.
  static void hand_over(State::Thread& owner, float* sums, std::size_t size) {
    const auto found = owner.pending.find(sums);
    if (found != owner.pending.end()) {
      if (found->second.size != size) gpu().fail("accumulators go from one shape to another without a fence");
      ++found->second.products;
      return;
    }
    const auto fenced = owner.fenced.find(sums);
    if (fenced == owner.fenced.end() || fenced->second.size() != size ||
        std::memcmp(fenced->second.data(), sums, 4 * size) != 0) {
      gpu().fail("accumulators were written after the last fence");
    }
    owner.pending[sums] = {size, 1, {sums, sums + size}};
    owner.fenced.erase(fenced);
    for (std::size_t i = 0; i < size; ++i) sums[i] = std::bit_cast<float>(untouched(i));
  }

  struct Descriptor {
    std::uint32_t start;
    std::uint32_t panel_bytes;  // the manual's leading dimension byte offset
    std::uint32_t group_bytes;  // its stride dimension byte offset
    int swizzle_bytes;

    explicit Descriptor(std::uint64_t bits)
        : start(static_cast<std::uint32_t>(bits & 0x3fff) << 4),
          panel_bytes(static_cast<std::uint32_t>(bits >> 16 & 0x3fff) << 4),
          group_bytes(static_cast<std::uint32_t>(bits >> 32 & 0x3fff) << 4),
          swizzle_bytes(std::array{0, 128, 64, 32}[bits >> 62]) {
      if (swizzle_bytes == 0) gpu().fail("a matrix without swizzle is not known here");
      if ((bits >> 49 & 7) != 0) gpu().fail("a matrix with a base offset is not known here");
    }
  };

  static Word4 read_chunk(State::Matrix& matrix, std::uint32_t address, int swizzle_bytes) {
    const std::uint32_t place = swizzled(address, swizzle_bytes);
    if (place < State::kSharedBase || !gpu().in_shared(at_address(place), 16)) {
      gpu().fail("a matrix lies outside shared memory");
    }
    check_stored(place);
    Word4 bytes;
    std::memcpy(&bytes, at_address(place), 16);
    matrix.chunks.push_back({place, bytes});
    return bytes;
  }
  /// [rows][16], the 16 in neighbouring bytes.
  template <DType kType>
  static std::shared_ptr<State::Matrix> read_rows(std::uint64_t bits, int rows) {
    const Descriptor from(bits);
    auto matrix = std::make_shared<State::Matrix>();
    for (int row = 0; row < rows; ++row) {
      for (int half = 0; half < 2; ++half) {
        const auto in_group = static_cast<std::uint32_t>(row % 8 * from.swizzle_bytes + half * 16);
        append<kType>(*matrix, read_chunk(*matrix, from.start + static_cast<std::uint32_t>(row / 8) * from.group_bytes +
                                                       in_group, from.swizzle_bytes));
      }
    }
    return matrix;
  }
  /// [columns][16] out of 16 rows that hold `columns` in neighbouring bytes.
  template <DType kType>
  static std::shared_ptr<State::Matrix> read_columns(std::uint64_t bits, int columns) {
    const Descriptor from(bits);
    auto matrix = std::make_shared<State::Matrix>();
    State::Matrix transposed;  // [16][columns]
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < columns; column += 8) {
        const int byte = 2 * column;
        const auto address = from.start + static_cast<std::uint32_t>(byte / from.swizzle_bytes) * from.panel_bytes +
                             static_cast<std::uint32_t>(k / 8) * from.group_bytes +
                             static_cast<std::uint32_t>(k % 8 * from.swizzle_bytes + byte % from.swizzle_bytes);
        append<kType>(transposed, read_chunk(*matrix, address, from.swizzle_bytes));
      }
    }
    for (int column = 0; column < columns; ++column) {
      for (int k = 0; k < 16; ++k) {
        matrix->values.push_back(transposed.values[static_cast<std::size_t>(k * columns + column)]);
      }
    }
    return matrix;
  }
  template <DType kType>
  static void append(State::Matrix& matrix, Word4 chunk) {
    std::uint16_t elements[8];
    std::memcpy(elements, &chunk, 16);
    for (const std::uint16_t element : elements) matrix.values.push_back(widen(kType, element));
  }

  struct Issue {
    float* sums;
    const std::uint32_t* weights;  // null: a
    std::uint64_t a;
    std::uint64_t b;
    bool add;
  };
  template <DType kType, int kTiles>
  static void wgmma(float (&c)[kTiles][4], std::uint64_t a, std::uint64_t b, bool add) {
    issue<kType>({&c[0][0], nullptr, a, b, add}, 8 * kTiles);
  }
  template <DType kType, int kTiles>
  static void wgmma(float (&c)[kTiles][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    const auto& fenced = self().fenced;
    const bool known = std::ranges::any_of(fenced, [&](const auto& entry) {
      const auto* words = static_cast<const std::uint32_t*>(entry.first);
      if (std::less<>()(a, words) || !std::less<>()(a, words + entry.second.size())) return false;
      return std::memcmp(entry.second.data() + (a - words), a, 16) == 0;
    });
    if (!known) gpu().fail("an operand in registers was written after the last fence");
    issue<kType>({&c[0][0], a, 0, b, true}, 8 * kTiles);
  }
  template <DType kType>
  static void issue(const Issue& mine, int columns) {
    GpuEmulator::Meeting& meeting = gpu().warpgroup();
    meeting.brought[static_cast<std::size_t>(thread() % 128)] = &mine;
    gpu().meet(meeting, "wgmma", [&] {
      auto product = std::make_shared<State::Product>();
      product->dtype = kType;
      product->columns = columns;
      product->add = mine.add;
      if (mine.weights == nullptr) {
        product->left = read_rows<kType>(mine.a, 64);
        product->right = read_rows<kType>(mine.b, columns);
      } else {
        product->right = read_columns<kType>(mine.b, columns);
      }
      const std::size_t first = static_cast<std::size_t>(thread() / 128 * 128);
      for (std::size_t i = 0; i < 128; ++i) {
        const Issue& other = *static_cast<const Issue*>(meeting.brought[i]);
        if (other.a != mine.a || other.b != mine.b || other.add != mine.add) {
          gpu().fail("the threads of a warpgroup issue different products");
        }
        hand_over(state().threads[first + i], other.sums, static_cast<std::size_t>(columns / 2));
        product->sums[i] = other.sums;
        product->weights[i] = other.weights;
        if (other.weights != nullptr) std::copy_n(other.weights, 4, product->weights_then[i].begin());
      }
      for (std::size_t i = 0; i < 4; ++i) state().warps[first / 32 + i].open.push_back(product);
    });
  }

  static void wgmma_commit() {
    int nothing = 0;
    together("wgmma_commit", nothing, [](std::array<int*, 32>&) {
      State::Warp& mine = warp();
      mine.groups.push_back(std::move(mine.open));
      mine.open.clear();
    });
  }
  template <int kLeft, typename... Registers>
  static void wgmma_wait(Registers&... registers) {
    int nothing = 0;
    together("wgmma_wait", nothing, [](std::array<int*, 32>&) {
      State::Warp& mine = warp();
      while (mine.groups.size() > kLeft) {
        for (const auto& product : mine.groups.front()) compute(*product, static_cast<std::size_t>(thread() / 32 % 4));
        mine.groups.pop_front();
      }
    });
    (take_back(registers), ...);
  }
  template <int kTiles>
  static void take_back(float (&registers)[kTiles][4]) {
    float* const sums = &registers[0][0];
    const auto found = self().pending.find(sums);
    if (found == self().pending.end()) return;
    if (found->second.products > 0) gpu().fail("a wait names registers of a product that it does not wait for");
    for (std::size_t i = 0; i < found->second.size; ++i) {
      if (std::bit_cast<std::uint32_t>(sums[i]) != untouched(i)) gpu().fail("accumulators were touched too early");
      sums[i] = found->second.values[i];
    }
    self().pending.erase(found);
  }
  template <int kTiles>
  static void take_back(std::uint32_t (&)[kTiles][4]) {}

  static void settle(float) {}

  static void check_unchanged(const State::Matrix& matrix, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (std::memcmp(at_address(matrix.chunks[i].address), &matrix.chunks[i].bytes, 16) != 0) {
        gpu().fail("shared memory changed while a product read it");
      }
    }
  }
  /// The 16 rows of one warp of the group.
  static void compute(const State::Product& product, std::size_t part) {
    float left[16][16];
    check_unchanged(*product.right, 0, product.right->chunks.size());
    if (product.left != nullptr) {
      check_unchanged(*product.left, part * 32, part * 32 + 32);
      std::copy_n(product.left->values.begin() + static_cast<std::ptrdiff_t>(part * 256), 256, &left[0][0]);
    } else {
      read_weights(product, part, left);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const std::size_t i = part * 32 + static_cast<std::size_t>(lane);
      const std::size_t first = static_cast<std::size_t>(thread() / 128 * 128);
      State::Pending& pending = state().threads[first + i].pending.at(product.sums[i]);
      for (int j = 0; j < product.columns / 2; ++j) {
        const float* const row = left[lane / 4 + j / 2 % 2 * 8];
        const auto column = static_cast<std::ptrdiff_t>(j / 4 * 8 + lane % 4 * 2 + j % 2);
        const float* const right = product.right->values.data() + 16 * column;
        float sum = product.add ? pending.values[static_cast<std::size_t>(j)] : 0.0f;
        for (int k = 0; k < 16; ++k) sum += row[k] * right[k];
        pending.values[static_cast<std::size_t>(j)] = sum;
      }
      --pending.products;
    }
  }
  static void read_weights(const State::Product& product, std::size_t part, float (&left)[16][16]) {
    for (int lane = 0; lane < 32; ++lane) {
      const std::size_t i = part * 32 + static_cast<std::size_t>(lane);
      for (std::size_t word = 0; word < 4; ++word) {
        const std::uint32_t bits = product.weights[i][word];
        if (bits != product.weights_then[i][word]) {
          gpu().fail("an operand in registers changed while a product read it");
        }
        for (int half = 0; half < 2; ++half) {
          const int k = lane % 4 * 2 + half + static_cast<int>(word / 2) * 8;
          left[lane / 4 + static_cast<int>(word % 2) * 8][k] =
              widen(product.dtype, static_cast<std::uint16_t>(bits >> (16 * half)));
        }
      }
    }
  }
};

}  // namespace fastserve::kernels
