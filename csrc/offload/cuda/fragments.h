#pragma once

#include <cstdint>

#include "base/tensor_view.h"

namespace fastserve::offload {

/// Copy bytes [offsets[i], offsets[i] + sizes[i]) of `source` to the same place in `target`, for every i: the inputs of
/// a step, packed with room between them. Both are contiguous uint8 [num_bytes] of one size.
///
/// On the CPU this is memcpy. Between the CPU and a GPU it is one kernel on `stream` (a cudaStream_t as an integer; more
/// kernels from 128 ranges on), which reads or writes the host side over the link, so that it never queues behind bulk
/// copies at a copy engine; the host side must be page-locked and stay as it is until the kernel has run. Offsets and
/// sizes (int64 [n], on the CPU) are taken before this returns; ranges at multiples of 16 bytes are fastest. Throws
/// InvalidArgumentError: tensors that do not fit, a range outside; DeviceError when the launch fails.
void copy_fragments(const TensorView& source, const TensorView& target, const TensorView& offsets,
                    const TensorView& sizes, std::uintptr_t stream);

}  // namespace fastserve::offload
