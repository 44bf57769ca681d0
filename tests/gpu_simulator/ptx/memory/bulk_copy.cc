#include <algorithm>
#include <cstring>
#include <utility>

#include "ptx/error.h"
#include "ptx/memory/mbarrier.h"
#include "ptx/memory/tensor_map.h"

// Copies by the bulk engine. Sources: PTX ISA 9.0, 9.7.9.25.4 "Bulk copy", 9.7.9.27.1 "Tensor copy", 5.5.3 "Tiled
// mode", 5.5.7 "Swizzling modes"; alignment of boxes: CUDA C++ programming guide, "Tensor memory access".

namespace ptx {
namespace {

constexpr std::uint64_t kBoxAlignment = 128;

// The engine belongs to the async proxy: it must not meet stores that no proxy fence has passed on, and must not write
// over an mbarrier.
std::byte* take_destination(Cta& cta, std::uint64_t address, std::size_t num_bytes, std::size_t alignment) {
  std::byte* bytes = cta.shared(address, num_bytes, alignment);
  cta.require_fenced(address, num_bytes);
  const auto barrier = cta.mbarriers().lower_bound(address);
  if (barrier != cta.mbarriers().end() && barrier->first < address + num_bytes) {
    fail("bulk copy over the live mbarrier at shared address ", barrier->first);
  }
  std::memset(bytes, 0xff, num_bytes);  // undefined until it has arrived
  return bytes;
}

struct BulkCopy {
  Cta* cta;
  const void* source;
  std::uint64_t destination;
  std::uint32_t num_bytes;
  std::uint64_t barrier;

  void operator()() const {
    std::memcpy(cta->shared(destination, num_bytes, 16), source, num_bytes);
    complete_transactions(*cta, barrier, num_bytes);
    cta->changed();
  }
};

Outcome copy_bytes(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  const auto& operands = instruction.operands;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) == 0) continue;
    const std::uint64_t source = warp.bits(operands[1], lane);
    const BulkCopy copy{
        &cta, reinterpret_cast<const void*>(source), shared_address(cta, warp.bits(operands[0], lane), false),
        warp.read<std::uint32_t>(operands[2], lane), shared_address(cta, warp.bits(operands[3], lane), false)};
    if (copy.num_bytes % 16 != 0 || source % 16 != 0) {
      fail("cp.async.bulk of ", copy.num_bytes, " bytes from address ", source, ": both must be multiples of 16");
    }
    take_destination(cta, copy.destination, copy.num_bytes, 16);
    live_mbarrier(cta, copy.barrier);
    cta.post(copy);
  }
  return Outcome::kDone;
}

// A box on its way. In shared memory its elements lie densely, dimension 0 innermost; with swizzling the address bits
// of the chunk of 16 bytes (4 and up) are xored with those of the 128-byte line (7 and up), of the absolute address:
// the tables of 5.5.7, whose pattern starts at a multiple of 256, 512 or 1024 bytes whatever the destination.
struct BoxCopy {
  Cta* cta;
  TensorMap map;
  std::array<std::int64_t, 5> at;  // of the box's first element in the tensor; the rest of at and map is 0 or 1
  std::uint64_t destination;
  std::uint64_t barrier;

  void operator()() const {
    std::uint64_t line = destination;
    const std::uint32_t line_bytes = map.taken(0) * map.element_bytes;
    std::array<unsigned, 5> index{};
    for (index[4] = 0; index[4] < map.taken(4); ++index[4]) {
      for (index[3] = 0; index[3] < map.taken(3); ++index[3]) {
        for (index[2] = 0; index[2] < map.taken(2); ++index[2]) {
          for (index[1] = 0; index[1] < map.taken(1); ++index[1], line += line_bytes)
            copy_line(index, line, line_bytes);
        }
      }
    }
    complete_transactions(*cta, barrier, map.box_bytes());
    cta->changed();
  }

