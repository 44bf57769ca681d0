#include "base/block_hash.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <random>
#include <set>
#include <vector>

namespace fastserve {
namespace {

std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// The definition in the header, word by word.
std::uint64_t reference_hash(std::vector<std::byte> bytes) {
  const auto step = [](std::uint64_t state, std::uint64_t word) {
    return std::rotl((state ^ word) * kHashMultiplier, 31);
  };
  if (bytes.empty()) return 0;
  std::uint64_t hash = bytes.size();
  bytes.resize((bytes.size() + 63) / 64 * 64);
  for (std::size_t segment = 0; segment < bytes.size(); segment += kHashSegmentBytes) {
    const std::size_t end = std::min(segment + kHashSegmentBytes, bytes.size());
    std::uint64_t folded = 0;
    for (std::size_t lane = 0; lane < 8; ++lane) {
      std::uint64_t state = (lane + 1) * kHashSeed;
      for (std::size_t at = segment + 8 * lane; at < end; at += 64) {
        std::uint64_t word;
        std::memcpy(&word, &bytes[at], 8);
        state = step(state, word);
      }
      folded = step(folded, state);
    }
    hash = step(hash, folded);
  }
  return hash ^ (hash >> 32);
}

TEST(BlockHash, FollowsItsDefinitionAtEverySize) {
  EXPECT_EQ(hash_block({}), 0u);
  for (const std::size_t size : {1, 7, 8, 63, 64, 65, 4095, 4096, 4097, 12288, 20001}) {
    const auto bytes = random_bytes(size, size);
    EXPECT_EQ(hash_block(bytes), reference_hash(bytes)) << size << " bytes";
  }
}

TEST(BlockHash, EveryFlippedBitChangesIt) {
  auto bytes = random_bytes(4096 + 72, 1);
  const std::uint64_t before = hash_block(bytes);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    ASSERT_NE(hash_block(bytes), before) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  }
}

TEST(BlockHash, NegatingTwoNumbersOfOneLaneChangesIt) {
  auto bytes = random_bytes(4096, 2);
  const std::uint64_t before = hash_block(bytes);
  for (std::size_t other = 64; other < bytes.size(); other += 64) {  // word 0 of each row: the same lane
    bytes[7] ^= std::byte{0x80};
    bytes[other + 7] ^= std::byte{0x80};
    ASSERT_NE(hash_block(bytes), before);
    bytes[7] ^= std::byte{0x80};
    bytes[other + 7] ^= std::byte{0x80};
  }
}

TEST(BlockHash, SwappedSegmentsAndLengthsOfZerosDiffer) {
  auto bytes = random_bytes(2 * kHashSegmentBytes, 3);
  const std::uint64_t before = hash_block(bytes);
  std::swap_ranges(bytes.begin(), bytes.begin() + kHashSegmentBytes, bytes.begin() + kHashSegmentBytes);
  EXPECT_NE(hash_block(bytes), before);

  std::set<std::uint64_t> hashes;
  for (std::size_t size = 0; size < 300; ++size) hashes.insert(hash_block(std::vector<std::byte>(size)));
  EXPECT_EQ(hashes.size(), 300u);
}

}  // namespace
}  // namespace fastserve
