#pragma once

namespace fastserve {

// For headers that pass these on and do not look inside.
class ThreadPool;
struct TensorView;

}  // namespace fastserve
