#pragma once

#include "kernels/simt.h"

namespace fastserve::kernels {

/// A tile in shared memory whose rows are heads of kHeadDim 16-bit elements, in chunks of 16 bytes. Rows are padded to
/// an odd number of chunks, so that eight rows read at the same chunk lie in different banks, as ldmatrix wants.
/// (Swizzled chunks would save the padding, but each step along a row would need an address register of its own; here
/// they are constants in the instructions.)
template <int kHeadDim>
struct TileLayout {
  static_assert(kHeadDim % 16 == 0);
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kRowBytes = (kChunks | 1) * 16;

  FS_HOST_DEVICE static constexpr int offset(int row, int chunk) { return row * kRowBytes + chunk * 16; }
};

}  // namespace fastserve::kernels
