#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

namespace ptx {

/// What the machine keeps in the 128 opaque bytes of a CUtensorMap of tiles.
struct TensorMap {
  static constexpr std::uint64_t kMagic = 0x70616d726f736e74;  // "tnsormap"
  enum class Swizzle : std::uint8_t { kNone, k32B, k64B, k128B };

  std::uint64_t magic = 0;
  std::uint64_t address = 0;               // of global memory
  std::array<std::uint64_t, 5> sizes{};    // elements; dimension 0 is the innermost
  std::array<std::uint64_t, 4> strides{};  // bytes, of dimensions 1 and up
  std::array<std::uint16_t, 5> box{};      // elements walked over
  std::array<std::uint8_t, 5> steps{};     // one of so many is taken
  std::uint8_t rank = 0;
  std::uint8_t element_bytes = 0;
  std::uint8_t interleave = 0;  // CUtensorMapInterleave
  Swizzle swizzle = Swizzle::kNone;
  std::uint8_t fill = 0;  // CUtensorMapFloatOOBfill

  /// Elements that one copy takes along a dimension.
  unsigned taken(int dimension) const {
    const auto d = static_cast<std::size_t>(dimension);
    return (box[d] + steps[d] - 1U) / steps[d];
  }
  /// Bytes that one copy writes to shared memory, elements out of bounds included.
  std::uint32_t box_bytes() const;
};
static_assert(sizeof(TensorMap) <= 128 && std::is_trivially_copyable_v<TensorMap>);

/// Bytes of the pattern's row: 32, 64 or 128; 0 without swizzling.
unsigned swizzle_span(TensorMap::Swizzle swizzle);

/// cuTensorMapEncodeTiled: takes its arguments (enums as integers) and returns its result: 0 (CUDA_SUCCESS), or
/// 1 (CUDA_ERROR_INVALID_VALUE) for everything that the documentation of the driver's interface rules out on sm_90;
/// then `map` is untouched.
int encode_tensor_map(void* map, int data_type, std::uint32_t rank, void* address, const std::uint64_t* sizes,
                      const std::uint64_t* strides, const std::uint32_t* box, const std::uint32_t* steps,
                      int interleave, int swizzle, int promotion, int fill);

/// The map that lies at a generic address. Error when there is none.
TensorMap read_tensor_map(std::uint64_t address);

}  // namespace ptx
