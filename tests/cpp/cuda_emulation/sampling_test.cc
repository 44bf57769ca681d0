// Sampling and log-probabilities by the CUDA kernels, emulated, against the CPU kernels: the very same tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/cpu_isa.h"
#include "base/thread_pool.h"
#include "cuda_runtime.h"
#include "kernels/sampling.h"
#include "kernels/token_logprobs.h"
#include "model_tensor.h"

namespace fastserve::kernels {
namespace {

constexpr DeviceType kCpu = DeviceType::kCpu;
constexpr DeviceType kCuda = DeviceType::kCuda;

struct Settings {
  float temperature = 1.0f;
  std::int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition = 1.0f;
  float presence = 0.0f;
  float frequency = 0.0f;
};

/// Logits of `rows` rows with one set of settings each, sampled on either device.
class Batch {
 public:
  Batch(std::int64_t vocab_size, std::vector<Settings> rows, float spread, unsigned seed = 1)
      : vocab_size_(vocab_size), settings_(std::move(rows)), random_(seed) {
    std::normal_distribution<float> normal(0.0f, spread);
    for (std::int64_t i = 0; i < num_rows() * stride(); ++i) logits.push_back(normal(random_));
    history_start.assign(1, 0);
    banned_start.assign(1, 0);
    for (std::int64_t r = 0; r < num_rows(); ++r) {
      seeds.push_back(static_cast<std::int64_t>(random_()) << 31 ^ random_());
      counters.push_back(r * 17);
      prompt_len.push_back(0);
      history_start.push_back(0);
      banned_start.push_back(0);
    }
  }

  /// Give every second row a history and banned tokens.
  void add_history(int prompt, int output, int banned) {
    history_start.assign(1, 0);
    banned_start.assign(1, 0);
    for (std::int64_t r = 0; r < num_rows(); ++r) {
      for (int i = 0; r % 2 == 0 && i < prompt + output; ++i) history.push_back(random_token());
      for (int i = 0; r % 2 == 0 && i < banned; ++i) banned_tokens.push_back(random_token());
      prompt_len[static_cast<std::size_t>(r)] = r % 2 == 0 ? prompt : 0;
      history_start.push_back(static_cast<std::int32_t>(history.size()));
      banned_start.push_back(static_cast<std::int32_t>(banned_tokens.size()));
    }
  }

  std::vector<std::int32_t> sampled(DeviceType device, ThreadPool& pool) {
    std::vector<float> temperature, top_p, min_p, repetition, presence, frequency;
    std::vector<std::int32_t> top_k, out(settings_.size(), -7);
    for (const Settings& s : settings_) {
      temperature.push_back(s.temperature);
      top_k.push_back(s.top_k);
      top_p.push_back(s.top_p);
      min_p.push_back(s.min_p);
      repetition.push_back(s.repetition);
      presence.push_back(s.presence);
      frequency.push_back(s.frequency);
    }
    std::vector<std::uint8_t> workspace = workspace_of(!history.empty() || !banned_tokens.empty());
    const TensorView workspace_view = view_of(workspace, DType::kUInt8, device);
    const auto floats = [&](std::vector<float>& values) { return view_of(values, DType::kFloat32, device); };
    const auto ints = [&](std::vector<std::int32_t>& values) { return view_of(values, DType::kInt32, device); };
    const auto longs = [&](std::vector<std::int64_t>& values) { return view_of(values, DType::kInt64, device); };
    sample({logit_view(device), floats(temperature), ints(top_k), floats(top_p), floats(min_p), floats(repetition),
            floats(presence), floats(frequency), longs(seeds), longs(counters), ints(history_start), ints(history),
            ints(prompt_len), ints(banned_start), ints(banned_tokens), ints(out),
            device == kCuda ? &workspace_view : nullptr},
           0, pool);
    return out;
  }

  void expect_the_tokens_of_the_cpu(ThreadPool& pool) {
    const std::vector<float> before = logits;
    const auto expected = sampled(kCpu, pool);
    ASSERT_EQ(sampled(kCuda, pool), expected) << "vocabulary of " << vocab_size_;
    ASSERT_EQ(std::memcmp(logits.data(), before.data(), before.size() * sizeof(float)), 0) << "logits were changed";
  }

  TensorView logit_view(DeviceType device) {
    TensorView view = view_of(logits, DType::kFloat32, device);
    view.ndim = 2;
    view.shape = {num_rows(), vocab_size_};
    view.strides = {stride(), 1};
    return view;
  }
  std::vector<std::uint8_t> workspace_of(bool changes_logits) const {
    const std::int64_t bytes = sampling_workspace_bytes(num_rows(), vocab_size_, changes_logits);
    return std::vector<std::uint8_t>(static_cast<std::size_t>(bytes), 0xff);  // NaN, and marks of -1
  }
  std::int64_t num_rows() const { return static_cast<std::int64_t>(settings_.size()); }
  std::int64_t stride() const { return vocab_size_ + 3; }
  std::int32_t random_token() { return static_cast<std::int32_t>(random_() % static_cast<unsigned>(vocab_size_)); }

