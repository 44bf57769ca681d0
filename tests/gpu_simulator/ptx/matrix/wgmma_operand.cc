#include "ptx/matrix/wgmma_operand.h"

#include <array>

namespace ptx {

WgmmaOperand::WgmmaOperand(std::uint64_t descriptor, bool mn_major, int first_row)
    : start_((descriptor & 0x3fff) << 4),
      leading_((descriptor >> 16 & 0x3fff) << 4),
      stride_((descriptor >> 32 & 0x3fff) << 4),
      base_offset_(descriptor >> 49 & 7),
      mn_major_(mn_major),
      first_group_(first_row / 8) {
  constexpr std::array<std::uint64_t, 4> kSpans = {0, 128, 64, 32};
  span_ = kSpans[descriptor >> 62];
}

std::uint64_t WgmmaOperand::address(int group, int chunk) const {
  const auto g = static_cast<std::uint64_t>(first_group_ + group);
  const auto c = static_cast<std::uint64_t>(chunk);
  if (!mn_major_) {
    const std::uint64_t row_bytes = span_ == 0 ? 16 : span_;
    const std::uint64_t depth_bytes = span_ == 0 ? leading_ : 16;
    return swizzled(start_ + c / 2 * row_bytes + g * stride_ + c % 2 * depth_bytes);
  }
  if (span_ == 0) return start_ + g * stride_ + c % 8 * 16 + c / 8 * leading_;
  const std::uint64_t groups = span_ / 16;  // of 8 rows, side by side in the span
  return swizzled(start_ + g % groups * 16 + g / groups * leading_ + c % 8 * span_ + c / 8 * stride_);
}

std::uint64_t WgmmaOperand::swizzled(std::uint64_t address) const {
  if (span_ == 0) return address;
  const std::uint64_t line = (address >> 7) - base_offset_;
  return address ^ (line & (span_ / 16 - 1)) << 4;
}

}  // namespace ptx
