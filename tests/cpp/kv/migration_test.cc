#include "kv/migration.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "kv_fixture.h"

namespace fastserve::kv {
namespace {

TEST(Migration, AnOffloadHoldsBothSidesUntilItIsComplete) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(6));
  ASSERT_TRUE(pools.kv.try_reserve(kA, 12));
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 2);
  const auto transfer = pools.kv.try_offload(kA);
  ASSERT_TRUE(transfer);
  EXPECT_EQ(transfer->seq, kA);
  EXPECT_EQ(transfer->kind, TransferKind::kOffload);
  EXPECT_EQ(transfer->source, (std::vector{BlockId{0}, BlockId{1}}));
  EXPECT_EQ(transfer->target.size(), 2u);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kOffloading);
  EXPECT_EQ(pools.blocks(kA).size(), 3u);
  EXPECT_EQ(pools.device(), (Counts{1, 1, 2, 0}));  // the reserved third block is not copied
  EXPECT_EQ(pools.host(), (Counts{2, 0, 2, 0}));
  pools.kv.complete(transfer->id, true);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
  EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 2}));
  EXPECT_EQ(pools.host(), (Counts{2, 2, 0, 0}));
  EXPECT_EQ(pools.kv.num_computed(kA), 6);
  EXPECT_EQ(pools.kv.num_device_blocks(kA), 0);
  EXPECT_THROW(pools.kv.complete(transfer->id, true), InvalidArgumentError);
}

TEST(Migration, WhatAnOffloadLeftOnTheDeviceIsTakenBackWithoutACopy) {
  for (const bool caching : {false, true}) {
    Pools pools(4, 4, caching);
    pools.run(kA, sequence_of(6));
    const std::vector<BlockId> before = pools.blocks(kA);
    pools.offload(kA);
    EXPECT_EQ(pools.kv.num_blocks_to_upload(kA), 2);  // it takes them from the free ones all the same
    const auto transfer = pools.kv.try_upload(kA);
    ASSERT_TRUE(transfer);
    EXPECT_TRUE(transfer->source.empty());
    EXPECT_EQ(pools.kv.residency(kA), Residency::kDevice);
    EXPECT_EQ(pools.blocks(kA), before);
    EXPECT_THROW(pools.kv.complete(transfer->id, true), InvalidArgumentError);
    EXPECT_EQ(pools.host(), (Counts{4, 0, 0, 2}));  // mirrors, now
  }
}

TEST(Migration, AnUploadKeepsTheHostCopiesAsMirrorsUntilTheTailIsWritten) {
  Pools pools(4, 4, /*caching=*/false);
  pools.run(kA, sequence_of(6));
  pools.offload(kA);
  pools.run(kB, sequence_of(16, 100));  // takes the whole device
  EXPECT_EQ(pools.kv.try_upload(kA), std::nullopt);
  pools.kv.end(kB);
  const auto transfer = pools.kv.try_upload(kA);
  ASSERT_TRUE(transfer);
  EXPECT_EQ(transfer->kind, TransferKind::kUpload);
  EXPECT_EQ(transfer->source.size(), 2u);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kUploading);
  EXPECT_EQ(pools.device(), (Counts{2, 0, 2, 0}));
  EXPECT_THROW(pools.kv.device_blocks(kA), InvalidArgumentError);
  pools.kv.complete(transfer->id, true);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 0);
  pools.offload(kA);  // at once: nothing to copy
  pools.upload(kA);
  pools.kv.commit_computed(kA, sequence_of(7), 6);  // nothing new is written
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 0);
  pools.kv.commit_computed(kA, sequence_of(7), 7);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 1);
  EXPECT_EQ(pools.host(), (Counts{4, 0, 0, 1}));
}

