#include "offload/fragment_copy.h"

#include <cstring>

#include "fake_cuda/fake_cuda.h"

// The kernel for fragments as work for a stream, since this test is built without nvcc.

namespace fastserve::offload {

void launch_fragment_copy(const FragmentList& list, cudaStream_t stream) {
  fake_cuda::launch(stream, [list] {
    for (int i = 0; i < list.count; ++i) {
      const Fragment& fragment = list.fragments[i];
      std::memcpy(fragment.target, fragment.source, static_cast<std::size_t>(fragment.num_bytes));
    }
  });
}

}  // namespace fastserve::offload
