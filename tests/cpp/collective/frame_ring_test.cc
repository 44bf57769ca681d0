#include "collective/frame_ring.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>

#include "base/error.h"

namespace fastserve::collective {
namespace {

constexpr double kLongS = 60.0;

bool write(FrameWriter& writer, std::uint32_t kind, const std::string& text, double timeout_s = 0.0) {
  const auto room = writer.reserve(text.size(), timeout_s);
  if (!room) return false;
  std::memcpy(room->data(), text.data(), text.size());
  writer.publish(kind, text.size());
  return true;
}

std::string text_of(const Frame& frame) {
  return {reinterpret_cast<const char*>(frame.bytes.data()), frame.bytes.size()};
}

TEST(FrameRing, EveryReaderReadsAllFramesInOrderAlsoBehindTheEndOfTheMemory) {
  FrameWriter writer(2, 4, 16);
  FrameReader first(writer.fd(), 0), second(writer.fd(), 1);
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(write(writer, i, std::to_string(i)));
    for (FrameReader* reader : {&first, &second}) {
      const auto frame = reader->read(0.0);
      ASSERT_TRUE(frame);
      EXPECT_EQ(frame->kind, i);
      EXPECT_EQ(text_of(*frame), std::to_string(i));
      reader->release();
    }
    EXPECT_FALSE(first.read(0.0));
  }
}

TEST(FrameRing, ASlowReaderKeepsItsFramesAndStopsTheWriterAlone) {
  FrameWriter writer(2, 2, 8);
  FrameReader quick(writer.fd(), 0), slow(writer.fd(), 1);
  ASSERT_TRUE(write(writer, 1, "a"));
  ASSERT_TRUE(write(writer, 2, "b"));
  const auto kept = slow.read(0.0);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(quick.read(0.0));
    quick.release();
  }
  EXPECT_FALSE(write(writer, 3, "c"));
  EXPECT_FALSE(write(writer, 3, "c", 0.01));
  EXPECT_EQ(text_of(*kept), "a");
  slow.release();
  EXPECT_TRUE(write(writer, 3, "c"));
  EXPECT_EQ(slow.read(0.0)->kind, 2u);
  EXPECT_EQ(slow.read(0.0)->kind, 3u);
}

TEST(FrameRing, FramesMayBeReleasedLaterThanTheyAreRead) {
  FrameWriter writer(1, 2, 8);
  FrameReader reader(writer.fd(), 0);
  ASSERT_TRUE(write(writer, 1, "one"));
  ASSERT_TRUE(write(writer, 2, "two"));
  const auto one = reader.read(0.0), two = reader.read(0.0);
  EXPECT_EQ(text_of(*one) + text_of(*two), "onetwo");
  reader.release();
  reader.release();
  EXPECT_THROW(reader.release(), InvalidArgumentError);
}

TEST(FrameRing, WaitingEndsWithTheOtherSide) {
  FrameWriter writer(1, 1, 8);
  FrameReader reader(writer.fd(), 0);
  std::thread other([&] {
    for (std::uint32_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(reader.read(kLongS)->kind, i);
      reader.release();
    }
  });
  for (std::uint32_t i = 0; i < 1000; ++i) ASSERT_TRUE(write(writer, i, "x", kLongS));
  other.join();
}

TEST(FrameRing, AReaderThatHasEndedLeavesTheWriterInControl) {
  FrameWriter writer(1, 1, 8);
  const pid_t child = ::fork();
  if (child == 0) {
    FrameReader reader(writer.fd(), 0);
    reader.beat();
    ::_exit(reader.read(kLongS) ? 0 : 1);  // without a release
  }
  ASSERT_TRUE(write(writer, 1, "x"));
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(writer.beats(0), 1u);
  EXPECT_FALSE(write(writer, 2, "y", 0.01));
}

TEST(FrameRing, WhatDoesNotFitIsRefused) {
  FrameWriter writer(1, 2, 8);
  EXPECT_TRUE(write(writer, 1, "12345678"));
  EXPECT_THROW(writer.reserve(9, 0.0), InvalidArgumentError);
  EXPECT_THROW(writer.publish(1, 1), InvalidArgumentError);
  EXPECT_THROW(FrameReader(writer.fd(), 1), InvalidArgumentError);
  EXPECT_THROW(FrameReader(-1, 0), InvalidArgumentError);
  EXPECT_THROW(FrameWriter(0, 1, 1), InvalidArgumentError);
  EXPECT_THROW(FrameWriter(1, 0, 1), InvalidArgumentError);
  EXPECT_THROW(FrameWriter(1, 3, 1), InvalidArgumentError);
  EXPECT_THROW(FrameWriter(1, 1, 0), InvalidArgumentError);
}

}  // namespace
}  // namespace fastserve::collective
