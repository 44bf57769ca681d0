#include "cudart/fatbin.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace cudart {
namespace {

/// A container as fatbinary writes it: a header of 16 bytes, entries with headers of 64.
class Container {
 public:
  Container() : bytes_(16) {}

  Container& add(std::uint16_t kind, std::string payload, std::uint32_t compressed_bytes = 0) {
    payload.resize((payload.size() + 8) / 8 * 8);  // ends with 0
    const std::size_t at = bytes_.size();
    bytes_.resize(at + 64 + payload.size());
    put<std::uint16_t>(at, kind);
    put<std::uint32_t>(at + 4, 64);
    put<std::uint64_t>(at + 8, payload.size());
    put<std::uint32_t>(at + 16, compressed_bytes);
    std::memcpy(bytes_.data() + at + 64, payload.data(), payload.size());
    return *this;
  }
  const void* finish() {
    put<std::uint32_t>(0, 0xBA55ED50);
    put<std::uint16_t>(4, 1);
    put<std::uint16_t>(6, 16);
    put<std::uint64_t>(8, bytes_.size() - 16);
    return bytes_.data();
  }

 private:
  template <typename T>
  void put(std::size_t at, T value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  std::vector<std::byte> bytes_;
};

constexpr std::uint16_t kPtx = 1, kCubin = 2;

TEST(Fatbin, PtxIsFoundBesideMachineCode) {
  Container container;
  container.add(kPtx, ".version 9.0\n.target sm_80\n")
      .add(kCubin,
           "\x7f"
           "ELF")
      .add(kPtx, ".target sm_90a, debug\n");
  const auto texts = ptx_of_fatbin(container.finish());
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0].text, ".version 9.0\n.target sm_80\n");
  EXPECT_EQ(texts[0].target, 80);
  EXPECT_FALSE(texts[0].specific);
  EXPECT_EQ(texts[1].target, 90);
  EXPECT_TRUE(texts[1].specific);
}

TEST(Fatbin, OtherContainersAndCompressedTextsAreRefused) {
  EXPECT_THROW(ptx_of_fatbin("something else, long enough"), std::runtime_error);
  Container container;
  container.add(kPtx, "....", 3);
  EXPECT_THROW(ptx_of_fatbin(container.finish()), std::runtime_error);
}

TEST(Fatbin, TheNewestTextThatTheDeviceMayRunIsChosen) {
  const std::vector<PtxText> texts{{80, false, "80"}, {90, true, "90a"}, {86, false, "86"}};
  EXPECT_EQ(choose(texts, 90)->text, "90a");
  EXPECT_EQ(choose(texts, 100)->text, "86");  // what is specific to 9.0 runs there only
  EXPECT_EQ(choose(texts, 80)->text, "80");
  EXPECT_EQ(choose(texts, 75), nullptr);
}

}  // namespace
}  // namespace cudart
