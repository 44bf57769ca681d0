#include "kernels/sampling/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "base/thread_pool.h"
#include "kernels/operand.h"
#include "kernels/sampling/vocab_row.h"
#include "kernels/sampling/vocab_scan.h"

namespace fastserve::kernels {
namespace {

/// A uniform number in [0, 1) that depends on (seed, counter) only.
/// Source: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC '11).
double uniform(std::uint64_t seed, std::uint64_t counter) {
  std::array<std::uint32_t, 4> x{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), 0, 0};
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * x[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<std::uint32_t>(product1 >> 32) ^ x[1] ^ key0, static_cast<std::uint32_t>(product1),
         static_cast<std::uint32_t>(product0 >> 32) ^ x[3] ^ key1, static_cast<std::uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const std::uint64_t bits = (std::uint64_t{x[0]} << 32 | x[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

/// The settings of one row.
struct Row {
  float temperature;
  std::int64_t top_k;  // vocabulary size when off
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  std::uint64_t seed;
  std::uint64_t counter;
  std::span<const std::int32_t> prompt;
  std::span<const std::int32_t> output;
  std::span<const std::int32_t> banned;
  std::span<const std::int32_t> biased;
  const float* biases;  // one per biased token
  bool only_biased;

  bool settings_fit() const {
    return kernels::settings_fit(temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty);
  }
  bool penalises() const {
    const bool penalties = repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
    return penalties && prompt.size() + output.size() > 0;
  }
  bool changes_logits() const { return !banned.empty() || !biased.empty() || penalises(); }
};

std::span<const std::int32_t> ragged(const TensorView& start, const TensorView& tokens, std::int64_t row) {
  const auto* offsets = start.as<std::int32_t>();
  return {tokens.as<std::int32_t>() + offsets[row], static_cast<std::size_t>(offsets[row + 1] - offsets[row])};
}

Row row_of(const SamplingInputs& in, std::int64_t row) {
  const auto history = ragged(in.history_start, in.history_tokens, row);
  const auto prompt_len = static_cast<std::size_t>(in.history_prompt_len.as<std::int32_t>()[row]);
  const std::int64_t top_k = in.settings[kTopK].as<std::int32_t>()[row];
  const std::int64_t vocab_size = in.logits.size(1);
  return {.temperature = in.settings[kTemperature].as<float>()[row],
          .top_k = top_k <= 0 || top_k > vocab_size ? vocab_size : top_k,
          .top_p = in.settings[kTopP].as<float>()[row],
          .min_p = in.settings[kMinP].as<float>()[row],
          .repetition_penalty = in.settings[kRepetitionPenalty].as<float>()[row],
          .presence_penalty = in.settings[kPresencePenalty].as<float>()[row],
          .frequency_penalty = in.settings[kFrequencyPenalty].as<float>()[row],
          .seed = static_cast<std::uint64_t>(in.seeds.as<std::int64_t>()[row]),
          .counter = static_cast<std::uint64_t>(in.counters.as<std::int64_t>()[row]),
          .prompt = history.first(prompt_len),
          .output = history.subspan(prompt_len),
          .banned = ragged(in.banned_start, in.banned_tokens, row),
          .biased = ragged(in.bias_start, in.bias_tokens, row),
          .biases = in.bias_values.as<float>() + in.bias_start.as<std::int32_t>()[row],
          .only_biased = in.only_biased.as<std::int32_t>()[row] != 0};
}

/// Add the biases to a copy of the logits; where only biased tokens may be sampled, the others become -inf.
void add_biases(const Row& row, const float* logits, float* changed, std::int64_t vocab_size) {
  if (row.only_biased && !row.biased.empty()) std::fill_n(changed, vocab_size, -std::numeric_limits<float>::infinity());
  for (std::size_t i = 0; i < row.biased.size(); ++i) {
    const std::int32_t token = row.biased[i];
    if (token >= 0 && token < vocab_size) changed[token] = logits[token] + row.biases[i];
  }
}

/// Whether the output ends in the tokens that stand, as ~id, before the banned token at `index`.
bool ban_applies(const Row& row, std::size_t index) {
  auto last = row.output.rbegin();
  for (; index > 0 && row.banned[index - 1] < 0; --index, ++last)
    if (last == row.output.rend() || *last != ~row.banned[index - 1]) return false;
  return true;
}

/// Repetition counts prompt and output, presence and frequency the output only.
void penalise(const Row& row, float* logits, std::int32_t* marks) {
  constexpr std::int32_t kRepeated = 1;
  constexpr std::int32_t kOutput = 2;  // once per occurrence
  const auto repeat = [&](std::int32_t token) {
    if (marks[token] & kRepeated) return;
    marks[token] |= kRepeated;
    logits[token] = logits[token] > 0 ? logits[token] / row.repetition_penalty : logits[token] * row.repetition_penalty;
  };
  for (const std::int32_t token : row.prompt) repeat(token);
  for (const std::int32_t token : row.output) {
    repeat(token);
    marks[token] += kOutput;
  }
  for (const std::int32_t token : row.output) {
    const std::int32_t count = marks[token] / kOutput;
    if (count == 0) continue;
    logits[token] -= row.frequency_penalty * static_cast<float>(count) + row.presence_penalty;
    marks[token] = 0;
  }
  for (const std::int32_t token : row.prompt) marks[token] = 0;
}

const float* changed_logits(const Row& row, const float* logits, VocabRow& vocab) {
  float* changed = vocab.copy(logits);
  add_biases(row, logits, changed, vocab.vocab_size());
  if (row.penalises()) penalise(row, changed, vocab.marks());
  for (std::size_t i = 0; i < row.banned.size(); ++i) {
    const std::int32_t token = row.banned[i];
    if (token >= 0 && token < vocab.vocab_size() && ban_applies(row, i))
      changed[token] = -std::numeric_limits<float>::infinity();
  }
  return changed;
}

/// Probability of a token relative to the likeliest one.
struct Weigh {
  float maximum;
  double inverse_temperature;
  double operator()(float logit) const { return std::exp((double{logit} - maximum) * inverse_temperature); }
};

/// How many of the ordered tokens top_p (mass before a token below `wanted`) and min_p keep: at least one.
std::size_t num_kept(std::span<const Candidate> tokens, const Weigh& weigh, double wanted, double min_p) {
  double mass = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const double weight = weigh(tokens[i].logit);
    if (i > 0 && (mass >= wanted || weight < min_p)) return i;
    mass += weight;
  }
  return tokens.size();
}

/// The tokens that top_k, top_p and min_p keep, in order.
std::span<const Candidate> kept_tokens(const Row& row, VocabRow& vocab, const Weigh& weigh) {
  const bool bounded = row.top_k < vocab.vocab_size();
  double wanted = std::numeric_limits<double>::infinity();
  if (!bounded && row.top_p < 1) wanted = row.top_p * vocab.weigh(static_cast<float>(weigh.inverse_temperature));
  // Without top_k, usually few tokens hold the mass: look at more and more of them.
  for (std::int64_t count = bounded ? row.top_k : 64;; count *= 8) {
    const auto tokens = vocab.top(count);
    if (bounded && row.top_p < 1) {
      wanted = 0;
      for (const Candidate& token : tokens) wanted += row.top_p * weigh(token.logit);
    }
    const std::size_t kept = num_kept(tokens, weigh, wanted, row.min_p);
    if (bounded || kept < tokens.size() || count >= vocab.vocab_size()) return tokens.first(kept);
  }
}

/// The token where the cumulative weight passes `number` of the total.
std::int32_t draw_from(std::span<const Candidate> tokens, const Weigh& weigh, double number) {
  double left = 0;
  for (const Candidate& token : tokens) left += number * weigh(token.logit);
  for (const Candidate& token : tokens) {
    left -= weigh(token.logit);
    if (left < 0) return token.id;
  }
  return tokens.front().id;  // rounding led past the last one
}

/// The same over the whole vocabulary in order of id: first the block, then the token.
std::int32_t draw_from_all(VocabRow& vocab, const Weigh& weigh, double number) {
  double left = number * vocab.weigh(static_cast<float>(weigh.inverse_temperature));
  std::int64_t first = 0;
  for (const float mass : vocab.masses()) {
    if (left < mass) break;
    left -= mass;
    first += kVocabBlock;
  }
  std::int32_t chosen = vocab.argmax();
  for (std::int64_t id = first; id < std::min(first + kVocabBlock, vocab.vocab_size()); ++id) {
    const float logit = vocab.logits()[id];
    const double weight = std::isfinite(logit) ? weigh(logit) : 0;
    if (weight > 0) chosen = static_cast<std::int32_t>(id);
    left -= weight;
    if (left < 0) break;
  }
  return chosen;
}

std::int32_t sample_row(const Row& row, const float* logits, VocabRow& vocab) {
  vocab.scan(row.changes_logits() ? changed_logits(row, logits, vocab) : logits);
  const std::int32_t best = vocab.argmax();
  if (best < 0) return kNoFiniteLogit;
  if (row.temperature < kGreedyTemperature) return best;
  const Weigh weigh{vocab.maximum(), 1.0 / row.temperature};
  const double number = uniform(row.seed, row.counter);
  if (row.top_k == vocab.vocab_size() && row.top_p >= 1 && row.min_p <= 0) return draw_from_all(vocab, weigh, number);
  return draw_from(kept_tokens(row, vocab, weigh), weigh, number);
}

void check_ragged_shape(const TensorView& start, const TensorView& tokens, std::int64_t num_rows, const char* name) {
  require_vector(start, num_rows + 1, DType::kInt32, name);
  require_ndim(tokens, 1, name);
  require_vector(tokens, tokens.size(0), DType::kInt32, name);
}

void check_shapes(const SamplingInputs& in) {
  require_ndim(in.logits, 2, "logits");
  const std::int64_t num_rows = in.logits.size(0);
  require_matrix(in.logits, num_rows, in.logits.size(1), DType::kFloat32, "logits");
  constexpr std::array<const char*, kNumSettings> kNames = {
      "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"};
  for (std::size_t i = 0; i < kNumSettings; ++i)
    require_vector(in.settings[i], num_rows, i == kTopK ? DType::kInt32 : DType::kFloat32, kNames[i]);
  require_vector(in.seeds, num_rows, DType::kInt64, "seeds");
  require_vector(in.counters, num_rows, DType::kInt64, "counters");
  require_vector(in.history_prompt_len, num_rows, DType::kInt32, "history_prompt_len");
  require_vector(in.out, num_rows, DType::kInt32, "out");
  check_ragged_shape(in.history_start, in.history_tokens, num_rows, "history");
  check_ragged_shape(in.banned_start, in.banned_tokens, num_rows, "banned");
  check_ragged_shape(in.bias_start, in.bias_tokens, num_rows, "bias");
  require_vector(in.bias_values, in.bias_tokens.size(0), DType::kFloat32, "bias_values");
  require_vector(in.only_biased, num_rows, DType::kInt32, "only_biased");
}

/// Whether the tokens of a row lie within their array.
bool spans_fit(const TensorView& start, const TensorView& tokens, std::int64_t row) {
  const auto* offsets = start.as<std::int32_t>();
  return offsets[row] >= 0 && offsets[row] <= offsets[row + 1] && offsets[row + 1] <= tokens.size(0);
}

bool lists_fit(const SamplingInputs& in, std::int64_t row) {
  if (!spans_fit(in.history_start, in.history_tokens, row) || !spans_fit(in.banned_start, in.banned_tokens, row) ||
      !spans_fit(in.bias_start, in.bias_tokens, row))
    return false;
  const auto history = ragged(in.history_start, in.history_tokens, row);
  const std::int32_t prompt_len = in.history_prompt_len.as<std::int32_t>()[row];
  const std::int64_t vocab_size = in.logits.size(1);
  return prompt_len >= 0 && static_cast<std::size_t>(prompt_len) <= history.size() &&
         std::ranges::all_of(history, [=](std::int32_t token) { return token >= 0 && token < vocab_size; });
}

std::int32_t choose(const SamplingInputs& in, std::int64_t index, VocabRow& vocab) {
  if (!lists_fit(in, index)) return kBadLists;
  const Row row = row_of(in, index);
  if (!row.settings_fit()) return kBadSettings;
  return sample_row(row, in.logits.as<float>() + index * row_stride(in.logits), vocab);
}

void sample_on_cpu(const SamplingInputs& in, ThreadPool& pool) {
  for (const TensorView& setting : in.settings) require_cpu(setting, "every array beside logits on the CPU");
  for (const auto* array :
       {&in.seeds, &in.counters, &in.history_start, &in.history_tokens, &in.history_prompt_len, &in.banned_start,
        &in.banned_tokens, &in.bias_start, &in.bias_tokens, &in.bias_values, &in.only_biased, &in.out}) {
    require_cpu(*array, "every array beside logits on the CPU");
  }
  for_each_row(pool, in.logits.size(0), in.logits.size(1),
               [&](std::int64_t row, VocabRow& vocab) { in.out.as<std::int32_t>()[row] = choose(in, row, vocab); });
}

#ifdef FASTSERVE_WITH_CUDA

SamplingParams device_params(const SamplingInputs& in) {
  const auto address = [&]<typename T>(const TensorView& array, const char* name, T*& pointer) {
    pointer = static_cast<T*>(device_address(array, in.logits, name));
  };
  SamplingParams params{};
  address(in.settings[kTemperature], "temperature", params.temperature);
  address(in.settings[kTopK], "top_k", params.top_k);
  address(in.settings[kTopP], "top_p", params.top_p);
  address(in.settings[kMinP], "min_p", params.min_p);
  address(in.settings[kRepetitionPenalty], "repetition_penalty", params.repetition_penalty);
  address(in.settings[kPresencePenalty], "presence_penalty", params.presence_penalty);
  address(in.settings[kFrequencyPenalty], "frequency_penalty", params.frequency_penalty);
  address(in.seeds, "seeds", params.seeds);
  address(in.counters, "counters", params.counters);
  address(in.history_start, "history_start", params.history_start);
  address(in.history_tokens, "history_tokens", params.history_tokens);
  address(in.history_prompt_len, "history_prompt_len", params.history_prompt_len);
  address(in.banned_start, "banned_start", params.banned_start);
  address(in.banned_tokens, "banned_tokens", params.banned_tokens);
  address(in.bias_start, "bias_start", params.bias_start);
  address(in.bias_tokens, "bias_tokens", params.bias_tokens);
  address(in.bias_values, "bias_values", params.bias_values);
  address(in.only_biased, "only_biased", params.only_biased);
  address(in.out, "out", params.out);
  params.num_history = in.history_tokens.size(0);
  params.num_banned = in.banned_tokens.size(0);
  params.num_biased = in.bias_tokens.size(0);
  const bool changes_logits = params.num_history + params.num_banned + params.num_biased > 0;
  params.rows = vocab_rows_on_gpu(in.logits, in.workspace, changes_logits);
  return params;
}

#endif

}  // namespace

void sample(const SamplingInputs& inputs, std::int64_t stream, ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&inputs.logits, "logits"}, {inputs.workspace, "workspace"}});
  check_shapes(inputs);
  if (device == DeviceType::kCpu) return sample_on_cpu(inputs, pool);
#ifdef FASTSERVE_WITH_CUDA
  if (inputs.logits.size(0) > 0) sample_cuda(device_params(inputs), reinterpret_cast<void*>(stream));
#endif
}

}  // namespace fastserve::kernels
