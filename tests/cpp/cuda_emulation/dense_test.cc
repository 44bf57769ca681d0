// The dense CUDA kernels, emulated, against the CPU kernels: aligned and odd rows, padding that must stay as it is.
#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "cuda_runtime.h"
#include "kernels/activation.h"
#include "kernels/copy_blocks.h"
#include "kernels/embedding.h"
#include "kernels/memory_roof.h"
#include "kernels/norm.h"
#include "kernels/rope_kv_write.h"
#include "model_tensor.h"

namespace fastserve::kernels {
namespace {

constexpr DeviceType kCpu = DeviceType::kCpu;
constexpr DeviceType kCuda = DeviceType::kCuda;

class EmulatedDense : public testing::TestWithParam<DType> {
 protected:
  ~EmulatedDense() override { cuda_emulation::set_order(cuda_emulation::Order::kForward); }
  ThreadPool pool_{1};
};

INSTANTIATE_TEST_SUITE_P(EveryDtype, EmulatedDense,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16), dtype_test_name);

struct Rows {
  std::int64_t count, width, gap, margin;
};

// Aligned: one, two and four vectors per thread and a part of a warp; then odd sizes, odd gaps and odd beginnings.
constexpr Rows kRows[] = {{3, 8, 8, 16},     {2, 768, 0, 0},   {2, 4096, 8, 8},  {1, 8192, 0, 0}, {1, 40000, 0, 0},
                          {3, 1, 5, 2},      {2, 33, 5, 2},    {2, 768, 5, 8},   {2, 768, 8, 3},  {1, 1, 0, 0}};

TEST_P(EmulatedDense, NormsEqualThoseOfTheCpuInAnyOrderOfThreads) {
  for (const Rows& rows : kRows) {
    for (const auto order : {cuda_emulation::Order::kForward, cuda_emulation::Order::kShuffled}) {
      cuda_emulation::set_order(order);
      for (const bool with_residual : {false, true}) {
        for (const bool layer : {false, true}) {
          ModelTensor x(rows.count, rows.width, GetParam(), rows.gap, rows.margin), residual(x), out(x), expected(x);
          x.randomize(1);
          residual.randomize(2);
          ModelTensor sum = residual, weight(1, rows.width, GetParam(), 0, rows.margin), bias(weight);
          weight.randomize(3);
          bias.randomize(4);
          const auto run = [&](DeviceType device, ModelTensor& to, ModelTensor& added) {
            const TensorView added_view = added.view(device);
            const TensorView* maybe = with_residual ? &added_view : nullptr;
            if (layer) {
              layer_norm(to.view(device), x.view(device), weight.vector(device), bias.vector(device), maybe, 1e-5f, 0,
                         pool_);
            } else {
              rms_norm(to.view(device), x.view(device), weight.vector(device), maybe, 1e-5f, 0, pool_);
            }
          };
          run(kCpu, expected, sum);
          run(kCuda, out, residual);
          expect_close(out, expected, 1e-5f);
          expect_close(residual, sum, 0.0f);
          out.expect_intact_around();
          residual.expect_intact_around();
        }
      }
    }
  }
}

TEST_P(EmulatedDense, NormInPlaceEqualsNormIntoABuffer) {
  for (const std::int64_t width : {77, 768}) {
    ModelTensor x(3, width, GetParam()), out(3, width, GetParam()), weight(1, width, GetParam());
    x.randomize(1);
    weight.randomize(2);
    rms_norm(out.view(kCuda), x.view(kCuda), weight.vector(kCuda), nullptr, 1e-5f, 0, pool_);
    rms_norm(x.view(kCuda), x.view(kCuda), weight.vector(kCuda), nullptr, 1e-5f, 0, pool_);
    expect_close(x, out, 0.0f);
  }
}

TEST_P(EmulatedDense, ActivationsEqualThoseOfTheCpu) {
  for (const Rows& rows : kRows) {
    for (const auto kind :
         {ActivationKind::kSilu, ActivationKind::kGelu, ActivationKind::kGeluTanh, ActivationKind::kRelu}) {
      for (const bool gated : {false, true}) {
        ModelTensor x(rows.count, rows.width * (gated ? 2 : 1), GetParam(), rows.gap, rows.margin);
        ModelTensor out(rows.count, rows.width, GetParam(), rows.gap, rows.margin), expected(out);
        x.randomize(1);
        activation(expected.view(kCpu), x.view(kCpu), kind, gated, 0, pool_);
        activation(out.view(kCuda), x.view(kCuda), kind, gated, 0, pool_);
        expect_close(out, expected, 1e-6f);
        out.expect_intact_around();
      }
    }
  }
}

TEST_P(EmulatedDense, EmbeddingCopiesRowsAndMarksUnknownIds) {
  for (const Rows& rows : kRows) {
    ModelTensor weight(7, rows.width, GetParam(), rows.gap, rows.margin);
    ModelTensor out(3, rows.width, GetParam(), rows.gap, rows.margin);
    weight.randomize(1);
    std::vector<std::int32_t> ids{6, 0, 3};
    embedding(out.view(kCuda), view_of(ids, DType::kInt32, kCuda), weight.view(kCuda), 0, pool_);
    for (std::int64_t t = 0; t < 3; ++t) {
      const std::int32_t id = ids[static_cast<std::size_t>(t)];
      for (std::int64_t c = 0; c < rows.width; ++c) ASSERT_EQ(out.at(t, c), weight.at(id, c));
    }
    out.expect_intact_around();
    ids = {-1, 7, 6};
    embedding(out.view(kCuda), view_of(ids, DType::kInt32, kCuda), weight.view(kCuda), 0, pool_);
    EXPECT_TRUE(std::isnan(out.at(0, 0)) && std::isnan(out.at(1, rows.width - 1)) && !std::isnan(out.at(2, 0)));
  }
}

struct Heads {
  std::int64_t q, kv, dim, rot_dim, gap;
  bool interleaved;
};

class RopeCase {
 public:
  RopeCase(const Heads& heads, DType dtype)
      : heads_(heads), qkv(kTokens, (heads.q + 2 * heads.kv) * heads.dim, dtype, heads.gap),
        cache(kBlocks * 3 * 2 * heads.kv * kBlockSize, heads.dim, dtype), q_norm(1, heads.dim, dtype),
        k_norm(1, heads.dim, dtype), table(kPositions, std::max<std::int64_t>(heads.rot_dim, 0), DType::kFloat32) {
    qkv.randomize(1);
    cache.randomize(2);
    q_norm.randomize(3);
    k_norm.randomize(4);
    table.randomize(5);
  }

