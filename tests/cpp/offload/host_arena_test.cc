#include "offload/host/host_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "offload/host/host_memory.h"

namespace fastserve::offload {
namespace {

TEST(HostArena, IsZeroedAlignedAndWritableToItsLastByte) {
  for (const std::int64_t block_bytes : {1, 4096, 100'003, 3 << 20}) {
    HostArena arena(7, block_bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena.data()) % (2 << 20), 0u);
    EXPECT_EQ(arena.num_bytes(), 7 * block_bytes);
    const auto is_zero = [](std::byte byte) { return byte == std::byte{}; };
    EXPECT_TRUE(std::all_of(arena.data(), arena.data() + arena.num_bytes(), is_zero));
    std::ranges::fill(arena.block(6), std::byte{1});
    EXPECT_EQ(arena.block(6).data() + block_bytes, arena.data() + arena.num_bytes());
    EXPECT_EQ(arena.block(6).size(), static_cast<std::size_t>(block_bytes));
  }
}

TEST(HostArena, ManyThreadsTouchLargeArenas) {
  HostArena arena(5, 20 << 20, {.num_threads = 3});
  EXPECT_EQ(arena.block(4).back(), std::byte{});
  EXPECT_EQ(arena.view().describe(), "uint8[5, 20971520] on cpu");
}

TEST(HostArena, SizesThatMakeNoSenseAreRefused) {
  EXPECT_THROW(HostArena(0, 1), InvalidArgumentError);
  EXPECT_THROW(HostArena(1, 0), InvalidArgumentError);
  EXPECT_THROW(HostArena(std::int64_t{1} << 40, std::int64_t{1} << 40), InvalidArgumentError);
  EXPECT_THROW(HostArena(1, 1, {.num_threads = -1}), InvalidArgumentError);
}

TEST(HostArena, MoreThanTheMachineHasIsRefusedWithBothSizesAndARemedy) {
  try {
    HostArena arena(1 << 20, std::int64_t{1} << 30);  // 1 PiB
    FAIL() << "a petabyte was granted";
  } catch (const DeviceError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("asks for 1.04858e+06 GiB"), std::string::npos) << message;
    EXPECT_NE(message.find("are available"), std::string::npos) << message;
    EXPECT_NE(message.find("ask for fewer host blocks"), std::string::npos) << message;
  }
}

class CgroupMemory : public testing::Test {
 protected:
  CgroupMemory() { std::filesystem::create_directories(directory); }
  ~CgroupMemory() override { std::filesystem::remove_all(directory); }
  void write(const char* file, const char* text) const { std::ofstream(directory / file) << text; }

  /// Of this test alone: the tests run in parallel.
  const std::filesystem::path directory =
      std::filesystem::path(testing::TempDir()) /
      (std::string("fastserve_cgroup_memory_") + testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(CgroupMemory, PageCacheCountsAsAvailable) {
  write("memory.max", "1000000\n");
  write("memory.stat", "anon 300000\nfile 650000\nshmem 50000\nshmem_thp 1\n");
  EXPECT_EQ(available_cgroup_bytes(directory), 650000);
}

TEST_F(CgroupMemory, NoLimitIsNotALimitOfZero) {
  EXPECT_EQ(available_cgroup_bytes(directory), std::numeric_limits<std::int64_t>::max());
  write("memory.max", "max\n");
  EXPECT_EQ(available_cgroup_bytes(directory), std::numeric_limits<std::int64_t>::max());
}

TEST_F(CgroupMemory, TheTightestLimitOfAllAncestorsCounts) {
  std::filesystem::create_directories(directory / "pod" / "container");
  EXPECT_EQ(available_below(directory, "/pod/container"), std::numeric_limits<std::int64_t>::max());
  write("pod/memory.max", "5000\n");
  write("pod/memory.stat", "anon 1000\n");
  write("pod/container/memory.max", "9000\n");
  EXPECT_EQ(available_below(directory, "/pod/container"), 4000);
  EXPECT_EQ(available_below(directory, "/"), std::numeric_limits<std::int64_t>::max());
}

TEST(HostMemory, TheMachineHasSome) {
  EXPECT_GT(available_host_bytes(), 1 << 20);
  EXPECT_LT(available_host_bytes(), std::numeric_limits<std::int64_t>::max());
}

}  // namespace
}  // namespace fastserve::offload
