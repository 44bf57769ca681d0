// Attention, sampling and block copies in the sanitizer builds: odd sizes in buffers of exactly the size they may
// touch, on several threads. What they compute is checked against torch in tests/unit/ops.
#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/cpu_isa.h"
#include "base/thread_pool.h"
#include "kernels/memory/copy_blocks.h"
#include "kernels/sampling/sampling.h"
#include "kernels/sampling/token_logprobs.h"
#include "owned_tensor.h"

namespace fastserve::kernels {
namespace {

Tensor<std::int32_t> ints(const std::vector<std::int32_t>& values) {
  Tensor<std::int32_t> tensor({static_cast<std::int64_t>(values.size())}, DType::kInt32);
  std::copy(values.begin(), values.end(), tensor.data.begin());
  return tensor;
}

class PagedKernels : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (GetParam() > before_) GTEST_SKIP() << "this machine does not run " << cpu_isa_name(GetParam());
    override_cpu_isa(GetParam());
  }
  void TearDown() override { override_cpu_isa(before_); }

  /// One decode row and one prefill row of `num_queries` over a cache of ones: every output is 1.
  template <typename T>
  void attend(DType dtype, T one, int head_dim, int block_size, int decode_len, int prefill_len, int num_queries) {
    const auto blocks_of = [&](int tokens) { return (tokens + block_size - 1) / block_size; };
    const int num_blocks = blocks_of(decode_len) + blocks_of(prefill_len);
    Tensor<T> cache({num_blocks, 1, 2, 2, block_size, head_dim}, dtype, one);
    Tensor<T> q({1 + num_queries, 6, head_dim}, dtype, one);
    Tensor<T> out({1 + num_queries, 6, head_dim}, dtype);
    const auto query_start = ints({0, 1, 1 + num_queries});
    const auto seq_lens = ints({decode_len, prefill_len});
    const auto block_start = ints({0, blocks_of(decode_len), num_blocks});
    auto block_ids = ints(std::vector<std::int32_t>(static_cast<std::size_t>(num_blocks)));
    std::iota(block_ids.data.rbegin(), block_ids.data.rend(), 0);  // the last block comes first
    AttentionInputs inputs{q.view,           cache.view,     query_start.view, seq_lens.view,
                           block_start.view, block_ids.view, out.view};
    inputs.scale = 0.125;
    inputs.row_end = 1;
    attention_decode(inputs, pool_);
    inputs.row_begin = 1;
    inputs.row_end = 2;
    attention_prefill(inputs, pool_);
    // 1 / n times n may be off by a rounding in fp32; the shorter formats round it away.
    const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 0;
    for (const T value : out.data)
      ASSERT_NEAR(value, one, tolerance) << head_dim << ' ' << block_size << ' ' << decode_len;
  }

  ThreadPool pool_{3};

 private:
  const CpuIsa before_ = cpu_isa();
};

TEST_P(PagedKernels, AttentionStaysWithinItsPages) {
  for (const int head_dim : {32, 40, 80, 256}) {
    for (const int block_size : {8, 32}) {
      attend<float>(DType::kFloat32, 1.0f, head_dim, block_size, 1, 1, 1);
      attend<float>(DType::kFloat32, 1.0f, head_dim, block_size, 71, 65, 41);
      attend<std::uint16_t>(DType::kBFloat16, 0x3f80, head_dim, block_size, 64, 129, 7);
      attend<std::uint16_t>(DType::kFloat16, 0x3c00, head_dim, block_size, 9, 17, 17);
    }
  }
}

TEST_P(PagedKernels, AttentionOfEveryLengthStaysWithinItsBlockTable) {
  for (int length = 1; length <= 140; ++length) {
    attend<float>(DType::kFloat32, 1.0f, 32, 8, length, length, std::min(length, 5));
    attend<std::uint16_t>(DType::kBFloat16, 0x3f80, 128, 16, length, length, std::min(length, 5));
  }
}

TEST_P(PagedKernels, SplitsOfOneRowAreSharedByThreads) { attend<float>(DType::kFloat32, 1.0f, 32, 8, 2050, 1030, 5); }

TEST_P(PagedKernels, SamplingStaysWithinItsRow) {
  for (const std::int64_t vocab_size : {1, 63, 65, 300}) {
    Tensor<float> logits({3, vocab_size}, DType::kFloat32, 0.5f);
    logits.data.back() = NAN;
    const auto rows = [](float value) { return Tensor<float>({3}, DType::kFloat32, value); };
    auto temperature = rows(1.0f);
    temperature.data[0] = 0.0f;
    const auto top_k = ints({0, 0, 100});
    const auto top_p = rows(0.9f), min_p = rows(0.01f), repetition = rows(1.2f), presence = rows(0.1f),
               frequency = rows(0.1f);
    const Tensor<std::int64_t> seeds({3}, DType::kInt64, 3), counters({3}, DType::kInt64, 4);
    const auto history_start = ints({0, 2, 2, 4}), history = ints({0, 0, 0, 0}), prompt_len = ints({1, 0, 2});
    const auto banned_start = ints({0, 0, 2, 5}), banned = ints({~0, 0, 0, ~0, 1});
    const auto bias_start = ints({0, 1, 1, 2}), biased = ints({0, 1 << 30}), only_biased = ints({0, 1, 0});
    const Tensor<float> biases({2}, DType::kFloat32, 2.0f);
    auto tokens = ints({7, 7, 7});
    const SamplingSettings settings{temperature.view, top_k.view,    top_p.view,    min_p.view,
                                    repetition.view,  presence.view, frequency.view};
    sample({logits.view, settings, seeds.view, counters.view, history_start.view, history.view, prompt_len.view,
            banned_start.view, banned.view, bias_start.view, biased.view, biases.view, only_biased.view, tokens.view},
           0, pool_);
    for (const std::int32_t token : tokens.data) EXPECT_LT(token, vocab_size);
    EXPECT_EQ(tokens.data[2] == -1, vocab_size == 1);  // its only token is NaN and banned

    Tensor<float> logprobs({3}, DType::kFloat32), top_logprobs({3, 5}, DType::kFloat32);
    Tensor<std::int32_t> ranks({3}, DType::kInt32), top_ids({3, 5}, DType::kInt32);
    token_logprobs({logits.view, tokens.view, logprobs.view, ranks.view, top_ids.view, top_logprobs.view}, 0, pool_);
    EXPECT_NEAR(logprobs.data[1], -std::log(static_cast<float>(vocab_size)), 1e-5);
  }
}

TEST_P(PagedKernels, BlocksAreCopiedAndHashedToTheirLastByte) {
  for (const std::int64_t size : {1, 3, 300'001}) {
    Tensor<std::uint8_t> src({3, size}, DType::kUInt8, 5), dst({2, size}, DType::kUInt8, 9);
    const auto src_ids = ints({2, 0}), dst_ids = ints({0, 1});
    copy_blocks(src.view, dst.view, src_ids.view, dst_ids.view, 0, pool_);
    EXPECT_EQ(dst.data, std::vector<std::uint8_t>(dst.data.size(), 5));
    Tensor<std::int64_t> sums({2}, DType::kInt64);
    checksum_blocks(dst.view, dst_ids.view, sums.view, 0, pool_);
    EXPECT_EQ(sums.data[0], sums.data[1]);
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, PagedKernels, testing::Values(CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512),
                         [](const auto& instance) { return std::string(cpu_isa_name(instance.param)); });

}  // namespace
}  // namespace fastserve::kernels
