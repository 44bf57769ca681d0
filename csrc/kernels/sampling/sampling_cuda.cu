// Choosing a token per row.
//
// Four kernels, always the same ones, so that they may be captured: `prepare` (biases, penalties and bans on a copy of the
// rows that have any), the two passes of vocab_scan_cuda.cu, and `pick`. Thread mapping of prepare and pick: one CTA of 1024
// threads per row. Shared memory of pick: 37 KiB. Nothing is sorted: pick gathers the tokens above a block maximum into
// shared memory, where usually all are that the filters can keep, and finds the limits of top_k and top_p and the token
// drawn by descending through the digits of the keys (vocab_select.cuh); where more tokens matter it does the same on
// the row in memory. The numbers are those of the CPU kernels: masses of blocks have the bits of the AVX-512 kernel,
// probabilities of single tokens are in double or in fixed point with 43 bits, so a token differs from the CPU's only
// where the random number falls within about 1e-12 of the border between two.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vocab_select.cuh"
#include "kernels/sampling/sampling.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 1024;

FS_DEVICE int clamp_to(int x, int low, int high) { return min(max(x, low), high); }

/// tokens[begin .. end) of a row; what lies outside the array is left out.
struct Span {
  int begin;
  int end;
};
FS_DEVICE Span span_of(const std::int32_t* start, std::int64_t row, std::int64_t num_tokens) {
  const int begin = clamp_to(start[row], 0, static_cast<int>(num_tokens));
  return {begin, clamp_to(start[row + 1], begin, static_cast<int>(num_tokens))};
}

struct Filters {
  bool greedy;
  std::int64_t top_k;  // 0 is off
  double top_p;
  double min_p;
  double inverse_temperature;

  FS_DEVICE bool any() const { return top_k > 0 || top_p < 1.0 || min_p > 0.0; }
  /// Whether the mass of the whole vocabulary matters.
  FS_DEVICE bool needs_masses() const { return !greedy && top_k == 0 && (top_p < 1.0 || !(min_p > 0.0)); }
};

FS_DEVICE Filters filters_of(const SamplingParams& p, std::int64_t row) {
  const float temperature = p.temperature[row];
  const std::int64_t top_k = p.top_k[row];
  return {.greedy = !(temperature >= kGreedyTemperature),
          .top_k = top_k <= 0 || top_k >= p.rows.vocab_size ? 0 : top_k,
          .top_p = p.top_p[row],
          .min_p = p.min_p[row],
          .inverse_temperature = 1.0 / static_cast<double>(temperature)};
}

/// The 53 bits of a uniform number in [0, 1) that depends on (seed, counter) only: Philox4x32-10, as in sampling.cc.
FS_DEVICE Key uniform_bits(Key seed, Key counter) {
  unsigned x0 = static_cast<unsigned>(counter), x1 = static_cast<unsigned>(counter >> 32), x2 = 0, x3 = 0;
  unsigned key0 = static_cast<unsigned>(seed), key1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const Key product0 = Key{0xD2511F53u} * x0;
    const Key product1 = Key{0xCD9E8D57u} * x2;
    x0 = static_cast<unsigned>(product1 >> 32) ^ x1 ^ key0;
    x1 = static_cast<unsigned>(product1);
    x2 = static_cast<unsigned>(product0 >> 32) ^ x3 ^ key1;
    x3 = static_cast<unsigned>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return (Key{x0} << 32 | x1) >> 11;
}

/// Repetition counts prompt and output, presence and frequency the output only. A token's marks are 1 for the prompt
/// and 2 per occurrence in the output; the first thread to take them away changes the logit, so each is changed once.
FS_DEVICE void penalise(const SamplingParams& p, std::int64_t row, Span history, int prompt_end) {
  const float repetition = p.repetition_penalty[row];
  const float presence = p.presence_penalty[row];
  const float frequency = p.frequency_penalty[row];
  float* logits = p.rows.changed_logits + row * p.rows.vocab_size;
  std::int32_t* marks = p.rows.marks + row * p.rows.vocab_size;
  const auto for_each_token = [&](auto handle) {
    for (int i = history.begin + static_cast<int>(threadIdx.x); i < history.end; i += kThreads) {
      const std::int32_t token = p.history_tokens[i];
      if (token >= 0 && token < p.rows.vocab_size) handle(token, i < prompt_end);
    }
    __syncthreads();
  };
  for_each_token([&](std::int32_t token, bool) { marks[token] = 0; });
  for_each_token([&](std::int32_t token, bool in_prompt) {
    if (in_prompt) {
      atomicOr(&marks[token], 1);
    } else {
      atomicAdd(&marks[token], 2);
    }
  });
  for_each_token([&](std::int32_t token, bool) {
    const std::int32_t mark = atomicExch(&marks[token], 0);
    if (mark == 0) return;
    float logit = logits[token];
    logit = logit > 0.0f ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition);
    const int count = mark / 2;
    if (count > 0) {
      const float taken = __fadd_rn(__fmul_rn(frequency, static_cast<float>(count)), presence);
      logit = __fsub_rn(logit, taken);
    }
    logits[token] = logit;
  });
}