TEST(Migration, AMirroredSequenceOffloadsOnlyItsTail) {
  Pools pools(6, 6);
  pools.run(kA, sequence_of(14));
  const auto mirror = pools.kv.try_mirror(kA, 2);
  ASSERT_TRUE(mirror);
  EXPECT_EQ(mirror->kind, TransferKind::kMirror);
  EXPECT_EQ(mirror->source, (std::vector{BlockId{0}, BlockId{1}}));
  EXPECT_EQ(pools.kv.residency(kA), Residency::kDevice);
  const auto second = pools.kv.try_mirror(kA, 8);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->source, std::vector{BlockId{2}});  // full, and not yet under way
  EXPECT_EQ(pools.kv.try_mirror(kA, 8), std::nullopt);
  EXPECT_EQ(pools.host(), (Counts{3, 0, 3, 0}));
  pools.kv.complete(second->id, true);
  pools.kv.complete(mirror->id, true);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 1);
  EXPECT_EQ(pools.host(), (Counts{6, 0, 0, 3}));
  const auto offload = pools.kv.try_offload(kA);
  ASSERT_TRUE(offload);
  EXPECT_EQ(offload->source, std::vector{BlockId{3}});
  pools.kv.complete(offload->id, true);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
  EXPECT_EQ(pools.host(), (Counts{2, 4, 0, 0}));
}

TEST(Migration, AFullyMirroredSequenceLeavesAtOnce) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(8));
  pools.kv.complete(pools.kv.try_mirror(kA, 8)->id, true);
  const auto transfer = pools.kv.try_offload(kA);
  ASSERT_TRUE(transfer);
  EXPECT_TRUE(transfer->source.empty());
  EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
  EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 2}));
}

TEST(Migration, AnOffloadWaitsForTheMirrorUnderWay) {
  for (const bool mirror_first : {false, true}) {
    Pools pools(4, 4);
    pools.run(kA, sequence_of(10));
    const auto mirror = pools.kv.try_mirror(kA, 8);
    const auto offload = pools.kv.try_offload(kA);
    ASSERT_TRUE(mirror && offload);
    EXPECT_EQ(offload->source, std::vector{BlockId{2}});
    pools.kv.complete(mirror_first ? mirror->id : offload->id, true);
    EXPECT_EQ(pools.kv.residency(kA), Residency::kOffloading);
    EXPECT_EQ(pools.device().in_transfer, mirror_first ? 1 : 2);
    pools.kv.complete(mirror_first ? offload->id : mirror->id, true);
    EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
    EXPECT_EQ(pools.host(), (Counts{1, 3, 0, 0}));
    EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 3}));
  }
}

TEST(Migration, WithAllCopiesUnderWayTheTransferIsEmptyAndTheOffloadWaits) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(8));
  const auto mirror = pools.kv.try_mirror(kA, 8);
  const auto offload = pools.kv.try_offload(kA);
  ASSERT_TRUE(mirror && offload);
  EXPECT_TRUE(offload->source.empty());
  EXPECT_EQ(pools.kv.residency(kA), Residency::kOffloading);
  pools.kv.complete(mirror->id, true);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
  pools.device();
}

TEST(Migration, AFailedMirrorKeepsTheSequenceThatWaitsForItOnTheDevice) {
  for (const bool mirror_first : {false, true}) {
    Pools pools(4, 4);
    pools.run(kA, sequence_of(10));
    const auto mirror = pools.kv.try_mirror(kA, 8);
    const auto offload = pools.kv.try_offload(kA);
    if (mirror_first) pools.kv.complete(mirror->id, false);
    pools.kv.complete(offload->id, true);
    EXPECT_EQ(pools.kv.residency(kA), mirror_first ? Residency::kDevice : Residency::kOffloading);
    if (!mirror_first) pools.kv.complete(mirror->id, false);
    EXPECT_EQ(pools.kv.residency(kA), Residency::kDevice);
    EXPECT_EQ(pools.kv.num_computed(kA), 10);
    EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 2);  // the tail was copied
    EXPECT_EQ(pools.host(), (Counts{4, 0, 0, 1}));
  }
}