  std::vector<float> logits;
  std::vector<std::int64_t> seeds, counters;
  std::vector<std::int32_t> history_start, history, prompt_len, banned_start, banned_tokens;

 private:
  std::int64_t vocab_size_;
  std::vector<Settings> settings_;
  std::mt19937 random_;
};

const std::vector<Settings> kFilters{
    {.temperature = 0.0f},
    {},
    {.temperature = 0.7f},
    {.top_k = 1},
    {.top_k = 7},
    {.temperature = 0.5f, .top_k = 50},
    {.top_k = 50, .top_p = 0.6f},
    {.top_k = 40, .min_p = 0.2f},
    {.top_p = 0.0f},
    {.top_p = 0.3f},
    {.top_p = 0.9f},
    {.temperature = 2.5f, .top_p = 0.95f},
    {.min_p = 0.05f},
    {.min_p = 1.0f},
    {.temperature = 0.6f, .top_k = 100, .top_p = 0.9f, .min_p = 0.01f},
    {.top_p = 0.95f, .min_p = 0.03f},
};

class EmulatedSampling : public testing::Test {
 protected:
  // The masses have the bits of this one; others differ in the seventh digit, and with it one token in a million.
  void SetUp() override {
    if (before_ == CpuIsa::kScalar) GTEST_SKIP() << "the CPU kernels without fused multiply-add round otherwise";
  }
  ~EmulatedSampling() override { cuda_emulation::set_order(cuda_emulation::Order::kForward); }
  ThreadPool pool_{1};
  CpuIsa before_ = cpu_isa();
};

TEST_F(EmulatedSampling, EveryFilterChoosesTheTokenOfTheCpu) {
  for (const std::int64_t vocab_size : {1, 63, 64, 65, 1000, 2500}) {
    for (const float spread : {0.01f, 3.0f}) Batch(vocab_size, kFilters, spread).expect_the_tokens_of_the_cpu(pool_);
  }
}

TEST_F(EmulatedSampling, TheOrderOfThreadsChangesNothing) {
  for (const auto order : {cuda_emulation::Order::kBackward, cuda_emulation::Order::kShuffled}) {
    cuda_emulation::set_order(order);
    std::vector<Settings> rows = kFilters;
    for (Settings& settings : rows) settings.repetition = settings.frequency = 1.2f;
    Batch batch(100, rows, 2.0f);
    batch.add_history(20, 60, 5);
    batch.expect_the_tokens_of_the_cpu(pool_);
  }
}

TEST_F(EmulatedSampling, FlatRowsOfALargeVocabularyLeaveSharedMemory) {
  const std::vector<Settings> rows{{.top_p = 0.9f}, {.top_k = 3000}, {.top_k = 2000, .top_p = 0.5f}, {.min_p = 0.5f}};
  Batch(66001, rows, 0.01f).expect_the_tokens_of_the_cpu(pool_);
  Batch(9001, rows, 2.0f).expect_the_tokens_of_the_cpu(pool_);
}

TEST_F(EmulatedSampling, EqualLogitsAreOrderedById) {
  const std::vector<Settings> rows{
      {.temperature = 0.0f}, {.top_k = 4}, {.top_k = 100, .top_p = 0.5f}, {.top_p = 0.3f}, {.top_k = 2500}};
  Batch batch(4000, rows, 1.0f);
  for (float& logit : batch.logits) logit = std::round(logit);
  batch.expect_the_tokens_of_the_cpu(pool_);
  for (float& logit : batch.logits) logit = std::signbit(logit) ? -0.0f : 0.0f;
  batch.expect_the_tokens_of_the_cpu(pool_);
}

TEST_F(EmulatedSampling, PenaltiesAndBansEqualThoseOfTheCpu) {
  std::vector<Settings> rows;
  for (Settings settings : kFilters) {
    settings.repetition = 1.3f;
    rows.push_back(settings);
    rows.push_back(settings);
    settings.repetition = 1.0f;
    settings.presence = 0.4f;
    settings.frequency = -0.3f;
    rows.push_back(settings);
    rows.push_back(settings);
  }
  for (const std::int64_t vocab_size : {3, 300}) {
    Batch batch(vocab_size, rows, 1.0f);
    batch.add_history(40, 60, vocab_size == 3 ? 1 : 9);
    batch.expect_the_tokens_of_the_cpu(pool_);
  }
  Batch only_bans(200, kFilters, 1.0f);
  only_bans.add_history(0, 0, 20);
  only_bans.expect_the_tokens_of_the_cpu(pool_);
}

TEST_F(EmulatedSampling, TokensOutsideTheVocabularyAreLeftOut) {
  Batch batch(100, {{.temperature = 0.0f, .frequency = 0.5f}}, 1.0f);
  batch.add_history(3, 3, 2);
  const auto expected = batch.sampled(kCuda, pool_);
  batch.history.insert(batch.history.end(), {-1, 100, 1 << 30});
  batch.history_start[1] += 3;
  batch.banned_tokens.push_back(100);
  batch.banned_start[1] = 1000;  // and a list longer than its array
  EXPECT_EQ(batch.sampled(kCuda, pool_), expected);
}

TEST_F(EmulatedSampling, LogitsThatAreNotFiniteAreNeverSampled) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Batch batch(300, kFilters, 1.0f);
    std::fill(batch.logits.begin(), batch.logits.end(), bad);
    for (const std::int32_t token : batch.sampled(kCuda, pool_)) ASSERT_EQ(token, -1);
    for (std::int64_t r = 0; r < batch.num_rows(); ++r) {
      batch.logits[static_cast<std::size_t>(r * batch.stride() + 77)] = -3.0f;
      if (r % 2 == 0) batch.logits[static_cast<std::size_t>(r * batch.stride() + 130)] = -3.5f;
    }
    batch.expect_the_tokens_of_the_cpu(pool_);
  }
}

