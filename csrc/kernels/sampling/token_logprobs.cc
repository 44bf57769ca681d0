#include "kernels/sampling/token_logprobs.h"

#include <cmath>
#include <limits>

#include "base/thread_pool.h"
#include "kernels/operand.h"
#include "kernels/sampling/vocab_row.h"

namespace fastserve::kernels {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

void read_row(const TokenLogprobsInputs& in, std::int64_t row, VocabRow& vocab) {
  vocab.scan(in.logits.as<float>() + row * row_stride(in.logits));
  const double log_sum = std::isfinite(vocab.maximum()) ? std::log(vocab.weigh(1.0f)) : 0;
  const auto logprob = [&](float logit) {
    return std::isfinite(logit) ? static_cast<float>(double{logit} - vocab.maximum() - log_sum) : kMinusInf;
  };

  const std::int32_t token = in.tokens.as<std::int32_t>()[row];
  const bool known = token >= 0 && token < vocab.vocab_size();
  const float logit = known ? vocab.logits()[token] : kMinusInf;
  in.token_logprobs.as<float>()[row] = logprob(logit);
  const float level = std::isfinite(logit) ? logit : kMinusInf;
  in.ranks.as<std::int32_t>()[row] = known ? static_cast<std::int32_t>(vocab.num_above(level) + 1) : 0;

  const std::int64_t num_top = in.top_ids.size(1);
  std::int32_t* ids = in.top_ids.as<std::int32_t>() + row * num_top;
  float* logprobs = in.top_logprobs.as<float>() + row * num_top;
  std::int64_t filled = 0;
  for (const Candidate& candidate : vocab.top(num_top)) {
    ids[filled] = candidate.id;
    logprobs[filled++] = logprob(candidate.logit);
  }
  for (; filled < num_top; ++filled) {
    ids[filled] = -1;
    logprobs[filled] = kMinusInf;
  }
}

#ifdef FASTSERVE_WITH_CUDA

TokenLogprobsParams device_params(const TokenLogprobsInputs& in) {
  const auto address = [&](const TensorView& array, const char* name) {
    return device_address(array, in.logits, name);
  };
  const std::int64_t num_top = in.top_ids.size(1);
  FS_REQUIRE(num_top <= kMaxTopLogprobs, "on a GPU num_top must be at most ", kMaxTopLogprobs, ", got ", num_top);
  TokenLogprobsParams params{
      .rows = vocab_rows_on_gpu(in.logits, in.workspace, false),
      .tokens = static_cast<const std::int32_t*>(address(in.tokens, "tokens")),
      .token_logprobs = static_cast<float*>(address(in.token_logprobs, "token_logprobs")),
      .ranks = static_cast<std::int32_t*>(address(in.ranks, "ranks")),
      .top_ids = static_cast<std::int32_t*>(address(in.top_ids, "top_ids")),
      .top_logprobs = static_cast<float*>(address(in.top_logprobs, "top_logprobs")),
      .num_top = num_top,
  };
  params.rows.inverse_temperature = nullptr;  // 1 for every row
  return params;
}

#endif

}  // namespace

void token_logprobs(const TokenLogprobsInputs& inputs, std::int64_t stream, ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&inputs.logits, "logits"}, {inputs.workspace, "workspace"}});
  require_ndim(inputs.logits, 2, "logits");
  const std::int64_t num_rows = inputs.logits.size(0);
  const std::int64_t vocab_size = inputs.logits.size(1);
  require_matrix(inputs.logits, num_rows, vocab_size, DType::kFloat32, "logits");
  require_vector(inputs.tokens, num_rows, DType::kInt32, "tokens");
  require_vector(inputs.token_logprobs, num_rows, DType::kFloat32, "token_logprobs");
  require_vector(inputs.ranks, num_rows, DType::kInt32, "ranks");
  require_ndim(inputs.top_ids, 2, "top_ids");
  const std::int64_t num_top = inputs.top_ids.size(1);
  require_matrix(inputs.top_ids, num_rows, num_top, DType::kInt32, "top_ids");
  require_matrix(inputs.top_logprobs, num_rows, num_top, DType::kFloat32, "top_logprobs");
  require_contiguous(inputs.top_ids, "top_ids");
  require_contiguous(inputs.top_logprobs, "top_logprobs");
  if (device == DeviceType::kCpu) {
    for (const auto* array :
         {&inputs.tokens, &inputs.token_logprobs, &inputs.ranks, &inputs.top_ids, &inputs.top_logprobs}) {
      require_cpu(*array, "every array beside logits on the CPU");
    }
    for_each_row(pool, num_rows, vocab_size, [&](std::int64_t row, VocabRow& vocab) { read_row(inputs, row, vocab); });
    return;
  }
#ifdef FASTSERVE_WITH_CUDA
  if (num_rows > 0) token_logprobs_cuda(device_params(inputs), reinterpret_cast<void*>(stream));
#endif
}

}  // namespace fastserve::kernels
