#pragma once

#include <cstdint>

#include "base/forward.h"
#include "base/tensor_view.h"
#include "kernels/isa.h"

namespace fastserve::kernels {

/// Set the logits of tokens that may not come to -inf, in place, on the CPU. Throws InvalidArgumentError when a shape, a
/// dtype or a device does not fit, or a row is out of range.
///
/// logits  float32 [num_rows, vocab_size], rows may be strided
/// masks   int32 [num_rows, ceil(vocab_size / 32)]; bit t % 32 of word t / 32 is 1 where token t may come
/// rows    int32 [any]: those to mask, each once
void mask_logits(const TensorView& logits, const TensorView& masks, const TensorView& rows, ThreadPool& pool);

FS_DECLARE_CPU(void mask_row(float* logits, const std::uint32_t* mask, std::int64_t vocab_size))

}  // namespace fastserve::kernels
