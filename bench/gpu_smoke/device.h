#pragma once

#include "facts.h"

// What the device and its driver are and can do. Each function is an item of its own.

namespace fastserve::smoke {

/// Name, driver and attributes.
Outcome describe_device();
/// The tensor maps of the Hopper kernel for every head size, made by the driver.
Outcome make_tensor_maps();
/// Registers, shared memory and resident thread blocks of every attention kernel.
Outcome describe_kernels();
/// Whether as many thread blocks of the shared memory of decode attention run at once as its grid counts on, by what the
/// driver takes for shared memory on its own, and when all is asked for.
Outcome gather_thread_blocks();
/// Decode attention in a graph, replayed after lengths were overwritten in place: the bits of a launch without one.
Outcome replay_graph();
/// Numbers that a kernel writes to page-locked memory of the host, allocated and registered, read after an event.
Outcome write_to_host();
/// cudaMemcpyBatchAsync both ways between registered memory of the host and the device, as the offload engine calls it.
Outcome copy_in_batches();

}  // namespace fastserve::smoke
