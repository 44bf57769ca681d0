// The dense kernels in the sanitizer builds: odd sizes in buffers of exactly the size they may touch, on several
// threads. What they compute is checked against torch in tests/unit/ops.
#include <gtest/gtest.h>

#include <initializer_list>

#include "base/cpu_isa.h"
#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/dense/activation.h"
#include "kernels/dense/embedding.h"
#include "kernels/dense/linear.h"
#include "kernels/dense/norm.h"
#include "kernels/dense/rope_kv_write.h"
#include "kernels/memory/read_bandwidth.h"
#include "owned_tensor.h"

namespace fastserve::kernels {
namespace {

Tensor<float> floats(std::initializer_list<std::int64_t> shape, float value = 0.0f) {
  return {shape, DType::kFloat32, value};
}
constexpr std::uint16_t kBFloat16One = 0x3f80;
Tensor<std::uint16_t> halves(std::initializer_list<std::int64_t> shape, std::uint16_t value = 0) {
  return {shape, DType::kBFloat16, value};
}

class DenseKernels : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (GetParam() > before_) GTEST_SKIP() << "this machine does not run " << cpu_isa_name(GetParam());
    override_cpu_isa(GetParam());
  }
  void TearDown() override { override_cpu_isa(before_); }

  ThreadPool pool_{3};

 private:
  CpuIsa before_ = cpu_isa();
};

INSTANTIATE_TEST_SUITE_P(EveryIsa, DenseKernels,
                         testing::Values(CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAmx),
                         [](const auto& test) { return cpu_isa_name(test.param); });

TEST_P(DenseKernels, LinearSumsOnesOverTheInputs) {
  for (const std::int64_t tokens : {1, 13, 60}) {
    for (const std::int64_t outputs : {1, 31, 300}) {
      for (const std::int64_t inputs : {1, 33, 801}) {
        auto weight = floats({outputs, inputs}, 1.0f);
        auto packed = floats({(outputs + 31) / 32, inputs, 32});
        auto x = floats({tokens, inputs}, 1.0f);
        auto bias = floats({outputs}, 0.5f);
        auto out = floats({tokens, outputs});
        pack_linear_weight(packed.view, weight.view, pool_);
        for (const int segments : {1, 8}) {
          linear(out.view, x.view, packed.view, &bias.view, segments, pool_);
          for (const float sum : out.data) ASSERT_EQ(sum, static_cast<float>(inputs) + 0.5f);
        }
      }
    }
  }
}

TEST_P(DenseKernels, LinearOfBFloat16WritesFloat32) {
  auto weight = halves({45, 70}, kBFloat16One);
  auto packed = halves({2, 96, 32});
  auto x = halves({17, 70}, kBFloat16One);
  auto out = floats({17, 45});
  pack_linear_weight(packed.view, weight.view, pool_);
  linear(out.view, x.view, packed.view, nullptr, 2, pool_);
  for (const float sum : out.data) ASSERT_EQ(sum, 70.0f);
}

TEST_P(DenseKernels, NormsOfConstantRows) {
  for (const std::int64_t hidden : {1, 33, 769}) {
    auto x = floats({100, hidden}, 1.0f);
    auto residual = floats({100, hidden}, 1.0f);
    auto weight = floats({hidden}, 3.0f);
    auto out = floats({100, hidden});
    rms_norm(out.view, x.view, weight.view, &residual.view, 0.0f, 0, pool_);
    for (const float value : residual.data) ASSERT_EQ(value, 2.0f);
    for (const float value : out.data) ASSERT_FLOAT_EQ(value, 3.0f);
    layer_norm(out.view, x.view, weight.view, weight.view, nullptr, 1.0f, 0, pool_);
    for (const float value : out.data) ASSERT_FLOAT_EQ(value, 3.0f);
  }
}

TEST_P(DenseKernels, GatedReluMultipliesTheHalves) {
  auto x = halves({300, 2 * 45}, kBFloat16One);
  auto out = halves({300, 45});
  activation(out.view, x.view, ActivationKind::kRelu, true, 0, pool_);
  for (const std::uint16_t value : out.data) ASSERT_EQ(value, kBFloat16One);
}

TEST_P(DenseKernels, RopeOfAngleZeroCopiesIntoTheCache) {
  constexpr std::int64_t kTokens = 100, kHeadDim = 21, kBlockSize = 8, kBlocks = 13;
  auto q = halves({kTokens, 3, kHeadDim}, kBFloat16One);
  auto k = halves({kTokens, 2, kHeadDim}, kBFloat16One);
  auto v = halves({kTokens, 2, kHeadDim}, kBFloat16One);
  Tensor<std::int32_t> positions({kTokens}, DType::kInt32);
  Tensor<std::int64_t> slots({kTokens}, DType::kInt64);
  for (std::size_t t = 0; t < slots.data.size(); ++t) slots.data[t] = static_cast<std::int64_t>(t);
  auto cos_sin = floats({1, 20});
  std::fill_n(cos_sin.data.begin(), 10, 1.0f);
  for (const bool interleaved : {false, true}) {
    auto kv_cache = halves({kBlocks, 2, 2, 2, kBlockSize, kHeadDim});
    const RopeKvWriteOperands operands{q.view,        k.view,     v.view,  positions.view, &cos_sin.view,
                                       kv_cache.view, slots.view, nullptr, nullptr};
    rope_kv_write(operands, 1, interleaved, 0.0f, 0, pool_);
    for (const std::uint16_t value : q.data) ASSERT_EQ(value, kBFloat16One);
    const auto ones = std::count(kv_cache.data.begin(), kv_cache.data.end(), kBFloat16One);
    EXPECT_EQ(ones, kTokens * 2 * 2 * kHeadDim);
  }
}

TEST_P(DenseKernels, EmbeddingAndReadBandwidthReadWhatIsThere) {
  auto weight = floats({7, 33}, 2.0f);
  Tensor<std::int32_t> ids({100}, DType::kInt32, 6);
  auto out = floats({100, 33});
  embedding(out.view, ids.view, weight.view, 0, pool_);
  auto sums = floats({1});
  read_bandwidth(out.view, sums.view, 0, pool_);
  EXPECT_EQ(sums.data[0], 2.0f * 100 * 33);
  ids.data[99] = 7;
  EXPECT_THROW(embedding(out.view, ids.view, weight.view, 0, pool_), InvalidArgumentError);
}

}  // namespace
}  // namespace fastserve::kernels