 private:
  // The line of the box at `index` of dimensions 1 and up; out of the tensor's bounds it is zeros.
  void copy_line(const std::array<unsigned, 5>& index, std::uint64_t to, std::uint32_t line_bytes) const {
    std::array<std::byte, 256 * 8> bytes;
    std::memset(bytes.data(), 0, line_bytes);
    std::uint64_t source = map.address;
    bool inside = true;
    for (std::size_t d = 1; d < 5; ++d) {
      const std::int64_t coordinate = at[d] + static_cast<std::int64_t>(index[d]) * map.steps[d];
      inside = inside && 0 <= coordinate && coordinate < static_cast<std::int64_t>(map.sizes[d]);
      if (inside) source += static_cast<std::uint64_t>(coordinate) * map.strides[d - 1];
    }
    const std::int64_t first = std::max<std::int64_t>(at[0], 0);
    const std::int64_t last = std::min<std::int64_t>(at[0] + map.box[0], static_cast<std::int64_t>(map.sizes[0]));
    if (inside && first < last) {
      std::memcpy(&bytes[static_cast<std::size_t>((first - at[0]) * map.element_bytes)],
                  reinterpret_cast<const std::byte*>(source) + first * map.element_bytes,
                  static_cast<std::size_t>((last - first) * map.element_bytes));
    }
    const std::uint64_t lines = map.swizzle == TensorMap::Swizzle::kNone ? 0 : swizzle_span(map.swizzle) / 16 - 1;
    for (std::uint32_t chunk = 0; chunk < line_bytes; chunk += 16) {
      const std::uint64_t address = to + chunk;
      std::memcpy(cta->shared(address ^ (address >> 7 & lines) << 4, 16, 16), &bytes[chunk], 16);
    }
  }
};

BoxCopy box_copy(Cta& cta, std::uint64_t map_address, int dimensions) {
  BoxCopy copy{&cta, read_tensor_map(map_address), {}, 0, 0};
  TensorMap& map = copy.map;
  if (map.rank != dimensions) fail("tensor copy of ", dimensions, " dimensions by a map of ", int{map.rank});
  if (map.interleave != 0 || map.fill != 0) fail("tensor maps with interleaving or NaN fill are not implemented");
  const unsigned span = swizzle_span(map.swizzle);
  if (span != 0 && map.box[0] * map.element_bytes != span) {
    fail("a swizzled box whose lines are ", map.box[0] * map.element_bytes, " bytes long, not ", span,
         ": how it lies in shared memory is not documented");
  }
  for (auto d = static_cast<std::size_t>(dimensions); d < 5; ++d) map.sizes[d] = map.box[d] = map.steps[d] = 1;
  return copy;
}

Outcome copy_box(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  const auto& operands = instruction.operands;
  const auto& coordinates = operands[1].elements;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) == 0) continue;
    BoxCopy copy = box_copy(cta, warp.bits(operands[1], lane), static_cast<int>(coordinates.size()));
    for (std::size_t d = 0; d < coordinates.size(); ++d) copy.at[d] = warp.read<std::int32_t>(coordinates[d], lane);
    copy.destination = shared_address(cta, warp.bits(operands[0], lane), false);
    copy.barrier = shared_address(cta, warp.bits(operands[2], lane), false);
    take_destination(cta, copy.destination, copy.map.box_bytes(), kBoxAlignment);
    live_mbarrier(cta, copy.barrier);
    cta.post(copy);
  }
  return Outcome::kDone;
}

Outcome prefetch_map(const Instruction& instruction, Warp& warp, Mask active) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) != 0) read_tensor_map(warp.bits(instruction.operands[0], lane));
  }
  return Outcome::kDone;
}

// "cp.async.bulk.tensor.5d" -> 5; 0: none of 1d to 5d.
std::size_t named_dimensions(const Instruction& instruction) {
  constexpr std::array<const char*, 5> kNames = {"1d", "2d", "3d", "4d", "5d"};
  for (std::size_t d = 0; d < kNames.size(); ++d) {
    if (instruction.has(kNames[d])) return d + 1;
  }
  return 0;
}

}  // namespace

Handler bulk_copy_handler(const Instruction& instruction) {
  if (instruction.op == "prefetch") {
    if (instruction.has("param") || instruction.has("const")) refuse(instruction, "takes a generic address here");
    return prefetch_map;
  }
  require_known(instruction, {"async", "bulk", "tensor", "1d", "2d", "3d", "4d", "5d", "shared::cta", "shared::cluster",
                              "global", "tile", "mbarrier::complete_tx::bytes", "L2::cache_hint"});
  // Only loads that complete on an mbarrier; an optional cache policy behind the operands is a hint.
  const bool load = (instruction.has("shared::cluster") || instruction.has("shared::cta")) &&
                    instruction.has("global") && instruction.has("mbarrier::complete_tx::bytes");
  const bool tensor = instruction.has("tensor");
  const std::size_t operands = (tensor ? 3 : 4) + (instruction.has("L2::cache_hint") ? 1U : 0U);
  if (!load || instruction.operands.size() != operands) refuse(instruction, "not implemented");
  if (!tensor) return copy_bytes;
  const std::size_t dimensions = named_dimensions(instruction);
  if (dimensions == 0 || instruction.operands[1].elements.size() != dimensions) {
    refuse(instruction, "needs one coordinate for each dimension");
  }
  return copy_box;
}

}  // namespace ptx
