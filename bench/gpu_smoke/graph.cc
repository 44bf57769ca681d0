#include <cuda_runtime_api.h>

#include <vector>

#include "device.h"
#include "problem.h"

namespace fastserve::smoke {
namespace {

constexpr int kReplays = 3;

std::vector<std::byte> bytes_of(const DeviceMemory& memory) {
  std::vector<std::byte> bytes(memory.num_bytes());
  memory.read(bytes.data(), bytes.size());
  return bytes;
}

}  // namespace

Outcome replay_graph() {
  // The lengths of the first launch, which decides the grid; then shorter ones, of which one row is empty.
  const AttentionSpec spec = parse_spec("decode bf16 8/2 d128 p16 300:1,17:1,1100:1,64:1");
  const std::vector<std::int32_t> lengths[] = {{300, 17, 1100, 64}, {33, 0, 1025, 63}};
  AttentionProblem problem(spec, 1);
  const std::size_t num_bytes = problem.num_values() * problem.value_bytes();
  const Stream stream;
  std::vector<std::vector<std::byte>> expected;
  for (const auto& row_lengths : lengths) {
    problem.set_lengths(row_lengths);
    DeviceMemory out(num_bytes);
    out.fill(0xff);
    problem.launch(spec.kernel, out.data(), stream.get());
    stream.wait();
    expected.push_back(bytes_of(out));
  }

  DeviceMemory out(num_bytes);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  FS_CUDA(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  problem.launch(spec.kernel, out.data(), stream.get());
  FS_CUDA(cudaStreamEndCapture(stream.get(), &graph));
  FS_CUDA(cudaGraphInstantiate(&executable, graph, 0));

  Outcome outcome;
  int wrong = 0;
  for (int replay = 0; replay < kReplays; ++replay) {
    for (std::size_t i = 0; i < std::size(lengths); ++i) {
      problem.set_lengths(lengths[i]);
      out.fill(0xff);
      FS_CUDA(cudaGraphLaunch(executable, stream.get()));
      stream.wait();
      wrong += bytes_of(out) != expected[i];
    }
  }
  FS_CUDA(cudaGraphExecDestroy(executable));
  FS_CUDA(cudaGraphDestroy(graph));
  outcome.facts.add("replays", 2 * kReplays);
  outcome.facts.add("wrong", wrong);
  if (wrong > 0) outcome.word = "differs";
  return outcome;
}

}  // namespace fastserve::smoke
