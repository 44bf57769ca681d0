#include "compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "float16.h"
#include "kernels/attention/attention_gpu.h"
#include "kernels/attention/attention_schedule.h"
#include "problem.h"

namespace fastserve::smoke {
namespace {

constexpr std::size_t kGuardBytes = 4096;  // before and behind the output
constexpr int kGuard = 0x5a;
constexpr int kGarbage[] = {0xff, 0x42};  // NaN; 3.07 in fp16, 48.5 in bf16
constexpr int kTileTokens = 64;
constexpr int kTileQueries = 128;  // tokens times heads of a KV head
constexpr int kTimedRounds = 20;
constexpr std::size_t kFlushBytes = std::size_t{256} << 20;  // several times the caches
constexpr std::size_t kMostRanges = 6;

/// Values are below 5 and mostly around 1. Weights and the result are rounded to the dtype once each.
float allowed_error(DType dtype) {
  return 6.0f * (dtype == DType::kFloat32 ? 0x1p-18f : dtype == DType::kBFloat16 ? 0x1p-8f : 0x1p-11f);
}

std::string hex(std::uint32_t bits, DType dtype) {
  char text[16];
  std::snprintf(text, sizeof(text), dtype == DType::kFloat32 ? "0x%08x" : "0x%04x", bits);
  return text;
}

std::string ranges(const std::set<int>& numbers) {
  std::vector<std::pair<int, int>> found;
  for (const int number : numbers) {
    if (!found.empty() && found.back().second + 1 == number) {
      found.back().second = number;
    } else {
      found.emplace_back(number, number);
    }
  }
  std::string text;
  for (std::size_t i = 0; i < std::min(found.size(), kMostRanges); ++i) {
    const auto [low, high] = found[i];
    text += joined(i == 0 ? "" : ", ", low);
    if (low != high) text += joined("-", high);
  }
  if (found.size() > kMostRanges) text += joined(" and ", found.size() - kMostRanges, " more");
  return text;
}

/// The output of one launch, and whether memory around it was left alone.
struct Result {
  std::vector<std::uint32_t> bits;
  bool guards_intact = true;
};

Result run(AttentionProblem& problem, const std::string& kernel, int garbage) {
  const std::size_t value_bytes = problem.value_bytes();
  const std::size_t out_bytes = problem.num_values() * value_bytes;
  DeviceMemory memory(out_bytes + 2 * kGuardBytes);
  std::vector<unsigned char> bytes(memory.num_bytes(), kGuard);
  std::fill_n(bytes.begin() + kGuardBytes, out_bytes, static_cast<unsigned char>(garbage));
  memory.write(bytes.data(), bytes.size());
  const Stream stream;
  problem.launch(kernel, memory.data() + kGuardBytes, stream.get());
  stream.wait();
  memory.read(bytes.data(), bytes.size());
  Result result;
  result.bits.resize(problem.num_values(), 0);
  for (std::size_t i = 0; i < result.bits.size(); ++i) {
    std::memcpy(&result.bits[i], bytes.data() + kGuardBytes + i * value_bytes, value_bytes);
  }
  const auto guard = [](unsigned char byte) { return byte == kGuard; };
  result.guards_intact = std::all_of(bytes.begin(), bytes.begin() + kGuardBytes, guard) &&
                         std::all_of(bytes.end() - kGuardBytes, bytes.end(), guard);
  return result;
}

std::vector<float> as_floats(const std::vector<std::uint32_t>& bits, DType dtype) {
  std::vector<float> values(bits.size());
  std::ranges::transform(bits, values.begin(), [&](std::uint32_t value) { return from_bits(value, dtype); });
  return values;
}

std::vector<float> expected_values(AttentionProblem& problem) {
  if (problem.spec().kernel != "naive") return as_floats(run(problem, "naive", kGarbage[0]).bits, problem.spec().dtype);
  const std::vector<double> expected = problem.expected_on_host();
  return {expected.begin(), expected.end()};
}

bool is_available(const AttentionSpec& spec) {
  return spec.kernel != "hopper" || kernels::attention_hopper_available();
}

Outcome left_out() {
  Outcome outcome{"left out", {}};
  outcome.facts.add("reason", "no compute capability 9.0, no tensor maps, or not built for sm_90a");
  return outcome;
}

}  // namespace

Differences find_differences(const AttentionSpec& spec, std::span<const std::uint32_t> got,
                             std::span<const float> expected, float allowed) {
  std::set<int> rows, heads, elements;
  std::int64_t count = 0;
  std::size_t first = 0;
  double most = 0.0;
  std::size_t at = 0;
  Facts where;
  for (std::size_t row = 0; row < spec.rows.size(); ++row) {
    const auto [length, queries] = spec.rows[row];
    for (int query = 0; query < queries; ++query) {
      for (int head = 0; head < spec.num_q_heads; ++head) {
        for (int element = 0; element < spec.head_dim; ++element, ++at) {
          const float value = from_bits(got[at], spec.dtype);
          const float error = std::fabs(value - expected[at]);
          if (std::isfinite(error)) most = std::max(most, static_cast<double>(error));
          if (error <= allowed) continue;
          rows.insert(static_cast<int>(row));
          heads.insert(head);
          elements.insert(element);
          if (count++ > 0) continue;
          first = at;
          const int group = spec.num_q_heads / spec.num_kv_heads;
          const int visible = length - queries + query + 1;
          where.add("row", row);
          where.add("length", length);
          where.add("queries", queries);
          where.add("query", query);
          where.add("query_tile", query / std::max(1, kTileQueries / group));
          where.add("head", head);
          where.add("kv_head", head / group);
          where.add("element", element);
          where.add("visible", visible);
          where.add("last_page", (visible - 1) / spec.page_tokens);
          where.add("last_tile", (visible - 1) / kTileTokens);
          if (spec.kernel == "decode") where.add("splits", kernels::decode_row(length).num_splits());
        }
      }
    }
  }
  Facts facts;
  facts.add("wrong", count);
  facts.add("of", got.size());
  facts.add("allowed", static_cast<double>(allowed));
  facts.add("most_error", most);
  if (count == 0) return {count, facts};
  facts.append(where);
  facts.add("got", static_cast<double>(from_bits(got[first], spec.dtype)));
  facts.add("got_bits", hex(got[first], spec.dtype));
  facts.add("expected", static_cast<double>(expected[first]));
  facts.add("expected_bits", hex(to_bits(expected[first], spec.dtype), spec.dtype));
  facts.add("rows_wrong", ranges(rows));
  facts.add("heads_wrong", ranges(heads));
  facts.add("elements_wrong", ranges(elements));
  return {count, facts};
}

Outcome compare(const AttentionSpec& spec) {
  if (!is_available(spec)) return left_out();
  AttentionProblem problem(spec, 1);
  const std::vector<float> expected = expected_values(problem);
  const Result first = run(problem, spec.kernel, kGarbage[0]);
  const Result second = run(problem, spec.kernel, kGarbage[1]);
  Outcome outcome;
  const auto differs = [&](const char* fault, const Facts& facts) {
    outcome.word = "differs";
    outcome.facts.add("fault", fault);
    outcome.facts.append(facts);
  };
  const Differences differences = find_differences(spec, first.bits, expected, allowed_error(spec.dtype));
  if (differences.count > 0) {
    differs("wrong values", differences.facts);
  } else if (first.bits != second.bits) {
    differs("other bits the second time, over other garbage",
            find_differences(spec, second.bits, as_floats(first.bits, spec.dtype), 0.0f).facts);
  } else if (!first.guards_intact || !second.guards_intact) {
    differs("written outside the output", {});
  } else if (const std::int64_t left = problem.counters_left(); left != 0) {
    differs("the workspace is not left at zero", {});
    outcome.facts.add("counters", left);
  } else {
    outcome.facts = differences.facts;
  }
  return outcome;
}

Outcome time_kernel(const AttentionSpec& spec) {
  if (!is_available(spec)) return left_out();
  AttentionProblem problem(spec, 1, true);
  DeviceMemory out(problem.num_values() * problem.value_bytes());
  DeviceMemory flush(kFlushBytes);
  const Stream stream;
  cudaEvent_t begin, end;
  FS_CUDA(cudaEventCreateWithFlags(&begin, cudaEventDefault));
  FS_CUDA(cudaEventCreateWithFlags(&end, cudaEventDefault));
  std::vector<float> times_us;
  for (int round = -3; round < kTimedRounds; ++round) {
    flush.fill(round & 0xff);
    FS_CUDA(cudaEventRecord(begin, stream.get()));
    problem.launch(spec.kernel, out.data(), stream.get());
    FS_CUDA(cudaEventRecord(end, stream.get()));
    stream.wait();
    float milliseconds = 0.0f;
    FS_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= 0) times_us.push_back(1e3f * milliseconds);
  }
  FS_CUDA(cudaEventDestroy(begin));
  FS_CUDA(cudaEventDestroy(end));
  std::ranges::sort(times_us);
  const double median_us = times_us[times_us.size() / 2];
  double visible = 0.0, kv_tokens = 0.0;
  for (const auto& [length, queries] : spec.rows) {
    kv_tokens += length;
    visible += queries * (length - queries) + 0.5 * queries * (queries + 1.0);
  }
  Outcome outcome;
  outcome.facts.add("us", median_us);
  outcome.facts.add("least_us", static_cast<double>(times_us.front()));
  outcome.facts.add("most_us", static_cast<double>(times_us.back()));
  if (spec.kernel == "decode") {
    const double bytes =
        2.0 * kv_tokens * spec.num_kv_heads * spec.head_dim * static_cast<double>(problem.value_bytes());
    outcome.facts.add("gb_per_s", 1e-3 * bytes / median_us);
  } else {
    outcome.facts.add("tflop_per_s", 1e-6 * 4.0 * visible * spec.num_q_heads * spec.head_dim / median_us);
  }
  return outcome;
}

}  // namespace fastserve::smoke
