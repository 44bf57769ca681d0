// Ranges copied by a kernel, over a CUDA runtime made of threads: how many launches they take.
#include "offload/cuda/fragments.h"

#include <gtest/gtest.h>

#include <vector>

#include "cudart/runtime.h"

namespace fastserve::offload {
namespace {

template <typename T>
TensorView view_of(std::vector<T>& values, DType dtype, DeviceType device) {
  TensorView view;
  view.data = values.data();
  view.dtype = dtype;
  view.device = device;
  view.ndim = 1;
  view.shape = {static_cast<std::int64_t>(values.size())};
  view.strides = {1};
  return view;
}

/// Copies `count` ranges of `num_bytes` bytes from the host to the "GPU"; the launches that took.
std::int64_t launches_of(std::int64_t count, std::int64_t num_bytes) {
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(count), num_bytes);
  for (std::int64_t i = 0; i < count; ++i) offsets.push_back(i * (num_bytes + 16));
  std::vector<std::uint8_t> source(static_cast<std::size_t>(count * (num_bytes + 16)));
  std::vector<std::uint8_t> target(source.size(), 0);
  std::vector<std::uint8_t> expected(source.size(), 0);
  for (std::size_t i = 0; i < source.size(); ++i) {
    source[i] = static_cast<std::uint8_t>(1 + i % 251);
    if (static_cast<std::int64_t>(i) % (num_bytes + 16) < num_bytes) expected[i] = source[i];
  }
  cudart::reset();
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  copy_fragments(view_of(source, DType::kUInt8, DeviceType::kCpu), view_of(target, DType::kUInt8, DeviceType::kCuda),
                 view_of(offsets, DType::kInt64, DeviceType::kCpu), view_of(sizes, DType::kInt64, DeviceType::kCpu),
                 reinterpret_cast<std::uintptr_t>(stream));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(target, expected);
  const auto launches = cudart::counters().kernel_launches;
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  cudart::reset();
  return launches;
}

TEST(CopyFragments, TheInputsOfAStepTakeOneLaunchHoweverLargeTheyAre) {
  EXPECT_EQ(launches_of(23, 1024), 1);
  EXPECT_EQ(launches_of(23, 65'536), 1);
  EXPECT_EQ(launches_of(9, 524'304), 1);
  EXPECT_EQ(launches_of(127, 4096), 1);
}

TEST(CopyFragments, ManyRangesTakeALaunchForEachHundredAndTwentyEight) { EXPECT_EQ(launches_of(300, 64), 3); }

}  // namespace
}  // namespace fastserve::offload
