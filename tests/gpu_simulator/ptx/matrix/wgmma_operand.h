#pragma once

#include <cstddef>
#include <cstdint>

#include "ptx/cta.h"

namespace ptx {

/// A or B of wgmma in shared memory, as its matrix descriptor tells; elements of 16 bits, depth 16.
///
/// Below, "rows" are those of A (M) and the columns of B (N): B lies as its transpose. K-major: 16 bytes hold 8
/// elements of a row, neighbours in depth; MN-major (the trans immediate is 1): 8 neighbouring rows at one depth.
///
/// Bits of the descriptor (PTX ISA 9.0, 9.7.15.5.1.2.2; addresses and offsets without their lowest 4 bits): 0-13 start
/// address, 16-29 leading dimension byte offset (LBO), 32-45 stride dimension byte offset (SBO), 49-51 base offset,
/// 62-63 swizzling: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32.
class WgmmaOperand {
 public:
  /// `first_row`, a multiple of 8: of the rows that are wanted.
  WgmmaOperand(std::uint64_t descriptor, bool mn_major, int first_row);

  /// 8 rows at depth 16 are 16 chunks of 16 bytes. K-major: chunk 2 * row + depth / 8; MN-major: chunk depth.
  static constexpr int kChunks = 16;

  /// Address of a chunk of the rows 8 * group and on, counted from first_row.
  ///
  /// Layout without swizzling, 9.7.15.5.1.2.1.3 "Canonical layouts" and make_gmma_desc of CUTLASS, in bytes, S being
  /// the swizzling's span:
  ///   K-major,  none:     (row % 8) * 16 + (row / 8) * SBO + (depth / 8) * LBO
  ///   K-major,  swizzled: (row % 8) * S  + (row / 8) * SBO + (depth / 8) * 16             LBO is not used
  ///   MN-major, none:     (row / 8) * SBO + (depth % 8) * 16 + (depth / 8) * LBO
  ///   MN-major, swizzled: (row % (S / 2)) * 2 + (row / (S / 2)) * LBO + (depth % 8) * S + (depth / 8) * SBO
  /// Swizzling (Swizzle<3 or 2 or 1, 4, 3> of CuTe) xors the bits of the chunk within S, address bits 4 and up, with as
  /// many bits from 7 on of the resulting address, start address included. So a start address inside of the pattern
  /// reads what lies there: an advance in depth by 32 bytes, as CUTLASS's DescriptorIterator makes it. The pattern
  /// starts where bits 7 to 9 equal the base offset, "(pattern start addr >> 7) & 7": multiples of 8 * S bytes when
  /// that is 0.
  std::uint64_t address(int group, int chunk) const;

 private:
  std::uint64_t swizzled(std::uint64_t address) const;

  std::uint64_t start_ = 0;
  std::uint64_t leading_ = 0;
  std::uint64_t stride_ = 0;
  std::uint64_t base_offset_ = 0;
  std::uint64_t span_ = 0;  // 0: no swizzling
  bool mn_major_ = false;
  int first_group_ = 0;
};

}  // namespace ptx
