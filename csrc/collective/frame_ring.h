#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "collective/shared_segment.h"

namespace fastserve::collective {

struct RingHeader;
struct ReaderState;

/// Bytes with a kind that means something to writer and readers.
struct Frame {
  std::uint32_t kind;
  std::span<const std::byte> bytes;
};

/// Memory of a ring of frames from one writer to several readers, each of which reads all of them in order.
///
/// A slot holds one frame and is written again when every reader has released it. Frames are written and read in place.
/// Waiting is sleeping on a futex: no thread spins.
class RingMemory {
 public:
  RingMemory(std::int32_t num_readers, std::int32_t num_slots, std::size_t slot_bytes);
  explicit RingMemory(int fd);

  RingHeader& header() const;
  ReaderState& reader(std::int32_t index) const;
  std::byte* slot(std::uint32_t frame) const;  ///< of the frame of this number, its header first
  int fd() const { return segment_.fd(); }

 private:
  SharedSegment segment_;
};

/// The writing end. One thread.
class FrameWriter {
 public:
  /// Throws InvalidArgumentError unless there is at least one reader and one byte, and the slots are a power of two.
  FrameWriter(std::int32_t num_readers, std::int32_t num_slots, std::size_t slot_bytes);

  /// Room for a frame of up to `num_bytes`; nothing when no slot became free within `timeout_s`.
  /// Throws InvalidArgumentError when no slot is that large.
  std::optional<std::span<std::byte>> reserve(std::size_t num_bytes, double timeout_s);

  /// Give what was written into the room of `reserve` to the readers.
  void publish(std::uint32_t kind, std::size_t num_bytes);

  int fd() const { return memory_.fd(); }

  /// What the reader has counted; see FrameReader::beat.
  std::uint32_t beats(std::int32_t reader) const;

 private:
  bool has_room() const;

  RingMemory memory_;
  std::uint32_t published_ = 0;
  bool reserved_ = false;
};

/// A reading end. One thread, but for `beat`, which any may call.
class FrameReader {
 public:
  /// Throws InvalidArgumentError when the descriptor is no ring or has no such reader.
  FrameReader(int fd, std::int32_t index);

  /// The next frame, which stays as it is until it is released; nothing when none came within `timeout_s`.
  std::optional<Frame> read(double timeout_s);

  /// Let the writer have the slot of the oldest frame that was read and not released.
  /// Throws InvalidArgumentError when there is none.
  void release();

  /// Tell the writer that this process lives.
  void beat();

 private:
  RingMemory memory_;
  std::int32_t index_;
  std::uint32_t read_ = 0;
  std::uint32_t released_ = 0;
};

}  // namespace fastserve::collective
