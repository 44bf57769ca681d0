#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace fastserve::sched {

/// Output lengths in bins that widen with the length: bin i holds the lengths edge(i) + 1 .. edge(i + 1). Widths are 1
/// token up to 16 and then an eighth of the power of two below, so a length is known to 12 %. The last bin is open.
struct LengthBins {
  static constexpr std::int32_t kPerOctave = 8;
  static constexpr std::int32_t kOctaves = 17;  // 8 * 2^17: more than a million tokens
  static constexpr std::int32_t kNum = kPerOctave * (kOctaves + 1);

  static constexpr std::int32_t edge(std::int32_t bin) {
    const std::int32_t octave = bin / kPerOctave;
    return octave == 0 ? bin : (kPerOctave + bin % kPerOctave) << (octave - 1);
  }
  /// The bin a request that has produced `tokens` stands in: its length is above edge(bin).
  static constexpr std::int32_t of(std::int32_t tokens) {
    if (tokens < kPerOctave) return tokens;
    const std::int32_t octave = std::bit_width(static_cast<std::uint32_t>(tokens)) - 3;
    return std::min(kNum - 1, octave * kPerOctave + (tokens >> (octave - 1)) % kPerOctave);
  }
};

}  // namespace fastserve::sched
