// What attention on a GPU refuses before it launches anything.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/attention/attention_gpu.h"

namespace fastserve::kernels {
namespace {

TEST(AttentionFitsTensorCores, OnlyShapesThatTheKernelsAreCompiledFor) {
  AttentionParams params;
  params.dtype = DType::kBFloat16;
  params.head_dim = 128;
  params.block_size = 16;
  params.q_token_stride = params.out_token_stride = 1024;
  params.q_head_stride = params.out_head_stride = 128;
  EXPECT_TRUE(attention_fits_tensor_cores(params));
  const auto refused = [&](auto change) {
    AttentionParams changed = params;
    change(changed);
    return !attention_fits_tensor_cores(changed);
  };
  EXPECT_TRUE(refused([](AttentionParams& p) { p.dtype = DType::kFloat32; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.head_dim = 72; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.block_size = 8; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.q_token_stride = 1028; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.out = reinterpret_cast<void*>(8); }));
}

TEST(AttentionFitsHopper, OnlyShapesThatTheKernelTakes) {
  AttentionParams params;
  params.dtype = DType::kBFloat16;
  params.head_dim = 80;
  params.block_size = 32;
  params.num_q_heads = 256;
  params.num_kv_heads = 2;
  params.q_token_stride = params.out_token_stride = 256 * 80;
  params.q_head_stride = params.out_head_stride = 80;
  EXPECT_TRUE(attention_fits_hopper(params));
  const auto refused = [&](auto change) {
    AttentionParams changed = params;
    change(changed);
    return !attention_fits_hopper(changed);
  };
  EXPECT_TRUE(refused([](AttentionParams& p) { p.num_q_heads += 2; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.scale = 0.0f; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.q_token_stride = 0; }));
  EXPECT_TRUE(refused([](AttentionParams& p) { p.block_size = 8; }));
}

#ifdef FASTSERVE_WITH_CUDA

/// What decode on a GPU says to operands that do not fit, before it launches anything; empty if it says nothing.
std::string refusal(std::int64_t num_rows, std::int64_t max_seq_len, std::int64_t workspace_bytes) {
  alignas(16) static char memory[16];  // never looked at
  const auto view = [](DType dtype, std::initializer_list<std::int64_t> shape) {
    TensorView tensor;
    tensor.dtype = dtype;
    tensor.ndim = static_cast<int>(shape.size());
    std::ranges::copy(shape, tensor.shape.begin());
    std::int64_t stride = 1;
    for (int d = tensor.ndim - 1; d >= 0; --d) {
      tensor.strides[static_cast<std::size_t>(d)] = stride;
      stride *= tensor.size(d);
    }
    tensor.data = memory;
    tensor.device = DeviceType::kCuda;
    return tensor;
  };
  const TensorView q = view(DType::kBFloat16, {num_rows, 4, 64});
  const TensorView cache = view(DType::kBFloat16, {8, 1, 2, 2, 16, 64});
  const TensorView starts = view(DType::kInt32, {num_rows + 1});
  const TensorView lengths = view(DType::kInt32, {num_rows});
  const TensorView workspace = view(DType::kUInt8, {workspace_bytes});
  AttentionInputs inputs{q, cache, starts, lengths, starts, lengths, q};
  inputs.row_end = num_rows;
  inputs.max_seq_len = max_seq_len;
  inputs.workspace = workspace_bytes == 0 ? nullptr : &workspace;
  ThreadPool pool(1);
  try {
    attention_decode(inputs, pool);
  } catch (const InvalidArgumentError& error) {
    return error.what();
  }
  return {};
}

TEST(AttentionOnGpu, AMissingOrSmallWorkspaceAndAMissingBoundAreRefused) {
  const std::int64_t bytes = attention_workspace_bytes(3, 4, 64, 1000);
  const auto says = [](const std::string& refusal, const char* text) {
    if (refusal.find(text) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << refusal;
  };
  EXPECT_TRUE(says(refusal(3, 1000, 0), "needs a workspace"));
  EXPECT_TRUE(says(refusal(3, 1000, bytes - 1), "for 3 rows of up to 1000 tokens"));
  EXPECT_TRUE(says(refusal(3, 0, bytes), "max_seq_len must be positive"));
  const std::int64_t many = attention_workspace_bytes(40'000, 4, 64, 100);
  EXPECT_TRUE(says(refusal(40'000, 100, many), "at most 32768 rows of 2 KV heads"));
}

#endif

}  // namespace
}  // namespace fastserve::kernels
