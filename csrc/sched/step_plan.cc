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

/// Entries [first, end) of an array.
struct Range {
  std::int32_t first;
  std::int32_t end;

  template <typename T>
  std::vector<T> of(const std::vector<T>& array) const {
    return {array.begin() + first, array.begin() + end};
  }
  /// Of an array of starts, so that they begin with 0 again.
  std::vector<std::int32_t> of_starts(const std::vector<std::int32_t>& starts) const {
    std::vector<std::int32_t> cut(starts.begin() + first, starts.begin() + end + 1);
    for (std::int32_t& start : cut) start -= starts[static_cast<std::size_t>(first)];
    return cut;
  }
  /// What lies between the starts.
  Range within(const std::vector<std::int32_t>& starts) const {
    return {starts[static_cast<std::size_t>(first)], starts[static_cast<std::size_t>(end)]};
  }
};

}  // namespace

StepPlan StepPlan::slice(std::int32_t first, std::int32_t end) const {
  FS_REQUIRE(first >= 0 && first <= end && end <= num_rows(), "a slice must lie within the ", num_rows(),
             " rows, got ", first, " to ", end);
  StepPlan part;
  part.clear();
  part.step = step;
  part.num_decode_rows = std::clamp(num_decode_rows, first, end) - first;
  const Range rows{first, end};
  const auto sample_at = [this](std::int32_t row) {
    return static_cast<std::int32_t>(std::ranges::lower_bound(sample_rows, row) - sample_rows.begin());
  };
  const Range samples{sample_at(first), sample_at(end)};
  const Range tokens = rows.within(query_start), blocks = rows.within(block_start);
  const Range history = samples.within(history_start), banned = samples.within(banned_start);
  const auto cut = [&](const Range& range, auto... members) { ((part.*members = range.of(this->*members)), ...); };
  cut(rows, &StepPlan::request_ids, &StepPlan::seq_lens, &StepPlan::token_sources);
  cut(tokens, &StepPlan::token_ids, &StepPlan::positions, &StepPlan::slots);
  cut(blocks, &StepPlan::block_ids);
  cut(samples, &StepPlan::sample_rows, &StepPlan::temperature, &StepPlan::top_k, &StepPlan::top_p, &StepPlan::min_p,
      &StepPlan::repetition_penalty, &StepPlan::presence_penalty, &StepPlan::frequency_penalty, &StepPlan::seeds,
      &StepPlan::counters, &StepPlan::num_logprobs, &StepPlan::history_prompt_len);
  cut(history, &StepPlan::history_tokens);
  cut(banned, &StepPlan::banned_tokens);
  part.query_start = rows.of_starts(query_start);
  part.block_start = rows.of_starts(block_start);
  part.history_start = samples.of_starts(history_start);
  part.banned_start = samples.of_starts(banned_start);
  for (std::int32_t& row : part.sample_rows) row -= first;
  return part;
}

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
