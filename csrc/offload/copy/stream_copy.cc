#include "offload/copy/stream_copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastserve::offload {

// The sanitizers see no streaming stores: under them the plain copy lets them check every byte.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)

namespace {

constexpr std::size_t kVectorBytes = 16;
constexpr std::size_t kRowBytes = 4 * kVectorBytes;
constexpr std::size_t kLeastStreamedBytes = std::size_t{64} << 10;  // below it both are as fast

/// num_bytes is a multiple of kRowBytes, target of kVectorBytes.
void stream_rows(std::byte* target, const std::byte* source, std::size_t num_bytes) {
  for (std::size_t at = 0; at < num_bytes; at += kRowBytes) {
    const auto* from = reinterpret_cast<const __m128i*>(source + at);
    auto* to = reinterpret_cast<__m128i*>(target + at);
    const __m128i a = _mm_loadu_si128(from);
    const __m128i b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2);
    const __m128i d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
  _mm_sfence();  // before the completion is published
}

}  // namespace

void stream_copy(std::byte* target, const std::byte* source, std::size_t num_bytes) {
  if (num_bytes < kLeastStreamedBytes) {
    std::memcpy(target, source, num_bytes);
    return;
  }
  const std::size_t head = (kVectorBytes - reinterpret_cast<std::uintptr_t>(target) % kVectorBytes) % kVectorBytes;
  const std::size_t rows = (num_bytes - head) / kRowBytes * kRowBytes;
  std::memcpy(target, source, head);
  stream_rows(target + head, source + head, rows);
  std::memcpy(target + head + rows, source + head + rows, num_bytes - head - rows);
}

#else

void stream_copy(std::byte* target, const std::byte* source, std::size_t num_bytes) {
  std::memcpy(target, source, num_bytes);
}

#endif

}  // namespace fastserve::offload
