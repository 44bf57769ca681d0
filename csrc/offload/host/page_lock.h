#pragma once

#include <cstddef>

namespace fastserve::offload {

/// Throw InvalidArgumentError in a build without CUDA; DeviceError without a driver or a GPU.
void require_page_locking();

/// Ask the kernel to place pages that are not yet there on the memory node of a GPU. Best effort: machines with one
/// node, containers that forbid it and unknown nodes leave things as they are.
void prefer_node_of_gpu(std::byte* begin, std::size_t num_bytes, int device);

/// Page-lock a range (begin aligned to pages) and map it for every GPU. Throws DeviceError, with the remedies.
void lock_pages(std::byte* begin, std::size_t num_bytes);
/// Undo lock_pages of the range that starts at `begin`; errors are ignored.
void unlock_pages(std::byte* begin);

}  // namespace fastserve::offload
