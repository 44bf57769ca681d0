#include "collective/shared_exchange.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "base/error.h"

namespace fastserve::collective {

constexpr std::size_t kLine = 64;
constexpr std::uint64_t kMagic = 0x65676e6168637845;
constexpr std::int32_t kMostRanks = 64;
constexpr std::size_t kAreaBytes = std::size_t{512} << 10;
constexpr std::size_t kMailBytes = std::size_t{64} << 10;
constexpr std::uint32_t kMails = 16;  // of a mailbox; a power of two, so that counts may wrap around
constexpr std::size_t kBlock = 512;   // floats that are added up at a time, in the nearest cache

/// What a rank does in a meeting; all must do the same.
struct Call {
  std::uint32_t kind = 0;
  std::uint32_t number = 0;
  std::uint64_t num_bytes = 0;
  bool operator==(const Call&) const = default;
};

struct ExchangeHeader {
  std::uint64_t magic = kMagic;
  std::int32_t num_ranks = 0;
  alignas(kLine) std::atomic<std::uint32_t> arrived{0};
  alignas(kLine) std::atomic<std::uint32_t> meetings{0};
  alignas(kLine) Call calls[2][kMostRanks];
};

struct Mailbox {
  alignas(kLine) std::atomic<std::uint32_t> sent{0};
  alignas(kLine) std::atomic<std::uint32_t> taken{0};
  alignas(kLine) std::byte mails[kMails][kMailBytes];
};

namespace {

enum : std::uint32_t { kReduce = 1, kGather = 2 };

std::size_t memory_bytes(std::int32_t num_ranks) {
  FS_REQUIRE(num_ranks >= 1 && num_ranks <= kMostRanks, "an exchange is for 1 to ", kMostRanks, " ranks, got ",
             num_ranks);
  const auto ranks = static_cast<std::size_t>(num_ranks);
  return sizeof(ExchangeHeader) + 2 * ranks * kAreaBytes + ranks * ranks * sizeof(Mailbox);
}

[[noreturn]] void refuse_late(const std::string& ranks, std::int32_t num_ranks, double timeout_s) {
  detail::raise<DeviceError>("rank ", ranks, " of a group of ", num_ranks, " did not join within ", timeout_s, " s");
}

/// Add up rows [num_rows][kBlock] as a binary tree into the first one; what is odd goes up as it is.
void add_tree(float* rows, std::size_t num_rows) {
  while (num_rows > 1) {
    const std::size_t pairs = num_rows / 2;
    for (std::size_t p = 0; p < pairs; ++p) {
      float* const sum = rows + p * kBlock;
      const float* const left = rows + 2 * p * kBlock;
      for (std::size_t i = 0; i < kBlock; ++i) sum[i] = left[i] + left[kBlock + i];
    }
    if (num_rows % 2 != 0) std::copy_n(rows + (num_rows - 1) * kBlock, kBlock, rows + pairs * kBlock);
    num_rows = pairs + num_rows % 2;
  }
}

}  // namespace

ExchangeMemory::ExchangeMemory(std::int32_t num_ranks) : segment_(memory_bytes(num_ranks)) {
  (new (segment_.data()) ExchangeHeader)->num_ranks = num_ranks;  // zeros are empty mailboxes
}

ExchangeMemory::ExchangeMemory(SharedSegment segment) : segment_(std::move(segment)) {
  FS_REQUIRE(segment_.num_bytes() >= sizeof(ExchangeHeader) && header().magic == kMagic,
             "the descriptor must be that of an exchange");
}

ExchangeMemory ExchangeMemory::attach(int fd) { return ExchangeMemory(SharedSegment::attach(fd)); }

std::int32_t ExchangeMemory::num_ranks() const { return header().num_ranks; }

ExchangeHeader& ExchangeMemory::header() const { return *reinterpret_cast<ExchangeHeader*>(segment_.data()); }

std::byte* ExchangeMemory::area(std::uint32_t parity, std::int32_t rank) const {
  return segment_.data() + sizeof(ExchangeHeader) +
         (parity * static_cast<std::size_t>(num_ranks()) + static_cast<std::size_t>(rank)) * kAreaBytes;
}

Mailbox& ExchangeMemory::mailbox(std::int32_t from, std::int32_t to) const {
  const std::int32_t ranks = num_ranks();
  FS_REQUIRE(std::min(from, to) >= 0 && std::max(from, to) < ranks, "a rank must be from 0 to ", ranks - 1, ", got ",
             from, " to ", to);
  auto* const boxes = reinterpret_cast<Mailbox*>(area(2, 0));
  return boxes[from * ranks + to];
}

SharedExchange::SharedExchange(int fd, std::int32_t rank, double timeout_s)
    : memory_(ExchangeMemory::attach(fd)),
      rank_(rank),
      timeout_s_(timeout_s),
      sums_(static_cast<std::size_t>(memory_.num_ranks()) * kBlock) {
  FS_REQUIRE(rank >= 0 && rank < num_ranks(), "a rank must be from 0 to ", num_ranks() - 1, ", got ", rank);
}

/// The ranks that have not come to a meeting, for people. What a rank wrote last tells its meeting.
std::string SharedExchange::missing(std::uint32_t meeting) const {
  std::string names;
  for (std::int32_t other = 0; other < num_ranks(); ++other) {
    const Call& call = memory_.header().calls[meeting % 2][other];
    if (call.kind == 0 || call.number != meeting) names += (names.empty() ? "" : ", ") + std::to_string(other);
  }
  return names;
}

/// Wait until every rank has written its area of this parity, which is returned; the areas of the other are free then.
std::uint32_t SharedExchange::meet(std::uint32_t kind, std::size_t num_bytes) {
  ExchangeHeader& shared = memory_.header();
  const std::uint32_t parity = num_meetings_ % 2;
  const Call mine{kind, num_meetings_++, num_bytes};
  shared.calls[parity][rank_] = mine;
  const std::uint32_t before = shared.meetings.load();
  if (shared.arrived.fetch_add(1) + 1 == static_cast<std::uint32_t>(num_ranks())) {
    shared.arrived.store(0);
    shared.meetings.store(before + 1);
    wake_all(shared.meetings);
  } else {
    const double deadline_s = monotonic_s() + timeout_s_;
    while (shared.meetings.load() == before) {
      if (!sleep_while(shared.meetings, before, deadline_s)) refuse_late(missing(mine.number), num_ranks(), timeout_s_);
    }
  }
  for (std::int32_t other = 0; other < num_ranks(); ++other) {
    const Call& call = shared.calls[parity][other];
    FS_CHECK(call == mine, "ranks disagree on meeting ", mine.number, ": rank ", other, " brings ", call.num_bytes,
             " bytes (call ", call.kind, ", meeting ", call.number, "), rank ", rank_, " brings ", num_bytes,
             " bytes (call ", kind, ")");
  }
  return parity;
}

void SharedExchange::all_reduce(std::span<float> values) {
  constexpr std::size_t kPiece = kAreaBytes / sizeof(float);
  const auto ranks = static_cast<std::size_t>(num_ranks());
  for (std::size_t first = 0; first < values.size(); first += kPiece) {
    const std::span<float> piece = values.subspan(first, std::min(kPiece, values.size() - first));
    std::memcpy(memory_.area(num_meetings_ % 2, rank_), piece.data(), piece.size_bytes());
    const std::uint32_t parity = meet(kReduce, values.size_bytes());
    for (std::size_t at = 0; at < piece.size(); at += kBlock) {
      const std::size_t count = std::min(kBlock, piece.size() - at);
      for (std::size_t r = 0; r < ranks; ++r) {
        const auto* const area = reinterpret_cast<const float*>(memory_.area(parity, static_cast<std::int32_t>(r)));
        std::copy_n(area + at, count, sums_.data() + r * kBlock);
      }
      add_tree(sums_.data(), ranks);
      std::copy_n(sums_.data(), count, piece.data() + at);
    }
  }
}

void SharedExchange::all_gather(std::span<const std::byte> mine, std::span<std::byte> out) {
  FS_REQUIRE(out.size() == mine.size() * static_cast<std::size_t>(num_ranks()), "out must have ", num_ranks(),
             " times the ", mine.size(), " bytes of a rank, got ", out.size());
  for (std::size_t first = 0; first < mine.size(); first += kAreaBytes) {
    const std::size_t count = std::min(kAreaBytes, mine.size() - first);
    std::memcpy(memory_.area(num_meetings_ % 2, rank_), mine.data() + first, count);
    const std::uint32_t parity = meet(kGather, mine.size());
    for (std::int32_t r = 0; r < num_ranks(); ++r) {
      std::memcpy(out.data() + static_cast<std::size_t>(r) * mine.size() + first, memory_.area(parity, r), count);
    }
  }
}

void SharedExchange::send(std::span<const std::byte> bytes, std::int32_t to) {
  Mailbox& box = memory_.mailbox(rank_, to);
  for (std::size_t first = 0; first < bytes.size(); first += kMailBytes) {
    const double deadline_s = monotonic_s() + timeout_s_;
    const std::uint32_t sent = box.sent.load();
    for (std::uint32_t taken; sent - (taken = box.taken.load()) == kMails;) {
      if (!sleep_while(box.taken, taken, deadline_s)) refuse_late(std::to_string(to), num_ranks(), timeout_s_);
    }
    std::memcpy(box.mails[sent % kMails], bytes.data() + first, std::min(kMailBytes, bytes.size() - first));
    box.sent.fetch_add(1);
    wake_all(box.sent);
  }
}

void SharedExchange::recv(std::span<std::byte> bytes, std::int32_t from) {
  Mailbox& box = memory_.mailbox(from, rank_);
  for (std::size_t first = 0; first < bytes.size(); first += kMailBytes) {
    const double deadline_s = monotonic_s() + timeout_s_;
    const std::uint32_t taken = box.taken.load();
    for (std::uint32_t sent; (sent = box.sent.load()) == taken;) {
      if (!sleep_while(box.sent, sent, deadline_s)) refuse_late(std::to_string(from), num_ranks(), timeout_s_);
    }
    std::memcpy(bytes.data() + first, box.mails[taken % kMails], std::min(kMailBytes, bytes.size() - first));
    box.taken.fetch_add(1);
    wake_all(box.taken);
  }
}

}  // namespace fastserve::collective