/// Write the logits of a row with its biases; where only biased tokens may be sampled, the others become -inf.
FS_DEVICE void copy_with_biases(const SamplingParams& p, std::int64_t row, Span biased) {
  const float* from = p.rows.logits + row * p.rows.logits_stride;
  float* to = p.rows.changed_logits + row * p.rows.vocab_size;
  const bool only_biased = biased.end > biased.begin && p.only_biased[row] != 0;
  for (std::int64_t id = threadIdx.x; id < p.rows.vocab_size; id += kThreads)
    to[id] = only_biased ? -INFINITY : from[id];
  __syncthreads();
  for (int i = biased.begin + static_cast<int>(threadIdx.x); i < biased.end; i += kThreads) {
    const std::int32_t token = p.bias_tokens[i];
    if (token >= 0 && token < p.rows.vocab_size) to[token] = __fadd_rn(from[token], p.bias_values[i]);
  }
  __syncthreads();
}

/// Whether the output, history tokens [output_begin .. output_end), ends in the tokens that stand, as ~id, before the
/// banned token at `index`.
FS_DEVICE bool ban_applies(const SamplingParams& p, Span banned, int index, int output_begin, int output_end) {
  for (int last = output_end; index > banned.begin && p.banned_tokens[index - 1] < 0; --index) {
    if (--last < output_begin || p.history_tokens[last] != ~p.banned_tokens[index - 1]) return false;
  }
  return true;
}

__global__ void __launch_bounds__(kThreads, 1) prepare_kernel(SamplingParams p) {
  const std::int64_t row = blockIdx.x;
  const Span history = span_of(p.history_start, row, p.num_history);
  const Span banned = span_of(p.banned_start, row, p.num_banned);
  const Span biased = span_of(p.bias_start, row, p.num_biased);
  const bool penalties =
      history.end > history.begin &&
      (p.repetition_penalty[row] != 1.0f || p.presence_penalty[row] != 0.0f || p.frequency_penalty[row] != 0.0f);
  const bool changes =
      p.rows.changed_logits != nullptr && (penalties || banned.end > banned.begin || biased.end > biased.begin);
  if (threadIdx.x == 0) {
    const Filters filters = filters_of(p, row);
    p.rows.inverse_temperature[row] = filters.needs_masses() ? static_cast<float>(filters.inverse_temperature) : -1.0f;
    p.rows.changed[row] = changes ? 1 : 0;
  }
  if (!changes) return;
  copy_with_biases(p, row, biased);
  const int prompt_end = history.begin + clamp_to(p.history_prompt_len[row], 0, history.end - history.begin);
  if (penalties) penalise(p, row, history, prompt_end);
  float* to = p.rows.changed_logits + row * p.rows.vocab_size;
  for (int i = banned.begin + static_cast<int>(threadIdx.x); i < banned.end; i += kThreads) {
    const std::int32_t token = p.banned_tokens[i];
    const bool known = token >= 0 && token < p.rows.vocab_size;
    if (known && ban_applies(p, banned, i, prompt_end, history.end)) to[token] = -INFINITY;
  }
}

/// Shared memory of pick.
struct Scratch {
  Candidates candidates;
  Bins bins;
  Key key_partials[kWarp];
  double double_partials[kWarp];
  float partials[kWarp];
  int first;
  int first_within;
  double left;
  double weights[kVocabBlock];
};

/// The first token with the largest logit.
FS_DEVICE std::int32_t first_of_largest(const WholeRow& row, const BlockMaxima& maxima, Scratch& scratch) {
  if (threadIdx.x == 0) scratch.first = scratch.first_within = 0x7fffffff;
  __syncthreads();
  for (std::int64_t b = threadIdx.x; b < maxima.num_blocks; b += kThreads) {
    if (maxima.maxima[b] == row.maximum) atomicMin(&scratch.first, static_cast<int>(b));
  }
  __syncthreads();
  const std::int64_t id = scratch.first * kVocabBlock + threadIdx.x;
  if (threadIdx.x < kVocabBlock && id < row.vocab_size && row.logits[id] == row.maximum) {
    atomicMin(&scratch.first_within, static_cast<int>(id));
  }
  __syncthreads();
  return scratch.first_within;
}