TEST_F(EmulatedSampling, ExtremeLogitsStayInRange) {
  Batch batch(70, {{}, {.temperature = 1e-4f}, {.temperature = 1e30f}, {.top_p = 0.5f}, {.top_k = 3}}, 1.0f);
  for (float& logit : batch.logits) logit *= std::numeric_limits<float>::max() / 8;
  batch.expect_the_tokens_of_the_cpu(pool_);
}

TEST_F(EmulatedSampling, AWorkspaceThatIsMissingOrTooSmallIsRefused) {
  Batch batch(1000, {{}}, 1.0f);
  const auto view = batch.logit_view(kCuda);
  EXPECT_THROW(vocab_rows_on_gpu(view, nullptr, false), InvalidArgumentError);
  auto workspace = batch.workspace_of(false);
  workspace.pop_back();
  const auto small = view_of(workspace, DType::kUInt8, kCuda);
  EXPECT_THROW(vocab_rows_on_gpu(view, &small, false), InvalidArgumentError);
}

TEST_F(EmulatedSampling, LogprobsRanksAndTopTokensEqualThoseOfTheCpu) {
  for (const std::int64_t vocab_size : {1, 65, 6001}) {
    for (const std::int64_t num_top : {0, 1, 5, 100}) {
      for (const bool rounded : {false, true}) {
        Batch batch(vocab_size, std::vector<Settings>(6), 4.0f);
        for (float& logit : batch.logits) logit = rounded ? std::round(logit) : logit;
        batch.logits[0] = NAN;
        std::vector<std::int32_t> tokens{0, -1, static_cast<std::int32_t>(vocab_size)};
        while (tokens.size() < 6) tokens.push_back(batch.random_token());
        struct Result {
          std::vector<float> token_logprobs, top_logprobs;
          std::vector<std::int32_t> ranks, top_ids;
        };
        const auto read = [&](DeviceType device) {
          const auto listed = static_cast<std::size_t>(6 * num_top);
          Result result{std::vector<float>(6, -7.0f), std::vector<float>(listed, -7.0f),
                        std::vector<std::int32_t>(6, -7), std::vector<std::int32_t>(listed, -7)};
          auto workspace = batch.workspace_of(false);
          const TensorView workspace_view = view_of(workspace, DType::kUInt8, device);
          const auto listing = [&](auto& values, DType dtype) {
            TensorView view = view_of(values, dtype, device);
            view.ndim = 2;
            view.shape = {6, num_top};
            view.strides = {num_top, 1};
            return view;
          };
          token_logprobs({batch.logit_view(device), view_of(tokens, DType::kInt32, device),
                          view_of(result.token_logprobs, DType::kFloat32, device),
                          view_of(result.ranks, DType::kInt32, device), listing(result.top_ids, DType::kInt32),
                          listing(result.top_logprobs, DType::kFloat32), device == kCuda ? &workspace_view : nullptr},
                         0, pool_);
          return result;
        };
        const Result expected = read(kCpu), result = read(kCuda);
        ASSERT_EQ(result.ranks, expected.ranks);
        ASSERT_EQ(result.top_ids, expected.top_ids);
        ASSERT_EQ(result.token_logprobs, expected.token_logprobs);
        ASSERT_EQ(result.top_logprobs, expected.top_logprobs);
      }
    }
  }
}

}  // namespace
}  // namespace fastserve::kernels