TEST(Migration, AFailedOffloadLeavesEverythingOnTheDevice) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(10));
  pools.kv.complete(pools.kv.try_offload(kA)->id, false);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kDevice);
  EXPECT_EQ(pools.kv.num_computed(kA), 10);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 3);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA, 2), 2);  // who has enough counts no further
  EXPECT_EQ(pools.device(), (Counts{1, 3, 0, 0}));
  EXPECT_EQ(pools.host(), (Counts{4, 0, 0, 0}));
  pools.offload(kA);
}

TEST(Migration, AFailedUploadLeavesEverythingOnTheHost) {
  Pools pools(3, 4, /*caching=*/false);
  pools.run(kA, sequence_of(10));
  pools.offload(kA);
  pools.run(kB, sequence_of(5, 100));
  pools.kv.end(kB);  // overwrote two of A's three blocks
  const auto upload = pools.kv.try_upload(kA);
  ASSERT_TRUE(upload);
  EXPECT_EQ(upload->source.size(), 2u);
  pools.kv.complete(upload->id, false);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
  EXPECT_EQ(pools.kv.num_computed(kA), 10);
  EXPECT_EQ(pools.host(), (Counts{1, 3, 0, 0}));
  EXPECT_EQ(pools.device(), (Counts{3, 0, 0, 1}));
  pools.upload(kA);
}

TEST(Migration, AFailedMirrorLeavesNoCopies) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(10));
  pools.kv.complete(pools.kv.try_mirror(kA, 8)->id, false);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 3);
  EXPECT_EQ(pools.host(), (Counts{4, 0, 0, 0}));
}

TEST(Migration, BlocksInTransferOutliveTheirSequence) {
  for (const bool ok : {false, true}) {
    for (const bool caching : {false, true}) {
      for (const bool drop : {false, true}) {
        Pools pools(4, 4, caching);
        const auto give_up = [&] { drop ? pools.kv.drop(kA) : pools.kv.end(kA); };
        pools.run(kA, sequence_of(10));
        const auto offload = pools.kv.try_offload(kA);
        give_up();
        EXPECT_EQ(pools.device(), (Counts{1, 0, 3, 0}));
        EXPECT_EQ(pools.host(), (Counts{1, 0, 3, 0}));
        pools.kv.complete(offload->id, ok);
        EXPECT_EQ(pools.device(), (Counts{4, 0, 0, caching ? 2 : 0}));
        EXPECT_EQ(pools.host(), (Counts{4, 0, 0, caching && ok ? 2 : 0}));
        if (drop) pools.kv.end(kA);

        pools.kv.clear_prefix_cache();
        pools.run(kA, sequence_of(10));
        pools.offload(kA);
        pools.run(kB, sequence_of(16, 100));
        pools.kv.end(kB);
        pools.kv.clear_prefix_cache();
        const auto upload = pools.kv.try_upload(kA);
        ASSERT_EQ(upload->source.size(), 3u);
        give_up();
        EXPECT_EQ(pools.device(), (Counts{1, 0, 3, 0}));
        EXPECT_EQ(pools.host(), (Counts{1, 0, 3, 0}));
        pools.kv.complete(upload->id, ok);
        EXPECT_EQ(pools.device(), (Counts{4, 0, 0, caching && ok ? 2 : 0}));
        EXPECT_EQ(pools.host(), (Counts{4, 0, 0, caching ? 2 : 0}));
      }
    }
  }
}

TEST(Migration, ALateTransferDoesNotTouchTheNextOwnerOfTheId) {
  for (const bool ok : {false, true}) {
    Pools pools(8, 8);
    pools.run(kA, sequence_of(6));
    const auto old = pools.kv.try_offload(kA);
    pools.kv.end(kA);
    pools.run(kA, sequence_of(6, 100));
    const auto fresh = pools.kv.try_offload(kA);
    pools.kv.complete(old->id, ok);
    EXPECT_EQ(pools.kv.residency(kA), Residency::kOffloading);
    pools.kv.complete(fresh->id, true);
    EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
    EXPECT_EQ(pools.kv.num_computed(kA), 6);
    pools.device();
  }
}