/// Sum over the threads before this one, in a fixed order; `total` is that over all.
FS_DEVICE double sum_before(double own, double* partials, double& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sum = own;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const double other = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane >= offset) sum += other;
  }
  const double within = __shfl_up_sync(kAllLanes, sum, 1);
  __syncthreads();
  if (lane == kWarp - 1) partials[threadIdx.x / kWarp] = sum;
  __syncthreads();
  double before = 0.0;
  total = 0.0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w == static_cast<int>(threadIdx.x) / kWarp) before = total;
    total += partials[w];
  }
  return before + (lane == 0 ? 0.0 : within);
}

/// The blocks that belong to this thread.
struct Share {
  std::int64_t begin;
  std::int64_t end;
};
FS_DEVICE Share share_of(std::int64_t num_blocks) {
  const std::int64_t each = (num_blocks + kThreads - 1) / kThreads;
  return {min(num_blocks, each * threadIdx.x), min(num_blocks, each * (threadIdx.x + 1))};
}

/// The mass of the row, and with `before` what lies before this thread's share.
FS_DEVICE double mass_of_row(const float* masses, Share share, Scratch& scratch, double& before) {
  double own = 0.0;
  for (std::int64_t b = share.begin; b < share.end; ++b) own += masses[b];
  double total = 0.0;
  before = sum_before(own, scratch.double_partials, total);
  return total;
}

/// The token where the mass, in order of id, passes `number` of the total: first the block, then the token.
FS_DEVICE std::int32_t draw_from_all(const WholeRow& row, const float* masses, std::int64_t num_blocks, double number,
                                     std::int32_t best, Scratch& scratch) {
  const Share share = share_of(num_blocks);
  double left = 0.0;
  const double target = number * mass_of_row(masses, share, scratch, left);
  left = target - left;
  if (threadIdx.x == 0) scratch.first = 0x7fffffff;
  __syncthreads();
  std::int64_t crossing = share.begin;
  for (; crossing < share.end && !(left < masses[crossing]); ++crossing) left -= masses[crossing];
  if (crossing < share.end) atomicMin(&scratch.first, static_cast<int>(crossing));
  __syncthreads();
  if (scratch.first == 0x7fffffff) return best;  // rounding led past the last block
  if (crossing < share.end && crossing == scratch.first) scratch.left = left;
  const std::int64_t id = scratch.first * kVocabBlock + threadIdx.x;
  if (threadIdx.x < kVocabBlock) {
    const bool there = id < row.vocab_size && fabsf(row.logits[id]) <= kLargestFloat;
    scratch.weights[threadIdx.x] = there ? row.weigh(row.logits[id]) : 0.0;
  }
  __syncthreads();
  left = scratch.left;
  std::int32_t chosen = best;
  for (int i = 0; i < kVocabBlock; ++i) {
    if (scratch.weights[i] > 0.0) chosen = scratch.first * static_cast<int>(kVocabBlock) + i;
    left -= scratch.weights[i];
    if (left < 0.0) break;
  }
  return chosen;
}

/// How much of the mass the filters want, and how likely a token must be; in fixed point.
struct Limits {
  Key wanted_mass;  // of top_p without top_k; 0 with it
  Key min_weight;
};

FS_DEVICE Key fixed_point_up(double weight) { return static_cast<Key>(ceil(weight * kWeightUnit)); }

/// Draw from the tokens that the filters keep; all of those are among the items.
template <typename Items>
FS_DEVICE std::int32_t draw_filtered(const Items& items, KeyFormat format, const Filters& filters, Limits limits,
                                     Key number_bits, Scratch& scratch) {
  Key cut = 1;  // keys from here on are kept
  if (filters.top_k > 0) {
    const auto one = [](std::int64_t, Key) { return Key{1}; };
    if (sum_over(items, scratch.key_partials, one) > static_cast<Key>(filters.top_k)) {
      cut = descend(items, format, static_cast<Key>(filters.top_k), scratch.bins, one);
    }
  }
  if (filters.top_p < 1.0) {
    const auto weight = [&](std::int64_t i, Key key) { return key >= cut ? items.weight(i) : Key{0}; };
    const Key mass = sum_over(items, scratch.key_partials, weight);
    Key wanted = limits.wanted_mass;
    if (filters.top_k > 0) wanted = static_cast<Key>(ceil(filters.top_p * static_cast<double>(mass)));
    if (wanted < mass) cut = descend(items, format, max(wanted, Key{1}), scratch.bins, weight);
  }
  const auto kept = [&](std::int64_t i, Key key) {
    const Key weight = key >= cut ? items.weight(i) : Key{0};
    return weight >= limits.min_weight ? weight : Key{0};
  };
  const Key total = sum_over(items, scratch.key_partials, kept);
  // floor(number * total) with number = number_bits / 2^53.
  const Key target = __umul64hi(number_bits, total) << 11 | number_bits * total >> 53;
  return format.id(descend(items, format, target + 1, scratch.bins, kept));
}

