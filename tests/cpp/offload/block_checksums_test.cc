#include "offload/copy/block_checksums.h"

#include <gtest/gtest.h>

#include "arenas.h"
#include "internals/fault_injector.h"

namespace fastserve::offload {
namespace {

class KvCanaryTest : public testing::Test {
 protected:
  ~KvCanaryTest() override { engine.check_integrity(); }

  Completion run(const Transfer& transfer) { return *engine.wait(engine.submit(transfer), kForeverS); }

  Arenas arenas{8, 8, 5000};
  CpuOffloadEngine engine{arenas.device, arenas.host, {.verify_checksums = true}};
};

TEST_F(KvCanaryTest, GoodCopiesAreVerifiedBothWays) {
  EXPECT_TRUE(run(offload_of({0, 1, 2}, {3, 4, 5})).ok);
  EXPECT_TRUE(run(upload_of({5, 3}, {6, 7})).ok);
  EXPECT_EQ(engine.num_verified(), 5);
  EXPECT_EQ(engine.num_mismatches(), 0);
}

TEST_F(KvCanaryTest, AFlippedBitOfTheHostCopyTurnsTheUploadRed) {
  run(offload_of({0, 1, 2}, {3, 4, 5}));
  arenas.host->block(4)[4999] ^= std::byte{1};
  const Completion completion = run(upload_of({3, 4, 5}, {5, 6, 7}));
  EXPECT_FALSE(completion.ok);
  EXPECT_EQ(completion.error, "checksum mismatch: device block 6, host block 4");
  EXPECT_EQ(engine.num_mismatches(), 1);
  EXPECT_TRUE(run(upload_of({3, 5}, {0, 1})).ok);  // the others are sound
}

TEST_F(KvCanaryTest, ManyMismatchesAreCounted) {
  run(offload_of({0, 1, 2}, {3, 4, 5}));
  for (const std::int32_t block : {3, 4, 5}) arenas.host->block(block)[0] ^= std::byte{0x80};
  EXPECT_EQ(run(upload_of({3, 4, 5}, {5, 6, 7})).error,
            "checksum mismatch: device block 5, host block 3 (and 2 more blocks)");
}

TEST_F(KvCanaryTest, AHostBlockThatNoOffloadFilledIsNotTrusted) {
  EXPECT_EQ(run(upload_of({2}, {0})).error,
            "checksum unknown: host block 2 was not filled by an offload that ended ok");
  run(offload_of({1}, {2}));
  FaultInjector::install(engine)->inject_failure(Direction::kDeviceToHost, 1);
  run(offload_of({3}, {2}));
  EXPECT_FALSE(run(upload_of({2}, {0})).ok);
}

TEST(BlockChecksums, ASourceWrittenDuringItsOffloadIsNoticed) {
  BlockChecksums checksums(4);
  EXPECT_EQ(checksums.offload_ended(1, 0xA, 2, 0xB), "checksum mismatch: device block 1, host block 2");
  EXPECT_EQ(checksums.num_mismatches(), 1);
  EXPECT_NE(checksums.upload_ended(1, 0xB, 2), "");  // what the host holds is not remembered as good
  EXPECT_EQ(checksums.num_verified(), 1);
}

}  // namespace
}  // namespace fastserve::offload