  void run(DeviceType device, bool norms, ThreadPool& pool) {
    const TensorView q = part(device, 0, heads_.q), k = part(device, heads_.q, heads_.kv);
    const TensorView v = part(device, heads_.q + heads_.kv, heads_.kv);
    TensorView kv_cache = cache.view(device);
    kv_cache.ndim = 6;
    kv_cache.shape = {kBlocks, 3, 2, heads_.kv, kBlockSize, heads_.dim};
    std::int64_t stride = 1;
    for (int d = 5; d >= 0; --d) {
      kv_cache.strides[static_cast<std::size_t>(d)] = stride;
      stride *= kv_cache.size(d);
    }
    const TensorView cos_sin = table.view(device), q_weight = q_norm.vector(device), k_weight = k_norm.vector(device);
    const TensorView position_view = view_of(positions, DType::kInt32, device);
    rope_kv_write({q, k, v, position_view, heads_.rot_dim < 0 ? nullptr : &cos_sin, kv_cache,
                   view_of(slots, DType::kInt64, device), norms ? &q_weight : nullptr, norms ? &k_weight : nullptr},
                  1, heads_.interleaved, 1e-6f, 0, pool);
  }

  static constexpr std::int64_t kTokens = 5, kBlocks = 6, kBlockSize = 4, kPositions = 9;

 private:
  Heads heads_;

  TensorView part(DeviceType device, std::int64_t first_head, std::int64_t num_heads) {
    TensorView tensor = qkv.view(device);
    tensor.data = static_cast<char*>(tensor.data) + first_head * heads_.dim * dtype_bytes(tensor.dtype);
    tensor.ndim = 3;
    tensor.shape = {kTokens, num_heads, heads_.dim};
    tensor.strides = {qkv.view(device).stride(0), heads_.dim, 1};
    return tensor;
  }

