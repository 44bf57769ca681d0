#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>

/// A CUDA runtime made of threads: each stream is a thread that works off a queue, but for the legacy default stream,
/// whose work is done when it is given; "device memory" is host memory. It replaces the calls that we make, and
/// watches them; tests of logic and order, not of CUDA. With kernels.cc kernels run, too, as their PTX says.
namespace cudart {

struct Counters {
  std::int64_t copies = 0;          // cudaMemcpyAsync
  std::int64_t batches = 0;         // cudaMemcpyBatchAsync
  std::int64_t batched_copies = 0;  // in them
  std::int64_t kernel_launches = 0;
  std::int64_t largest_copy_bytes = 0;
  std::int64_t most_queued_operations = 0;  // of any stream at one time
  std::int64_t rerecorded_events = 0;       // recorded again while a wait for the recording before was open
  std::int64_t pinned_ranges = 0;           // registered now
};

Counters counters();

/// Forget counts, faults, delays and the loss of the device; the state before any call.
void reset();
/// Every operation of every stream takes a random time below this longer.
void delay_operations(double max_seconds);
/// The next call of the function (by name, e.g. "cudaMemcpyAsync") that `skip` others precede returns `status`.
void fail_call(const char* function, cudaError_t status, int skip = 0);
/// Every later call returns it as well.
void fail_calls_from_now_on(const char* function, cudaError_t status);
/// Work for a stream, as a kernel would be; null is the legacy default stream.
void launch(cudaStream_t stream, std::function<void()> kernel);

// For the parts of the runtime.

/// What a call of the function returns now.
cudaError_t status_of(const char* function);
/// Let cudaGetErrorString tell this of `status`, which is returned.
cudaError_t explain(cudaError_t status, std::string text);
/// The same, and every later call returns `status` until reset().
cudaError_t lose_device(cudaError_t status, std::string text);

}  // namespace cudart