TEST(Migration, ASharedBlockIsCopiedOnceForTwoOffloads) {
  for (const bool first_ends : {false, true}) {
    Pools pools(8, 8);
    pools.run(kA, sequence_of(10));
    EXPECT_EQ(pools.run(kB, sequence_of(9)), 8);
    const auto a = pools.kv.try_offload(kA);
    const auto b = pools.kv.try_offload(kB);
    ASSERT_TRUE(a && b);
    EXPECT_EQ(a->source.size(), 3u);
    EXPECT_EQ(b->source.size(), 1u);
    if (first_ends) pools.kv.end(kA);
    pools.kv.complete(b->id, true);
    EXPECT_EQ(pools.kv.residency(kB), Residency::kOffloading);
    pools.kv.complete(a->id, true);
    EXPECT_EQ(pools.kv.residency(kB), Residency::kHost);
    EXPECT_EQ(pools.host(), (Counts{first_ends ? 5 : 4, first_ends ? 3 : 4, 0, 0}));
    pools.upload(kB);
    EXPECT_EQ(pools.kv.num_computed(kB), 9);
  }
}

TEST(Migration, SequencesThatUploadASharedBlockAtOnceEndUpSharingIt) {
  Pools pools(8, 8);
  pools.run(kA, sequence_of(10));
  pools.run(kB, sequence_of(9));
  pools.offload(kA);
  pools.offload(kB);
  pools.run(kC, sequence_of(32, 100));  // overwrites what they left
  pools.kv.end(kC);
  const auto a = pools.kv.try_upload(kA);
  const auto b = pools.kv.try_upload(kB);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->source.size(), 3u);
  EXPECT_EQ(b->source.size(), 3u);
  EXPECT_EQ(pools.host(), (Counts{4, 0, 4, 0}));
  pools.kv.complete(b->id, true);
  pools.kv.complete(a->id, true);
  EXPECT_EQ(pools.device(), (Counts{4, 4, 0, 2}));
  EXPECT_EQ(pools.blocks(kA).front(), pools.blocks(kB).front());
  pools.kv.end(kA);
  pools.kv.end(kB);
  pools.device();
}

TEST(Migration, APrefixThatIsOnTheHostOnlyIsAdoptedThere) {
  Pools pools(4, 8);
  pools.run(kA, sequence_of(10));
  pools.offload(kA);
  pools.run(kB, sequence_of(16, 100));
  pools.kv.end(kB);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(12), 0), 8);
  EXPECT_EQ(pools.kv.begin(kC, sequence_of(12), 0), 8);
  EXPECT_EQ(pools.kv.residency(kC), Residency::kHost);
  EXPECT_EQ(pools.kv.num_blocks_to_upload(kC), 2);
  EXPECT_EQ(pools.kv.num_computed(kC), 8);
  pools.kv.end(kA);
  EXPECT_EQ(pools.host(), (Counts{6, 2, 0, 0}));
  EXPECT_THROW(pools.kv.try_reserve(kC, 12), InvalidArgumentError);
  pools.upload(kC);
  ASSERT_TRUE(pools.kv.try_reserve(kC, 12));
  pools.kv.commit_computed(kC, sequence_of(12), 12);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(13), 0), 12);
  EXPECT_EQ(pools.device(), (Counts{1, 3, 0, 1}));
}

