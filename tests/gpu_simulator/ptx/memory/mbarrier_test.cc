#include "ptx/memory/mbarrier.h"

#include <gtest/gtest.h>

#include "ptx/error.h"
#include "ptx/testing/hand_built.h"

namespace ptx {
namespace {

constexpr std::uint64_t kAt = 64;
constexpr Mask kOne = 1;

class MBarrier : public testing::Test {
 protected:
  void init(std::int64_t count) {
    built.run("mbarrier.init.shared::cta.b64", {at_address(kAt), immediate(count)}, 0, kOne);
  }
  void arrive(Mask lanes = kOne) { built.run("mbarrier.arrive.shared::cta.b64", {sink(), at_address(kAt)}, 0, lanes); }
  void expect(std::int64_t bytes) {
    built.run("mbarrier.arrive.expect_tx.shared::cta.b64", {sink(), at_address(kAt), immediate(bytes)}, 0, kOne);
  }
  bool wait_parity(std::int64_t parity) {
    const Outcome outcome = built.run("mbarrier.try_wait.parity.shared::cta.b64",
                                      {in_register(0, 1), at_address(kAt), immediate(parity)}, 0, kOne);
    EXPECT_EQ(outcome, built.get(0) != 0 ? Outcome::kDone : Outcome::kYield);
    return built.get(0) != 0;
  }

  HandBuiltCta built;
};

TEST_F(MBarrier, BeforeTheFirstPhaseComesOneOfParityOneThatHasEnded) {
  init(1);
  EXPECT_FALSE(wait_parity(0));
  EXPECT_TRUE(wait_parity(1));
}

TEST_F(MBarrier, TheParityOfAPhaseIsTrueFromItsEndToTheEndOfTheNext) {
  init(2);
  arrive();
  EXPECT_FALSE(wait_parity(0));
  arrive();
  EXPECT_TRUE(wait_parity(0));
  EXPECT_FALSE(wait_parity(1));
  arrive();
  arrive();
  EXPECT_FALSE(wait_parity(0));
  EXPECT_TRUE(wait_parity(1));
}

TEST_F(MBarrier, EveryLaneArrives) {
  init(32);
  arrive(HandBuiltCta::kAll);
  EXPECT_TRUE(wait_parity(0));
}

TEST_F(MBarrier, APhaseEndsOnlyWhenAllBytesHaveArrived) {
  init(1);
  expect(96);
  EXPECT_FALSE(wait_parity(0));
  complete_transactions(built.cta(), kAt, 64);
  EXPECT_FALSE(wait_parity(0));
  complete_transactions(built.cta(), kAt, 32);
  EXPECT_TRUE(wait_parity(0));
}

TEST_F(MBarrier, BytesMayArriveBeforeTheyAreExpectedButNotMoreThanExpected) {
  init(2);
  complete_transactions(built.cta(), kAt, 64);
  arrive();
  expect(64);
  EXPECT_TRUE(wait_parity(0));
  complete_transactions(built.cta(), kAt, 64);
  arrive();
  expect(32);
  EXPECT_FALSE(wait_parity(1));
}

TEST_F(MBarrier, TheStateOfAnArrivalNamesItsPhase) {
  init(2);
  built.run("mbarrier.arrive.shared.b64", {in_register(1, 64), at_address(kAt)}, 0, kOne);
  const auto ended = [&] {
    built.run("mbarrier.test_wait.shared.b64", {in_register(0, 1), at_address(kAt), in_register(1, 64)}, 0, kOne);
    return built.get(0) != 0;
  };
  EXPECT_FALSE(ended());
  arrive();
  EXPECT_TRUE(ended());
  arrive();
  arrive();
  EXPECT_THROW(ended(), Error);  // neither the current phase nor the one before
}

TEST_F(MBarrier, GenericAddressesLieInSharedMemory) {
  built.run("mbarrier.init.b64", {at_address(built.cta().shared_base() + kAt), immediate(1)}, 0, kOne);
  arrive();
  EXPECT_TRUE(wait_parity(0));
  EXPECT_THROW(built.run("mbarrier.inval.b64", {at_address(kAt)}, 0, kOne), Error);
}

TEST_F(MBarrier, ArrivingOnADeadOneIsAnError) {
  EXPECT_THROW(arrive(), Error);
  init(1);
  built.run("mbarrier.inval.shared.b64", {at_address(kAt)}, 0, kOne);
  EXPECT_THROW(arrive(), Error);
  EXPECT_THROW(wait_parity(0), Error);
}

TEST_F(MBarrier, InitialisingALiveOneIsAnError) {
  init(1);
  EXPECT_THROW(init(1), Error);
  EXPECT_THROW(built.run("mbarrier.init.shared.b64", {at_address(kAt + 4), immediate(1)}, 0, kOne), Error);
  EXPECT_THROW(built.run("mbarrier.init.shared.b64", {at_address(kAt + 8), immediate(0)}, 0, kOne), Error);
}

TEST_F(MBarrier, MoreArrivalsThanExpectedAreAnError) {
  init(1);
  expect(16);  // the arrivals are complete, the bytes are not
  EXPECT_THROW(arrive(), Error);
}

TEST_F(MBarrier, ArrivingInAPhaseBeforeAnyoneSawTheEndOfTheLastIsAnError) {
  init(1);
  arrive();
  EXPECT_THROW(arrive(), Error);
  EXPECT_TRUE(wait_parity(0));
  arrive();
}

TEST_F(MBarrier, AParityIsZeroOrOne) {
  init(1);
  EXPECT_THROW(wait_parity(2), Error);
}

TEST_F(MBarrier, ArrivalsThatMustNotCompleteDoNot) {
  init(2);
  const auto arrive_quietly = [&](std::int64_t count) {
    built.run("mbarrier.arrive.noComplete.shared.b64", {in_register(1, 64), at_address(kAt), immediate(count)}, 0,
              kOne);
  };
  arrive_quietly(1);
  EXPECT_THROW(arrive_quietly(1), Error);
}

TEST_F(MBarrier, UnknownFormsAreRefusedAtParseTime) {
  EXPECT_THROW(instruction("mbarrier.try_wait.shared::cta.b64", {in_register(0)}), Error);
  EXPECT_THROW(instruction("mbarrier.swap.shared::cta.b64", {in_register(0)}), Error);
}

}  // namespace
}  // namespace ptx
