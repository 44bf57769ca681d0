// The kernel that copies small pieces between host and GPU, emulated: every byte arrives, and no other is touched.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "cuda_runtime.h"
#include "offload/fragment_copy.h"
#include "offload/fragments.h"

namespace fastserve::offload {
namespace {

class EmulatedFragments : public testing::TestWithParam<cuda_emulation::Order> {
 protected:
  EmulatedFragments() { cuda_emulation::set_order(GetParam()); }
  ~EmulatedFragments() override { cuda_emulation::set_order(cuda_emulation::Order::kForward); }

  static std::vector<std::byte> random_bytes(std::size_t count) {
    std::mt19937 random(9);
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(1 + random() % 255);
    return bytes;
  }
};

INSTANTIATE_TEST_SUITE_P(EveryOrder, EmulatedFragments,
                         testing::Values(cuda_emulation::Order::kForward, cuda_emulation::Order::kBackward,
                                         cuda_emulation::Order::kShuffled));

TEST_P(EmulatedFragments, PiecesOfEverySizeAndAlignmentArrive) {
  const auto source = random_bytes(1 << 19);
  std::vector<std::byte> target(source.size());
  std::vector<std::byte> expected(source.size());
  FragmentList list;
  std::int64_t at = 0;
  const std::int64_t sizes[] = {16, 1, 15, 4096, 2048, 511, 0, 2064, 8000, 31 << 10};
  for (list.count = 0; list.count < 70; ++list.count) {
    const std::int64_t size = sizes[list.count % 10];
    list.fragments[list.count] = {target.data() + at, source.data() + at, size};
    std::copy_n(source.begin() + at, size, expected.begin() + at);
    at += size + (list.count % 3 == 0 ? 16 : 5);  // what lies between stays as it was
    if (list.count % 4 == 0) at = (at + 15) / 16 * 16;
  }
  launch_fragment_copy(list, nullptr);
  EXPECT_EQ(target, expected);
}

TEST_P(EmulatedFragments, MoreRangesThanALaunchTakesArriveInTheSamePlaces) {
  const auto source = random_bytes(700'000);
  std::vector<std::byte> target(source.size());
  std::vector<std::byte> expected(source.size());
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> sizes;
  for (std::int64_t i = 0; i < 140; ++i) {
    offsets.push_back(i * 4096);
    sizes.push_back(16 + i * 16);
  }
  offsets.push_back(580'000);
  sizes.push_back(100'001);  // shared out over many warps
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    std::copy_n(source.begin() + offsets[i], sizes[i], expected.begin() + offsets[i]);
  }
  const auto vector_view = [](void* data, std::size_t count, DType dtype, DeviceType device) {
    TensorView view;
    view.data = data;
    view.dtype = dtype;
    view.device = device;
    view.ndim = 1;
    view.shape = {static_cast<std::int64_t>(count)};
    view.strides = {1};
    return view;
  };
  copy_fragments(vector_view(const_cast<std::byte*>(source.data()), source.size(), DType::kUInt8, DeviceType::kCpu),
                 vector_view(target.data(), target.size(), DType::kUInt8, DeviceType::kCuda),
                 vector_view(offsets.data(), offsets.size(), DType::kInt64, DeviceType::kCpu),
                 vector_view(sizes.data(), sizes.size(), DType::kInt64, DeviceType::kCpu), 0);
  EXPECT_EQ(target, expected);
}

}  // namespace
}  // namespace fastserve::offload
