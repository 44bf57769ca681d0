#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace cudart {

/// One PTX text of a fat binary, which outlives it.
struct PtxText {
  int target = 0;         // 90 of ".target sm_90a"
  bool specific = false;  // the "a": for this very compute capability only
  std::string_view text;
};

/// The PTX texts in the container that nvcc embeds in an object. Its machine code is left out.
/// Throws std::runtime_error for another container, and for PTX that is compressed (nvcc --no-compress does not).
std::vector<PtxText> ptx_of_fatbin(const void* container);

/// The text that a driver would choose for a compute capability (90 for 9.0): the newest that it may run; null: none.
const PtxText* choose(const std::vector<PtxText>& texts, int compute_capability);

}  // namespace cudart
