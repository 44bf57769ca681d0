#include "sched/step_plan.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "base/error.h"

namespace fastserve::sched {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the wire format is the memory format of little-endian machines");

struct Header {
  std::uint32_t magic = 0x50534653;  // "FSSP"
  std::uint32_t version = 1;
  std::int64_t step = 0;
  std::int32_t num_decode_rows = 0;
  std::uint32_t num_arrays = 0;
};
static_assert(std::is_trivially_copyable_v<Header> && sizeof(Header) == 24);

template <typename T>
constexpr std::size_t kSize = sizeof(typename std::remove_reference_t<T>::value_type);

/// Arrays start at multiples of 8 bytes, so that a reader may look at them where they lie.
constexpr std::size_t padded(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

std::uint32_t num_arrays() {
  StepPlan plan;
  std::uint32_t count = 0;
  StepPlan::for_each_array(plan, [&](const char*, const auto&) { ++count; });
  return count;
}

void check_starts(const char* name, const std::vector<std::int32_t>& starts, std::size_t entries, std::size_t total) {
  FS_REQUIRE(starts.size() == entries + 1 && starts.front() == 0 && static_cast<std::size_t>(starts.back()) == total &&
                 std::ranges::is_sorted(starts),
             name, " must rise from 0 to ", total, " in ", entries + 1, " entries");
}

template <typename... Arrays>
void check_sizes(const char* what, std::size_t size, const Arrays&... arrays) {
  FS_REQUIRE(((arrays.size() == size) && ...), "every array of the ", what, " must have ", size, " entries");
}

}  // namespace

void StepPlan::clear() {
  for_each_array(*this, [](const char*, auto& array) { array.clear(); });
  for (auto* starts : {&query_start, &block_start, &history_start, &banned_start, &transfer_start})
    starts->push_back(0);
  num_decode_rows = 0;
}

void StepPlan::validate() const {
  const std::size_t rows = request_ids.size();
  const std::size_t samples = sample_rows.size();
  const std::size_t transfers = transfer_ids.size();
  check_sizes("rows", rows, seq_lens, token_sources);
  check_sizes("tokens", token_ids.size(), positions, slots);
  check_sizes("samples", samples, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
              frequency_penalty, seeds, counters, num_logprobs, history_prompt_len);
  check_sizes("transfers", transfers, transfer_to_host);
  check_sizes("transferred blocks", transfer_sources.size(), transfer_targets);
  check_starts("query_start", query_start, rows, token_ids.size());
  check_starts("block_start", block_start, rows, block_ids.size());
  check_starts("history_start", history_start, samples, history_tokens.size());
  check_starts("banned_start", banned_start, samples, banned_tokens.size());
  check_starts("transfer_start", transfer_start, transfers, transfer_sources.size());
  FS_REQUIRE(num_decode_rows >= 0 && static_cast<std::size_t>(num_decode_rows) <= rows,
             "num_decode_rows must be between 0 and ", rows, ", got ", num_decode_rows);
  const auto below = [](const auto& values, std::int64_t low, std::int64_t end) {
    return std::ranges::all_of(values, [=](auto value) { return value >= low && value < end; });
  };
  FS_REQUIRE(below(sample_rows, 0, static_cast<std::int64_t>(rows)), "sample_rows must name rows");
  FS_REQUIRE(below(token_sources, -1, INT32_MAX), "token_sources must be -1 or a sampling entry");
  for (const auto* blocks : {&block_ids, &transfer_sources, &transfer_targets, &positions})
    FS_REQUIRE(below(*blocks, 0, INT64_MAX), "blocks and positions must not be negative");
  FS_REQUIRE(below(slots, 0, INT64_MAX), "slots must not be negative");
}

IterationShape StepPlan::shape() const {
  IterationShape shape;
  const auto decodes = static_cast<std::size_t>(num_decode_rows);
  shape.num_decodes = num_decode_rows;
  std::int64_t decode_ctx = 0;  // whole numbers: summed several at a time, and as exact
  for (std::size_t row = 0; row < decodes; ++row) decode_ctx += seq_lens[row];
  shape.decode_ctx = static_cast<double>(decode_ctx);
  for (std::size_t row = decodes; row < request_ids.size(); ++row) {
    const std::int32_t count = query_start[row + 1] - query_start[row];
    shape.prefill_tokens += count;
    shape.prefill_pairs += prefill_pairs(count, seq_lens[row] - count);
  }
  return shape;
}

std::vector<std::byte> StepPlan::to_bytes() const {
  std::size_t total = sizeof(Header);
  for_each_array(*this,
                 [&](const char*, const auto& array) { total += 8 + padded(array.size() * kSize<decltype(array)>); });
  std::vector<std::byte> bytes(total);
  std::byte* at = bytes.data();
  const Header header{
      .step = static_cast<std::int64_t>(step), .num_decode_rows = num_decode_rows, .num_arrays = num_arrays()};
  std::memcpy(at, &header, sizeof(header));
  at += sizeof(header);
  for_each_array(*this, [&](const char*, const auto& array) {
    const std::uint64_t length = array.size();
    std::memcpy(at, &length, 8);
    if (length > 0) std::memcpy(at + 8, array.data(), length * kSize<decltype(array)>);
    at += 8 + padded(length * kSize<decltype(array)>);
  });
  return bytes;
}

StepPlan StepPlan::from_bytes(std::span<const std::byte> bytes) {
  Header header;
  FS_REQUIRE(bytes.size() >= sizeof(header), "a step plan has at least ", sizeof(header), " bytes, got ", bytes.size());
  std::memcpy(&header, bytes.data(), sizeof(header));
  FS_REQUIRE(header.magic == Header{}.magic && header.version == Header{}.version && header.num_arrays == num_arrays(),
             "not a step plan of version ", Header{}.version, ": both ends must run the same fastserve");
  StepPlan plan;
  plan.step = StepId{header.step};
  plan.num_decode_rows = header.num_decode_rows;
  auto rest = bytes.subspan(sizeof(header));
  for_each_array(plan, [&](const char* name, auto& array) {
    constexpr std::size_t size = kSize<decltype(array)>;
    std::uint64_t length = 0;
    FS_REQUIRE(rest.size() >= 8, "the step plan ends before ", name);
    std::memcpy(&length, rest.data(), 8);
    rest = rest.subspan(8);
    FS_REQUIRE(length <= rest.size() / size && padded(length * size) <= rest.size(), "the step plan ends inside ",
               name);
    array.resize(length);
    if (length > 0) std::memcpy(array.data(), rest.data(), length * size);
    rest = rest.subspan(padded(length * size));
  });
  FS_REQUIRE(rest.empty(), "the step plan is followed by ", rest.size(), " further bytes");
  plan.validate();
  return plan;
}

}  // namespace fastserve::sched
