#include <gtest/gtest.h>

#include <array>

#include "ptx/error.h"
#include "ptx/testing/hand_built.h"

namespace ptx {
namespace {

constexpr Mask kOne = 1;
const std::string kCopy = "cp.async.cg.shared.global.L2::128B";

class AsyncCopy : public testing::Test {
 protected:
  AsyncCopy() {
    for (std::size_t i = 0; i < global.size(); ++i) global[i] = static_cast<std::uint8_t>(i);
  }
  Operand source(std::size_t offset = 0) { return at_address(reinterpret_cast<std::uint64_t>(&global[offset])); }
  void wait_for_all_but(std::int64_t groups, HandBuiltCta& built) {
    built.run("cp.async.wait_group", {immediate(groups)}, 0, kOne);
  }
  alignas(16) std::array<std::uint8_t, 256> global;
};

TEST_F(AsyncCopy, LandsAtTheLatestWhenItsGroupIsWaitedForAndMayLandBefore) {
  int early = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    HandBuiltCta built(1, 1024, seed);
    built.poke<std::uint64_t>(64, 7);
    built.run(kCopy, {at_address(64), source(16), immediate(16)}, 0, kOne);
    const auto before = built.peek<std::uint64_t>(64);
    EXPECT_NE(before, 7U);
    EXPECT_TRUE(before == ~0ULL || before == 0x1716151413121110);
    early += before != ~0ULL;
    built.run("cp.async.commit_group", {}, 0, kOne);
    built.run(kCopy, {at_address(128), source(), immediate(16)}, 0, kOne);
    built.run("cp.async.commit_group", {}, 0, kOne);
    wait_for_all_but(1, built);
    EXPECT_EQ(built.peek<std::uint64_t>(64), 0x1716151413121110U);
    wait_for_all_but(0, built);
    EXPECT_EQ(built.peek<std::uint64_t>(128), 0x0706050403020100U);
  }
  EXPECT_GT(early, 5);
  EXPECT_LT(early, 35);
}

TEST_F(AsyncCopy, UncommittedCopiesAreWaitedForOnlyByWaitAll) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    HandBuiltCta built(1, 1024, seed);
    built.run(kCopy, {at_address(64), source(), immediate(16)}, 0, kOne);
    const auto before = built.peek<std::uint64_t>(64);
    wait_for_all_but(0, built);
    EXPECT_EQ(built.peek<std::uint64_t>(64), before);
    built.run("cp.async.wait_all", {}, 0, kOne);
    EXPECT_EQ(built.peek<std::uint64_t>(64), 0x0706050403020100U);
  }
}

TEST_F(AsyncCopy, BytesBehindTheSourcesAreZero) {
  HandBuiltCta built(1, 1024);
  built.set(1, 5);
  built.run(kCopy, {at_address(64), source(16), immediate(16), in_register(1)}, 0, kOne);
  built.run("cp.async.wait_all", {}, 0, kOne);
  EXPECT_EQ(built.peek<std::uint64_t>(64), 0x1413121110U);
  EXPECT_EQ(built.peek<std::uint64_t>(72), 0U);
}

TEST_F(AsyncCopy, ASourceOfNoBytesIsNotRead) {
  HandBuiltCta built(1, 1024);
  built.set(1, 0);
  built.run(kCopy, {at_address(64), at_address(0), immediate(16), in_register(1)}, 0, kOne);
  built.set(2, 1);
  built.run("cp.async.ca.shared.global", {at_address(80), at_address(0), immediate(8), in_register(2, 1)}, 0, kOne);
  built.run("cp.async.wait_all", {}, 0, kOne);
  EXPECT_EQ(built.peek<std::uint64_t>(64), 0U);
  EXPECT_EQ(built.peek<std::uint64_t>(80), 0U);
}

TEST_F(AsyncCopy, MisuseIsAnError) {
  HandBuiltCta built(1, 1024);
  built.set(1, 17);
  EXPECT_THROW(built.run(kCopy, {at_address(64), source(), immediate(16), in_register(1)}, 0, kOne), Error);
  EXPECT_THROW(built.run(kCopy, {at_address(68), source(), immediate(16)}, 0, kOne), Error);
  EXPECT_THROW(built.run(kCopy, {at_address(64), source(8), immediate(16)}, 0, kOne), Error);
  EXPECT_THROW(built.run(kCopy, {at_address(1024), source(), immediate(16)}, 0, kOne), Error);
  EXPECT_THROW(built.run(kCopy, {at_address(64), at_address(16), immediate(16)}, 0, kOne), Error);
  EXPECT_THROW(instruction(kCopy, {at_address(64), source(), immediate(8)}), Error);
  EXPECT_THROW(instruction("cp.async.ca.shared.global", {at_address(64), source(), immediate(12)}), Error);
  EXPECT_THROW(instruction("cp.async.mbarrier.arrive.shared.b64", {at_address(64)}), Error);
}

TEST_F(AsyncCopy, WhatItWroteNeedsAProxyFenceBehindTheWait) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    HandBuiltCta built(1, 1024, seed);
    built.run(kCopy, {at_address(64), source(), immediate(16)}, 0, kOne);
    built.run("fence.proxy.async.shared::cta", {});
    built.run("cp.async.wait_all", {}, 0, kOne);
    EXPECT_THROW(built.cta().require_fenced(64, 16), Error);
    built.run("fence.proxy.async.shared::cta", {});
    EXPECT_NO_THROW(built.cta().require_fenced(64, 16));
  }
}

}  // namespace
}  // namespace ptx
