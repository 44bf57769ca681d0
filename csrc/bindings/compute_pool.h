#pragma once

#include "base/thread_pool.h"

namespace fastserve::bindings {

/// The compute threads of this process, shared by every kernel call from Python; made on first use with one thread per
/// core this process may run on. `_C.set_num_threads` replaces it and must not run beside a kernel call.
ThreadPool& compute_pool();

}  // namespace fastserve::bindings
