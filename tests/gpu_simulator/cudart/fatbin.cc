#include "cudart/fatbin.h"

#include <charconv>
#include <cstddef>
#include <cstring>
#include <stdexcept>

namespace cudart {
namespace {

constexpr std::uint32_t kContainerMagic = 0xBA55ED50;
constexpr std::uint16_t kKindPtx = 1;

struct ContainerHeader {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t header_bytes;
  std::uint64_t payload_bytes;  // behind the header
};

struct EntryHeader {  // its beginning
  std::uint16_t kind;
  std::uint16_t version;
  std::uint32_t header_bytes;
  std::uint64_t payload_bytes;
  std::uint32_t compressed_bytes;  // 0: not compressed
};

template <typename T>
T read(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

PtxText ptx_text(std::string_view text) {
  constexpr std::string_view kTarget = ".target sm_";
  PtxText result{.text = text.substr(0, text.find('\0'))};
  const auto at = result.text.find(kTarget);
  if (at == std::string_view::npos) throw std::runtime_error("PTX without a .target");
  const char* end = result.text.data() + result.text.size();
  const auto number = std::from_chars(result.text.data() + at + kTarget.size(), end, result.target);
  result.specific = number.ptr != end && *number.ptr == 'a';
  return result;
}

}  // namespace

std::vector<PtxText> ptx_of_fatbin(const void* container) {
  const auto* at = static_cast<const std::byte*>(container);
  const auto header = read<ContainerHeader>(at);
  if (header.magic != kContainerMagic || header.version != 1) throw std::runtime_error("no fat binary of version 1");
  at += header.header_bytes;
  std::vector<PtxText> texts;
  for (const std::byte* end = at + header.payload_bytes; at < end;) {
    const auto entry = read<EntryHeader>(at);
    if (entry.kind == kKindPtx) {
      if (entry.compressed_bytes != 0) throw std::runtime_error("the PTX is compressed: compile with --no-compress");
      const auto* text = reinterpret_cast<const char*>(at + entry.header_bytes);
      texts.push_back(ptx_text({text, static_cast<std::size_t>(entry.payload_bytes)}));
    }
    at += entry.header_bytes + entry.payload_bytes;
  }
  return texts;
}

const PtxText* choose(const std::vector<PtxText>& texts, int compute_capability) {
  const PtxText* best = nullptr;
  for (const PtxText& text : texts) {
    const bool runs = text.specific ? text.target == compute_capability : text.target <= compute_capability;
    if (runs && (best == nullptr || text.target > best->target)) best = &text;
  }
  return best;
}

}  // namespace cudart