/// Weights of the candidates gathered; whether they are all there and hold what the filters can keep.
FS_DEVICE bool candidates_suffice(const WholeRow& row, const Filters& filters, Limits limits, bool all_tokens,
                                  Scratch& scratch) {
  Candidates& candidates = scratch.candidates;
  if (candidates.count > kMaxCandidates) return false;
  for (std::int64_t i = threadIdx.x; i < candidates.count; i += kThreads) {
    candidates.weights[i] = row.weight(row.format.id(candidates.keys[i]));
  }
  __syncthreads();
  if (all_tokens || filters.top_k > 0) return true;
  const auto weight = [&](std::int64_t i, Key) { return candidates.weight(i); };
  const auto unlikely = [&](std::int64_t i, Key) { return Key{candidates.weight(i) < limits.min_weight}; };
  if (sum_over(candidates, scratch.key_partials, unlikely) > 0) return true;
  return filters.top_p < 1.0 && sum_over(candidates, scratch.key_partials, weight) >= limits.wanted_mass;
}

/// Gather what the filters can keep into shared memory; false when it is more than fits.
FS_DEVICE bool gather_candidates(const WholeRow& row, const BlockMaxima& maxima, const Filters& filters, Limits limits,
                                 Scratch& scratch) {
  // Without top_k, usually few tokens hold the mass: look at more of them.
  std::int64_t count = filters.top_k > 0 ? filters.top_k : 64;
  for (; count <= kMaxCandidates; count *= 8) {
    const Key threshold = threshold_of(maxima, count, scratch.bins, scratch.key_partials);
    gather(row, maxima, threshold, scratch.candidates);
    if (candidates_suffice(row, filters, limits, threshold == 0, scratch)) return true;
    if (filters.top_k > 0 || scratch.candidates.count > kMaxCandidates) return false;
  }
  return false;
}

__global__ void __launch_bounds__(kThreads, 1) pick_kernel(SamplingParams p) {
  __shared__ Scratch scratch;
  const std::int64_t index = blockIdx.x;
  const KeyFormat format(p.rows.vocab_size);
  const BlockMaxima maxima{p.rows.maxima + index * p.rows.num_blocks, p.rows.num_blocks, format};
  const Filters filters = filters_of(p, index);
  const WholeRow row{row_logits(p.rows, index), p.rows.vocab_size, format, row_maximum(p.rows, index, scratch.partials),
                     filters.inverse_temperature};
  if (!settings_fit(p.temperature[index], p.top_p[index], p.min_p[index], p.repetition_penalty[index],
                    p.presence_penalty[index], p.frequency_penalty[index])) {
    if (threadIdx.x == 0) p.out[index] = kBadSettings;
    return;
  }
  if (row.maximum == -INFINITY) {
    if (threadIdx.x == 0) p.out[index] = kNoFiniteLogit;
    return;
  }
  std::int32_t token = 0;
  const Key number_bits = uniform_bits(static_cast<Key>(p.seeds[index]), static_cast<Key>(p.counters[index]));
  const float* masses = p.rows.masses + index * p.rows.num_blocks;
  if (filters.greedy || !filters.any()) {
    token = first_of_largest(row, maxima, scratch);
    if (!filters.greedy) {
      const double number = static_cast<double>(number_bits) * 0x1p-53;
      token = draw_from_all(row, masses, p.rows.num_blocks, number, token, scratch);
    }
  } else {
    Limits limits{0, fixed_point_up(fmin(filters.min_p, 1.0))};
    if (filters.top_k == 0 && filters.top_p < 1.0) {
      double before = 0.0;
      limits.wanted_mass =
          fixed_point_up(filters.top_p * mass_of_row(masses, share_of(p.rows.num_blocks), scratch, before));
    }
    token = gather_candidates(row, maxima, filters, limits, scratch)
                ? draw_filtered(scratch.candidates, format, filters, limits, number_bits, scratch)
                : draw_filtered(row, format, filters, limits, number_bits, scratch);
  }
  if (threadIdx.x == 0) p.out[index] = token;
}

}  // namespace

void sample_cuda(const SamplingParams& params, void* stream) {
  const dim3 grid(static_cast<unsigned>(params.rows.num_rows));
  launch(FS_SITE("sample (prepare)"), prepare_kernel, grid, kThreads, stream, params);
  block_maxima_cuda(params.rows, stream);
  block_masses_cuda(params.rows, stream);
  launch(FS_SITE("sample (pick)"), pick_kernel, grid, kThreads, stream, params);
}

}  // namespace fastserve::kernels