 public:
  ModelTensor qkv, cache, q_norm, k_norm, table;
  std::vector<std::int32_t> positions{3, 0, 8, 8, 1};
  std::vector<std::int64_t> slots{7, 23, -1, 0, 12};
};

constexpr Heads kHeads[] = {
    {32, 8, 128, 128, 0, false}, {3, 2, 64, 64, 8, false}, {5, 1, 256, 256, 0, false}, {2, 2, 32, 32, 0, false},
    {3, 2, 128, 128, 5, false},  {3, 2, 80, 80, 0, false}, {3, 2, 80, 32, 0, false},   {3, 2, 64, 64, 0, true},
    {4, 2, 7, 6, 0, true},       {2, 1, 34, 2, 3, false},  {3, 3, 16, -1, 0, false},   {3, 1, 64, 0, 0, false}};

TEST_P(EmulatedDense, RopeAndTheKvWriteEqualThoseOfTheCpu) {
  for (const Heads& heads : kHeads) {
    for (const auto order : {cuda_emulation::Order::kForward, cuda_emulation::Order::kBackward}) {
      cuda_emulation::set_order(order);
      for (const bool norms : {false, true}) {
        RopeCase expected(heads, GetParam()), result(heads, GetParam());
        expected.run(kCpu, norms, pool_);
        result.run(kCuda, norms, pool_);
        expect_close(result.qkv, expected.qkv, 1e-5f);
        expect_close(result.cache, expected.cache, 1e-5f);
        result.qkv.expect_intact_around();
      }
    }
  }
}

TEST_P(EmulatedDense, PlacesOutsideTheTableAndTheCacheTouchNothingForeign) {
  for (const Heads& heads : {kHeads[0], kHeads[5]}) {
    RopeCase expected(heads, GetParam()), result(heads, GetParam());
    expected.slots = {7, -1, -1, 0, 12};
    expected.run(kCpu, false, pool_);
    result.slots = {7, 24, -5, 0, 12};
    result.positions[1] = 9;
    result.positions[2] = -1;
    result.run(kCuda, false, pool_);
    expect_close(result.cache, expected.cache, 1e-5f);
    EXPECT_TRUE(std::isnan(result.qkv.at(1, 0)) && std::isnan(result.qkv.at(2, heads.dim - 1)));
    EXPECT_FALSE(std::isnan(result.qkv.at(3, 0)));
  }
}

class EmulatedBlocks : public testing::Test {
 protected:
  static TensorView blocks(std::vector<std::uint8_t>& bytes, std::int64_t count, DeviceType device, std::int64_t skip) {
    TensorView view = view_of(bytes, DType::kUInt8, device);
    view.data = bytes.data() + skip;
    view.ndim = 2;
    view.shape = {count, (static_cast<std::int64_t>(bytes.size()) - skip) / count};
    view.strides = {view.size(1), 1};
    return view;
  }
  ThreadPool pool_{1};
};

TEST_F(EmulatedBlocks, AreCopiedAndHashedAsOnTheCpu) {
  constexpr std::int64_t kBlocks = 9;
  for (const std::int64_t size : {1, 8, 63, 4096, 4097, 40000, 300000}) {
    for (const std::int64_t skip : {0, 3}) {
      std::vector<std::uint8_t> bytes(static_cast<std::size_t>(kBlocks * size + skip));
      std::mt19937 random(5);
      for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
      auto expected_bytes = bytes;
      std::vector<std::int32_t> from{0, 4, 4}, to{7, 1, 8}, all{8, 0, 7, 4, 1, 2};
      const TensorView from_view = view_of(from, DType::kInt32, kCpu), to_view = view_of(to, DType::kInt32, kCpu);
      const TensorView cpu = blocks(expected_bytes, kBlocks, kCpu, skip), cuda = blocks(bytes, kBlocks, kCuda, skip);
      copy_blocks(cpu, cpu, from_view, to_view, 0, pool_);
      copy_blocks(cuda, cuda, from_view, to_view, 0, pool_);
      ASSERT_EQ(bytes, expected_bytes) << size;
      std::vector<std::int64_t> expected(all.size()), sums(all.size());
      checksum_blocks(cpu, view_of(all, DType::kInt32, kCpu), view_of(expected, DType::kInt64, kCpu), 0, pool_);
      checksum_blocks(cuda, view_of(all, DType::kInt32, kCpu), view_of(sums, DType::kInt64, kCuda), 0, pool_);
      ASSERT_EQ(sums, expected) << size;
    }
  }
}

TEST_F(EmulatedBlocks, MoreCopiesAndChecksumsThanOneLaunchTakes) {
  constexpr std::int64_t kBlocks = 2000;
  std::vector<std::uint8_t> bytes(kBlocks * 16);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i / 16);
  std::vector<std::int32_t> from, to;
  for (int i = 0; i < 1000; ++i) {
    from.push_back(i);
    to.push_back(1999 - i);
  }
  const TensorView cuda = blocks(bytes, kBlocks, kCuda, 0);
  copy_blocks(cuda, cuda, view_of(from, DType::kInt32, kCpu), view_of(to, DType::kInt32, kCpu), 0, pool_);
  std::vector<std::int64_t> before(1000), after(1000);
  checksum_blocks(cuda, view_of(from, DType::kInt32, kCpu), view_of(before, DType::kInt64, kCuda), 0, pool_);
  checksum_blocks(cuda, view_of(to, DType::kInt32, kCpu), view_of(after, DType::kInt64, kCuda), 0, pool_);
  EXPECT_EQ(before, after);
}

TEST_F(EmulatedBlocks, MemoryRoofReadsEveryElementOnce) {
  for (const std::size_t size : {0, 1, 3, 2048, 100001}) {
    for (const std::size_t skip : {0, 1}) {
      std::vector<float> x(size + skip, 1.0f), sums(3, NAN);
      TensorView view = view_of(x, DType::kFloat32, kCuda);
      view.data = x.data() + skip;
      view.shape = {static_cast<std::int64_t>(size)};
      memory_roof(view, view_of(sums, DType::kFloat32, kCuda), 0, pool_);
      ASSERT_EQ(sums[0] + sums[1] + sums[2], static_cast<float>(size));
    }
  }
}

TEST(Emulator, ABarrierThatSomeThreadsMissIsAnError) {
  const auto half_a_warp = [] { threadIdx.x < 16 ? __syncwarp() : __syncthreads(); };
  EXPECT_THROW(cuda_emulation::run({1}, {64}, half_a_warp), std::logic_error);
}

}  // namespace
}  // namespace fastserve::kernels
