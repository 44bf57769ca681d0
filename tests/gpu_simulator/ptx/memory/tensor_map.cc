#include "ptx/memory/tensor_map.h"

#include <cstring>

#include "ptx/error.h"

namespace ptx {
namespace {

constexpr int kSuccess = 0;
constexpr int kInvalidValue = 1;

// In the order of CUtensorMapDataType. The packed types behind them need sm_100.
constexpr std::array<std::uint8_t, 13> kElementBytes = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
constexpr int kFirstFloat = 6;

constexpr int kInterleave32B = 2;
constexpr int kSwizzle32B = 1;
constexpr int kSwizzle128B = 3;  // those behind it (chunks of more than 16 bytes) need sm_100

constexpr std::uint64_t kMaxSize = 1ULL << 32;
constexpr std::uint64_t kMaxStride = 1ULL << 40;

bool in(int value, int first, int last) { return first <= value && value <= last; }

}  // namespace

unsigned swizzle_span(TensorMap::Swizzle swizzle) {
  return swizzle == TensorMap::Swizzle::kNone ? 0 : 16U << static_cast<unsigned>(swizzle);
}

std::uint32_t TensorMap::box_bytes() const {
  std::uint32_t bytes = element_bytes;
  for (int d = 0; d < rank; ++d) bytes *= taken(d);
  return bytes;
}

// The rules are those of cuTensorMapEncodeTiled in cuda.h of CUDA 13.0, one by one. That the documentation computes
// each stride from the one before it is not a rule: the driver takes dimensions in any order of their strides.
int encode_tensor_map(void* map, int data_type, std::uint32_t rank, void* address, const std::uint64_t* sizes,
                      const std::uint64_t* strides, const std::uint32_t* box, const std::uint32_t* steps,
                      int interleave, int swizzle, int promotion, int fill) {
  const bool known = in(data_type, 0, static_cast<int>(kElementBytes.size()) - 1) &&
                     in(interleave, 0, kInterleave32B) && in(swizzle, 0, kSwizzle128B) && in(promotion, 0, 3) &&
                     in(fill, 0, 1);
  if (!known || rank < 1 || rank > 5 || (interleave != 0 && rank < 3)) return kInvalidValue;
  if (map == nullptr || reinterpret_cast<std::uint64_t>(map) % 64 != 0) return kInvalidValue;
  if (sizes == nullptr || box == nullptr || steps == nullptr || (rank > 1 && strides == nullptr)) return kInvalidValue;

  const std::uint64_t alignment = interleave == kInterleave32B ? 32 : 16;
  if (address == nullptr || reinterpret_cast<std::uint64_t>(address) % alignment != 0) return kInvalidValue;
  if (interleave == kInterleave32B && swizzle != kSwizzle32B) return kInvalidValue;
  if (fill != 0 && data_type < kFirstFloat) return kInvalidValue;

  TensorMap made;
  made.magic = TensorMap::kMagic;
  made.address = reinterpret_cast<std::uint64_t>(address);
  made.rank = static_cast<std::uint8_t>(rank);
  made.element_bytes = kElementBytes[static_cast<std::size_t>(data_type)];
  made.interleave = static_cast<std::uint8_t>(interleave);
  made.swizzle = static_cast<TensorMap::Swizzle>(swizzle);
  made.fill = static_cast<std::uint8_t>(fill);
  for (std::size_t d = 0; d < rank; ++d) {
    if (sizes[d] == 0 || sizes[d] > kMaxSize) return kInvalidValue;
    if (box[d] == 0 || box[d] > 256) return kInvalidValue;
    if (steps[d] == 0 || steps[d] > 8) return kInvalidValue;
    made.sizes[d] = sizes[d];
    made.box[d] = static_cast<std::uint16_t>(box[d]);
    made.steps[d] = static_cast<std::uint8_t>(d == 0 && interleave == 0 ? 1 : steps[d]);  // the first is ignored
    if (d == 0) continue;
    if (strides[d - 1] % alignment != 0 || strides[d - 1] >= kMaxStride) return kInvalidValue;
    made.strides[d - 1] = strides[d - 1];
  }
  if (interleave == 0) {
    const unsigned inner_bytes = box[0] * made.element_bytes;
    const unsigned span = swizzle_span(made.swizzle);
    if (inner_bytes % 16 != 0 || (span != 0 && inner_bytes > span)) return kInvalidValue;
  }
  std::memset(map, 0, 128);
  std::memcpy(map, &made, sizeof(made));
  return kSuccess;
}

TensorMap read_tensor_map(std::uint64_t address) {
  if (address % 64 != 0) fail("a tensor map at ", address, ": its address must be a multiple of 64");
  TensorMap map;
  std::memcpy(&map, reinterpret_cast<const void*>(address), sizeof(map));
  if (map.magic != TensorMap::kMagic) fail("no tensor map lies at address ", address);
  return map;
}

}  // namespace ptx
