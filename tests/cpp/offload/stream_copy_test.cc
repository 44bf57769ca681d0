#include "offload/copy/stream_copy.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

namespace fastserve::offload {
namespace {

TEST(StreamCopy, CopiesEverySizeAndAlignmentAndNothingBeside) {
  constexpr std::size_t kMostBytes = 200'000;
  constexpr std::byte kUntouched{0xAB};
  std::mt19937_64 random(3);
  std::vector<std::byte> source(kMostBytes + 64);
  for (auto& byte : source) byte = static_cast<std::byte>(random());
  for (const std::size_t size : {0, 1, 4096, 65535, 65536, 65537, 65536 + 63, 131072 + 17, 200'000}) {
    for (const std::size_t source_shift : {0, 1, 8}) {
      for (const std::size_t target_shift : {0, 1, 15, 16}) {
        std::vector<std::byte> target(size + 64, kUntouched);
        std::vector<std::byte> expected = target;
        std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(source_shift), size,
                    expected.begin() + static_cast<std::ptrdiff_t>(target_shift));
        stream_copy(target.data() + target_shift, source.data() + source_shift, size);
        ASSERT_EQ(target, expected) << size << " bytes, shifts " << source_shift << " and " << target_shift;
      }
    }
  }
}

}  // namespace
}  // namespace fastserve::offload
