#include "collective/frame_ring.h"

#include <bit>
#include <new>

#include "base/error.h"

namespace fastserve::collective {

constexpr std::size_t kLine = 64;  // bytes that cores hand to each other as a whole
constexpr std::uint64_t kMagic = 0x676e697265726166;

struct RingHeader {
  std::uint64_t magic = kMagic;
  std::uint64_t slot_bytes = 0;
  std::int32_t num_readers = 0;
  std::uint32_t num_slots = 0;
  alignas(kLine) std::atomic<std::uint32_t> published{0};  // frames so far
  alignas(kLine) std::atomic<std::uint32_t> releases{0};   // of all readers
  std::atomic<std::uint32_t> writer_waits{0};
};

struct ReaderState {
  alignas(kLine) std::atomic<std::uint32_t> released{0};
  std::atomic<std::uint32_t> beats{0};
};

namespace {

struct alignas(kLine) SlotHeader {
  std::uint32_t kind;
  std::uint64_t num_bytes;
};

std::size_t stride(std::size_t slot_bytes) { return sizeof(SlotHeader) + (slot_bytes + kLine - 1) / kLine * kLine; }

std::size_t ring_bytes(std::int32_t num_readers, std::int32_t num_slots, std::size_t slot_bytes) {
  FS_REQUIRE(num_readers >= 1, "a ring needs at least 1 reader, got ", num_readers);
  FS_REQUIRE(num_slots >= 1 && std::has_single_bit(static_cast<std::uint32_t>(num_slots)),
             "the slots of a ring must be a power of two, so that the count of frames may wrap around, got ",
             num_slots);
  FS_REQUIRE(slot_bytes >= 1 && slot_bytes <= (std::size_t{1} << 40), "slots must have 1 to 2^40 bytes, got ",
             slot_bytes);
  return sizeof(RingHeader) + static_cast<std::size_t>(num_readers) * sizeof(ReaderState) +
         static_cast<std::size_t>(num_slots) * stride(slot_bytes);
}

}  // namespace

RingMemory::RingMemory(std::int32_t num_readers, std::int32_t num_slots, std::size_t slot_bytes)
    : segment_(ring_bytes(num_readers, num_slots, slot_bytes)) {
  auto* const made = new (segment_.data()) RingHeader;
  made->slot_bytes = slot_bytes;
  made->num_readers = num_readers;
  made->num_slots = static_cast<std::uint32_t>(num_slots);
  for (std::int32_t i = 0; i < num_readers; ++i) new (&reader(i)) ReaderState;
}

RingMemory::RingMemory(int fd) : segment_(SharedSegment::attach(fd)) {
  FS_REQUIRE(segment_.num_bytes() >= sizeof(RingHeader) && header().magic == kMagic, "descriptor ", fd,
             " must be that of a ring");
}

RingHeader& RingMemory::header() const { return *reinterpret_cast<RingHeader*>(segment_.data()); }

ReaderState& RingMemory::reader(std::int32_t index) const {
  FS_REQUIRE(index >= 0 && index < header().num_readers, "a reader must be from 0 to ", header().num_readers - 1,
             ", got ", index);
  return reinterpret_cast<ReaderState*>(segment_.data() + sizeof(RingHeader))[index];
}

std::byte* RingMemory::slot(std::uint32_t frame) const {
  const RingHeader& ring = header();
  return segment_.data() + sizeof(RingHeader) + static_cast<std::size_t>(ring.num_readers) * sizeof(ReaderState) +
         frame % ring.num_slots * stride(ring.slot_bytes);
}

FrameWriter::FrameWriter(std::int32_t num_readers, std::int32_t num_slots, std::size_t slot_bytes)
    : memory_(num_readers, num_slots, slot_bytes) {}

std::uint32_t FrameWriter::beats(std::int32_t reader) const { return memory_.reader(reader).beats.load(); }

bool FrameWriter::has_room() const {
  const RingHeader& ring = memory_.header();
  for (std::int32_t i = 0; i < ring.num_readers; ++i) {
    if (published_ - memory_.reader(i).released.load(std::memory_order_acquire) >= ring.num_slots) return false;
  }
  return true;
}

std::optional<std::span<std::byte>> FrameWriter::reserve(std::size_t num_bytes, double timeout_s) {
  RingHeader& ring = memory_.header();
  FS_REQUIRE(num_bytes <= ring.slot_bytes, "a frame has at most ", ring.slot_bytes, " bytes, got ", num_bytes);
  const double deadline_s = monotonic_s() + timeout_s;
  while (!has_room()) {
    ring.writer_waits.store(1);
    const std::uint32_t seen = ring.releases.load();
    const bool in_time = has_room() || sleep_while(ring.releases, seen, deadline_s);
    ring.writer_waits.store(0);
    if (!in_time) return std::nullopt;
  }
  reserved_ = true;
  return std::span(memory_.slot(published_) + sizeof(SlotHeader), num_bytes);
}

void FrameWriter::publish(std::uint32_t kind, std::size_t num_bytes) {
  FS_REQUIRE(reserved_, "room for a frame must be reserved before it is published");
  reserved_ = false;
  *reinterpret_cast<SlotHeader*>(memory_.slot(published_)) = {kind, num_bytes};
  std::atomic<std::uint32_t>& published = memory_.header().published;
  published.store(++published_, std::memory_order_release);
  wake_all(published);
}

FrameReader::FrameReader(int fd, std::int32_t index) : memory_(fd), index_(index) { memory_.reader(index); }

std::optional<Frame> FrameReader::read(double timeout_s) {
  const std::atomic<std::uint32_t>& published = memory_.header().published;
  const double deadline_s = monotonic_s() + timeout_s;
  while (published.load(std::memory_order_acquire) == read_) {
    if (!sleep_while(published, read_, deadline_s)) return std::nullopt;
  }
  std::byte* const slot = memory_.slot(read_++);
  const auto& header = *reinterpret_cast<const SlotHeader*>(slot);
  return Frame{header.kind, {slot + sizeof(SlotHeader), header.num_bytes}};
}

void FrameReader::release() {
  FS_REQUIRE(released_ != read_, "a frame must be read before it is released");
  RingHeader& ring = memory_.header();
  memory_.reader(index_).released.store(++released_, std::memory_order_release);
  ring.releases.fetch_add(1);
  if (ring.writer_waits.load() != 0) wake_all(ring.releases);
}

void FrameReader::beat() { memory_.reader(index_).beats.fetch_add(1, std::memory_order_relaxed); }

}  // namespace fastserve::collective