TEST(Migration, APrefixSpreadOverBothTiersIsAdoptedWhereItIs) {
  Pools pools(4, 8);
  pools.run(kA, sequence_of(9));
  const auto mirror = pools.kv.try_mirror(kA, 8);
  pools.kv.complete(mirror->id, true);
  pools.kv.end(kA);
  pools.kv.begin(kB, sequence_of(12, 100), 0);
  ASSERT_TRUE(pools.kv.try_reserve(kB, 12));  // evicts block 1 from the device
  ASSERT_TRUE(pools.kv.begin(kC, sequence_of(9), 0) == 8);
  EXPECT_EQ(pools.kv.residency(kC), Residency::kHost);
  EXPECT_EQ(pools.host(), (Counts{6, 2, 0, 0}));
  EXPECT_EQ(pools.kv.num_device_blocks(kC), 0);  // block 0 is on the host as well
  EXPECT_EQ(pools.kv.try_upload(kC), std::nullopt);
  pools.kv.end(kB);
  const auto upload = pools.kv.try_upload(kC);
  ASSERT_TRUE(upload);
  EXPECT_EQ(upload->source.size(), 1u);
  pools.kv.complete(upload->id, true);
  EXPECT_EQ(pools.kv.residency(kC), Residency::kDevice);
}

TEST(Migration, APrefixBlockWithoutAHostCopyStaysHeldOnTheDevice) {
  for (const bool ok : {false, true}) {
    Pools pools(4, 2);
    pools.run(kA, sequence_of(9));
    for (int block = 0; block < 2; ++block) pools.kv.complete(pools.kv.try_mirror(kA, 1)->id, true);
    pools.kv.end(kA);
    pools.run(kB, sequence_of(4, 50));
    pools.offload(kB);  // takes the host copy of block 0, the older one
    pools.kv.begin(kC, sequence_of(8, 100), 0);
    ASSERT_TRUE(pools.kv.try_reserve(kC, 8));  // takes block 1 from the device
    EXPECT_EQ(pools.kv.begin(kA, sequence_of(9), 0), 8);
    EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
    EXPECT_EQ(pools.kv.num_device_blocks(kA), 1);
    EXPECT_EQ(pools.kv.num_blocks_to_upload(kA), 1);
    EXPECT_EQ(pools.host(), (Counts{0, 2, 0, 0}));
    const auto upload = pools.kv.try_upload(kA);
    ASSERT_TRUE(upload);
    EXPECT_EQ(upload->source.size(), 1u);
    EXPECT_EQ(pools.kv.num_device_blocks(kA), 2);
    pools.kv.complete(upload->id, ok);
    EXPECT_EQ(pools.kv.residency(kA), ok ? Residency::kDevice : Residency::kHost);
    EXPECT_EQ(pools.kv.num_device_blocks(kA), ok ? 2 : 1);
    EXPECT_EQ(pools.device(), (Counts{ok ? 0 : 1, ok ? 4 : 3, 0, 0}));
    pools.kv.end(kA);
    EXPECT_EQ(pools.host(), (Counts{1, 1, 0, 1}));
  }
}

TEST(Migration, APrefixWhoseUploadIsUnderWayIsAdoptedOnTheHost) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(9));
  pools.offload(kA);
  pools.run(kB, sequence_of(16, 100));
  pools.kv.end(kB);
  const auto upload = pools.kv.try_upload(kA);
  ASSERT_TRUE(upload);
  EXPECT_EQ(pools.kv.begin(kC, sequence_of(9), 0), 8);
  EXPECT_EQ(pools.kv.residency(kC), Residency::kHost);
  pools.kv.complete(upload->id, true);
  const auto adopted = pools.kv.try_upload(kC);
  EXPECT_TRUE(adopted->source.empty());
  EXPECT_EQ(pools.kv.residency(kC), Residency::kDevice);
  EXPECT_EQ(pools.blocks(kC).front(), pools.blocks(kA).front());
  pools.device();
}

TEST(Migration, APrefixIsReadableOnTheDeviceWhileItIsOffloaded) {
  Pools pools(8, 4);
  pools.run(kA, sequence_of(9));
  const auto offload = pools.kv.try_offload(kA);
  EXPECT_EQ(pools.kv.begin(kB, sequence_of(9), 0), 8);
  EXPECT_EQ(pools.kv.residency(kB), Residency::kDevice);
  pools.kv.complete(offload->id, true);
  EXPECT_EQ(pools.device(), (Counts{6, 2, 0, 1}));
}

