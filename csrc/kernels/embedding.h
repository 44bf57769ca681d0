#pragma once

namespace fastserve {
class ThreadPool;
struct TensorView;
}  // namespace fastserve

namespace fastserve::kernels {

/// out[t] = weight[ids[t]]: a copy of rows, so there is one version for every instruction set.
///
/// ids is int32 [T], weight is [V, H] and out is [T, H] of one model dtype, dense in the last dimension. Throws
/// InvalidArgumentError when they do not fit or an id is outside [0, V), before anything is written.
void embedding(const TensorView& out, const TensorView& ids, const TensorView& weight, ThreadPool& pool);

}  // namespace fastserve::kernels
