// Log-probabilities of chosen tokens, their ranks, and the largest ones.
//
// The two passes of vocab_scan_cuda.cu, then one CTA of 1024 threads per row, which reads the blocks that matter only:
// those with a larger logit than the token's for the rank, those above the num_top-th largest block maximum for the
// list. Each of the listed tokens counts the larger ones to find its place. Shared memory: 37 KiB.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vocab_select.cuh"
#include "kernels/sampling/token_logprobs.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 1024;
static_assert(kMaxTopLogprobs <= kMaxCandidates);

struct Scratch {
  Candidates candidates;
  Bins bins;
  Key key_partials[kWarp];
  double double_partials[kWarp];
  float partials[kWarp];
};

FS_DEVICE bool is_finite(float x) { return fabsf(x) <= kLargestFloat; }

/// How many tokens of the row have a finite logit above `logit`.
FS_DEVICE Key num_above(const WholeRow& row, const BlockMaxima& maxima, float logit, Scratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Key count = 0;
  for (std::int64_t first = threadIdx.x / kWarp * kWarp; first < maxima.num_blocks; first += kThreads) {
    const std::int64_t block = first + lane;
    unsigned pending = __ballot_sync(kAllLanes, block < maxima.num_blocks && maxima.maxima[block] > logit);
    for (; pending != 0; pending &= pending - 1) {
      const std::int64_t begin = (first + __ffs(static_cast<int>(pending)) - 1) * kVocabBlock;
      for (std::int64_t id = begin + lane; id < begin + kVocabBlock && id < row.vocab_size; id += kWarp) {
        count += is_finite(row.logits[id]) && row.logits[id] > logit;
      }
    }
  }
  __syncthreads();
  return block_sum(count, scratch.key_partials);
}

/// Gather at least the first `count` tokens of the row, or all where there are fewer; never more than fit.
FS_DEVICE void gather_top(const WholeRow& row, const BlockMaxima& maxima, std::int64_t count, Scratch& scratch) {
  gather(row, maxima, threshold_of(maxima, count, scratch.bins, scratch.key_partials), scratch.candidates);
  if (scratch.candidates.count <= kMaxCandidates) return;
  const auto one = [](std::int64_t, Key) { return Key{1}; };
  gather(row, maxima, descend(row, row.format, static_cast<Key>(count), scratch.bins, one), scratch.candidates);
}

__global__ void __launch_bounds__(kThreads, 1) token_logprobs_kernel(TokenLogprobsParams p) {
  __shared__ Scratch scratch;
  const std::int64_t index = blockIdx.x;
  const KeyFormat format(p.rows.vocab_size);
  const BlockMaxima maxima{p.rows.maxima + index * p.rows.num_blocks, p.rows.num_blocks, format};
  const WholeRow row{row_logits(p.rows, index), p.rows.vocab_size, format, row_maximum(p.rows, index, scratch.partials),
                     1.0};
  double log_sum = 0.0;
  if (row.maximum != -INFINITY) {
    double own = 0.0;
    for (std::int64_t b = threadIdx.x; b < p.rows.num_blocks; b += kThreads) {
      own += p.rows.masses[index * p.rows.num_blocks + b];
    }
    log_sum = log(block_sum(own, scratch.double_partials));
  }
  const auto logprob = [&](float logit) {
    return is_finite(logit) ? static_cast<float>(static_cast<double>(logit) - row.maximum - log_sum) : -INFINITY;
  };

  const std::int32_t token = p.tokens[index];
  const bool known = token >= 0 && token < p.rows.vocab_size;
  const float logit = known && is_finite(row.logits[token]) ? row.logits[token] : -INFINITY;
  const Key above = num_above(row, maxima, logit, scratch);
  if (threadIdx.x == 0) {
    p.token_logprobs[index] = logprob(logit);
    p.ranks[index] = known ? static_cast<std::int32_t>(above) + 1 : 0;
  }

  std::int32_t* ids = p.top_ids + index * p.num_top;
  float* logprobs = p.top_logprobs + index * p.num_top;
  if (p.num_top == 0) return;
  gather_top(row, maxima, p.num_top, scratch);
  const Candidates& candidates = scratch.candidates;
  for (int i = static_cast<int>(threadIdx.x); i < candidates.count; i += kThreads) {
    const Key key = candidates.keys[i];
    int place = 0;
    for (int j = 0; j < candidates.count; ++j) place += candidates.keys[j] > key;
    if (place >= p.num_top) continue;
    ids[place] = format.id(key);
    logprobs[place] = logprob(row.logits[format.id(key)]);
  }
  for (std::int64_t place = candidates.count + threadIdx.x; place < p.num_top; place += kThreads) {
    ids[place] = -1;
    logprobs[place] = -INFINITY;
  }
}

}  // namespace

void token_logprobs_cuda(const TokenLogprobsParams& params, void* stream) {
  block_maxima_cuda(params.rows, stream);
  block_masses_cuda(params.rows, stream);
  launch(FS_SITE("token_logprobs"), token_logprobs_kernel, dim3(static_cast<unsigned>(params.rows.num_rows)), kThreads,
         stream, params);
}

}  // namespace fastserve::kernels
