#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

/// A CUDA runtime made of threads: each stream is a thread that works off a queue, "device memory" is host memory. It
/// stands in for the calls that the offload engine makes, and watches them; tests of logic and order, not of CUDA.
namespace fake_cuda {

struct Counters {
  std::int64_t copies = 0;              // cudaMemcpyAsync
  std::int64_t batches = 0;             // cudaMemcpyBatchAsync
  std::int64_t batched_copies = 0;      // in them
  std::int64_t fragment_launches = 0;
  std::int64_t largest_copy_bytes = 0;
  std::int64_t most_queued_operations = 0;  // of any stream at one time
  std::int64_t rerecorded_events = 0;   // recorded anew while somebody waited for the recording before
  std::int64_t pinned_ranges = 0;       // registered now
};

Counters counters();

/// Forget counts, faults and delays; the state before any call.
void reset();
/// Every operation of every stream takes a random time below this longer.
void delay_operations(double max_seconds);
/// The next call of the function (by name, e.g. "cudaMemcpyAsync") that `skip` others precede returns `status`.
void fail_call(const char* function, cudaError_t status, int skip = 0);
/// Every later call returns it as well.
void fail_calls_from_now_on(const char* function, cudaError_t status);
/// Work for a stream, as a kernel would be; null is the legacy default stream.
void launch(cudaStream_t stream, std::function<void()> kernel);

}  // namespace fake_cuda