TEST(Migration, MirrorsMakeRoomForAnOffload) {
  Pools pools(8, 2, /*caching=*/false);
  pools.run(kA, sequence_of(8));
  pools.kv.complete(pools.kv.try_mirror(kA, 8)->id, true);
  pools.run(kB, sequence_of(7, 100));
  EXPECT_EQ(pools.kv.num_free(Tier::kHost), 2);
  pools.offload(kB);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 2);
  EXPECT_EQ(pools.kv.try_offload(kA), std::nullopt);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kDevice);
  EXPECT_EQ(pools.host(), (Counts{0, 2, 0, 0}));
}

TEST(Migration, OwnMirrorsAreNotEvictedByTheOffloadThatNeedsThem) {
  Pools pools(8, 2, /*caching=*/false);
  pools.run(kA, sequence_of(12));
  pools.kv.complete(pools.kv.try_mirror(kA, 2)->id, true);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 1);
  EXPECT_EQ(pools.kv.num_free(Tier::kHost), 2);  // both are A's mirrors
  EXPECT_EQ(pools.kv.try_offload(kA), std::nullopt);
  EXPECT_EQ(pools.host(), (Counts{2, 0, 0, 2}));
}

TEST(Migration, AMirrorTakesNoSpaceFromAnotherMirrorInUseButFromStalePrefixes) {
  Pools pools(8, 2);
  pools.run(kA, sequence_of(8));
  pools.kv.complete(pools.kv.try_mirror(kA, 8)->id, true);
  pools.run(kB, sequence_of(8, 100));
  EXPECT_EQ(pools.kv.try_mirror(kB, 8), std::nullopt);
  pools.kv.end(kA);
  const auto mirror = pools.kv.try_mirror(kB, 8);
  ASSERT_TRUE(mirror);
  EXPECT_EQ(mirror->source.size(), 2u);
  pools.kv.complete(mirror->id, true);
  EXPECT_EQ(pools.host(), (Counts{2, 0, 0, 2}));
}

TEST(Migration, AMirrorFindsTheStalePrefixBehindMirrorsInUse) {
  Pools pools(8, 3);
  pools.run(kA, sequence_of(8));
  pools.kv.complete(pools.kv.try_mirror(kA, 8)->id, true);
  pools.run(kB, sequence_of(4, 100));
  pools.kv.complete(pools.kv.try_mirror(kB, 8)->id, true);
  pools.kv.end(kB);  // its mirror is the youngest
  pools.run(kC, sequence_of(8, 200));
  const auto mirror = pools.kv.try_mirror(kC, 8);
  ASSERT_TRUE(mirror);
  EXPECT_EQ(mirror->source.size(), 1u);
  EXPECT_EQ(pools.kv.num_blocks_to_offload(kA), 0);
  pools.kv.complete(mirror->id, true);
  EXPECT_EQ(pools.host(), (Counts{3, 0, 0, 3}));
}

TEST(Migration, WithoutHostBlocksNothingIsParked) {
  Pools pools(4, 0);
  pools.run(kA, sequence_of(6));
  EXPECT_EQ(pools.kv.try_offload(kA), std::nullopt);
  EXPECT_EQ(pools.kv.try_mirror(kA, 4), std::nullopt);
  EXPECT_EQ(pools.host(), (Counts{0, 0, 0, 0}));
}

TEST(Migration, ASequenceWithNothingComputedMovesWithoutCopies) {
  Pools pools(4, 0);
  pools.kv.begin(kA, sequence_of(6), 0);
  ASSERT_TRUE(pools.kv.try_reserve(kA, 6));
  const auto offload = pools.kv.try_offload(kA);
  ASSERT_TRUE(offload);
  EXPECT_TRUE(offload->source.empty());
  EXPECT_EQ(pools.kv.residency(kA), Residency::kHost);
  EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 0}));
  pools.upload(kA);
  ASSERT_TRUE(pools.kv.try_reserve(kA, 6));
}

}  // namespace
}  // namespace fastserve::kv
