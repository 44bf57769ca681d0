#include "device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/cuda_check.h"
#include "kernels/attention/attention_gpu.h"
#include "kernels/attention/attention_hopper_layout.h"
#include "kernels/attention/attention_schedule.h"
#include "kernels/cuda/tensor_map.cuh"
#include "probe_kernels.h"
#include "problem.h"

namespace fastserve::smoke {
namespace {

using kernels::KernelResidency;

struct Attribute {
  const char* name;
  cudaDeviceAttr attribute;
};
constexpr Attribute kAttributes[] = {
    {"processors", cudaDevAttrMultiProcessorCount},
    {"l2_bytes", cudaDevAttrL2CacheSize},
    {"shared_bytes_of_processor", cudaDevAttrMaxSharedMemoryPerMultiprocessor},
    {"shared_bytes_of_block", cudaDevAttrMaxSharedMemoryPerBlockOptin},
    {"shared_bytes_reserved", cudaDevAttrReservedSharedMemoryPerBlock},
    {"clock_khz", cudaDevAttrClockRate},
    {"copy_engines", cudaDevAttrAsyncEngineCount},
    {"maps_host_memory", cudaDevAttrCanMapHostMemory},
    {"host_pointer_for_registered", cudaDevAttrCanUseHostPointerForRegisteredMem},
    {"pageable_memory_access", cudaDevAttrPageableMemoryAccess},
    {"compute_mode", cudaDevAttrComputeMode},
    {"ecc", cudaDevAttrEccEnabled},
    {"preemption", cudaDevAttrComputePreemptionSupported},
};

constexpr int kHeadDims[] = {64, 80, 96, 128, 256};
constexpr std::uint64_t kPatienceNs = 2'000'000;

AttentionSpec small_spec(int head_dim) {
  AttentionSpec spec = parse_spec("hopper bf16 8/2 d128 p16 40:5,17:1");
  spec.head_dim = head_dim;
  return spec;
}

template <int kHeadDim>
std::string encode(const AttentionProblem& problem) {
  kernels::AttentionLaunch launch;
  launch.params = problem.params();
  launch.num_tokens = problem.spec().num_tokens();
  launch.num_blocks = 1 << 20;
  try {
    kernels::cuda::make_tensor_map(kernels::hopper_query_map<kHeadDim>(launch), problem.spec().dtype);
    kernels::cuda::make_tensor_map(kernels::hopper_page_map<kHeadDim>(launch), problem.spec().dtype);
    return "ok";
  } catch (const FastServeError& error) {
    return error.what();
  }
}

std::string in_words(const KernelResidency& kernel) {
  return joined(kernel.registers, " registers, ", kernel.local_bytes, " B local, ", kernel.shared_bytes, " B shared, ",
                kernel.threads, " threads, ", kernel.resident_ctas, " resident, code ", kernel.binary_version);
}

/// Thread blocks that were there together, of as many as the grid of decode attention has.
std::uint32_t gathered(int ctas, int shared_bytes, int carveout) {
  DeviceMemory words(4 * (static_cast<std::size_t>(ctas) + 1));
  words.fill(0);
  auto* const arrived = reinterpret_cast<std::uint32_t*>(words.data());
  const Stream stream;
  launch_gathering(arrived, arrived + 1, ctas, kernels::kDecodeThreads, shared_bytes, carveout, kPatienceNs,
                   stream.get());
  stream.wait();
  std::vector<std::uint32_t> seen(static_cast<std::size_t>(ctas) + 1);
  words.read(seen.data(), 4 * seen.size());
  return *std::min_element(seen.begin() + 1, seen.end());
}

}  // namespace

Outcome describe_device() {
  Outcome outcome;
  int count = 0;
  FS_CUDA(cudaGetDeviceCount(&count));
  FS_REQUIRE(count > 0, "the driver shows no GPU");
  cudaDeviceProp properties;
  FS_CUDA(cudaGetDeviceProperties(&properties, 0));
  int driver = 0;
  FS_CUDA(cudaDriverGetVersion(&driver));
  std::size_t free_bytes = 0, total_bytes = 0;
  FS_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  Facts& facts = outcome.facts;
  facts.add("name", properties.name);
  facts.add("compute_capability", joined(properties.major, ".", properties.minor));
  facts.add("devices", count);
  facts.add("driver_cuda", driver);
  facts.add("runtime_cuda", CUDART_VERSION);
  facts.add("memory_bytes", total_bytes);
  facts.add("free_bytes", free_bytes);
  for (const auto& [name, attribute] : kAttributes) {
    int value = 0;
    if (cudaDeviceGetAttribute(&value, attribute, 0) == cudaSuccess) {
      facts.add(name, value);
    } else {
      (void)cudaGetLastError();
      facts.add(name, "unknown");
    }
  }
  facts.add("hopper_kernels", kernels::attention_hopper_available());
  return outcome;
}

Outcome make_tensor_maps() {
  if (kernels::cuda::tensor_map_encoder() == nullptr) {
    Outcome outcome{"left out", {}};
    outcome.facts.add("reason", "the driver does not have cuTensorMapEncodeTiled");
    return outcome;
  }
  Outcome outcome;
  const auto add = [&]<int kHeadDim>() {
    const AttentionProblem problem(small_spec(kHeadDim), 1);
    const std::string words = encode<kHeadDim>(problem);
    if (words != "ok") outcome.word = "failed";
    outcome.facts.add(joined("d", kHeadDim), words);
  };
  add.operator()<64>();
  add.operator()<80>();
  add.operator()<96>();
  add.operator()<128>();
  add.operator()<256>();
  return outcome;
}

Outcome describe_kernels() {
  Outcome outcome;
  for (const int head_dim : kHeadDims) {
    const AttentionProblem problem(small_spec(head_dim), 1);
    const std::string suffix = joined("_d", head_dim);
    outcome.facts.add(joined("decode", suffix), in_words(kernels::attention_decode_residency(problem.params())));
    outcome.facts.add(joined("mma", suffix), in_words(kernels::attention_prefill_residency(problem.params())));
    if (kernels::attention_hopper_available()) {
      outcome.facts.add(joined("hopper", suffix), in_words(kernels::attention_hopper_residency(problem.params())));
    }
  }
  return outcome;
}

Outcome gather_thread_blocks() {
  const KernelResidency decode = kernels::attention_decode_residency(AttentionProblem(small_spec(128), 1).params());
  Outcome outcome;
  outcome.facts.add("expected", decode.resident_ctas);
  outcome.facts.add("shared_bytes", decode.shared_bytes);
  const auto by_default = gathered(decode.resident_ctas, decode.shared_bytes, -1);
  const auto when_asked = gathered(decode.resident_ctas, decode.shared_bytes, 100);
  outcome.facts.add("by_default", by_default);
  outcome.facts.add("when_asked_for", when_asked);
  if (by_default < static_cast<std::uint32_t>(decode.resident_ctas)) {
    outcome.word = "differs";
    outcome.facts.add("fault", "the grid of decode attention runs in more than one wave");
  }
  return outcome;
}

}  // namespace fastserve::smoke
