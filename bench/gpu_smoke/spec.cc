#include "spec.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "base/error.h"
#include "facts.h"

namespace fastserve::smoke {
namespace {

// Each shape adds something to those before it. Rows are those of a prefill; decode takes their lengths.
constexpr const char* kShapes[] = {
    "bf16 2/2 d64 p16 1:1,15:15,16:16,17:3",           // around a page
    "bf16 2/2 d128 p16 63:63,64:1,65:65,129:40",       // around a tile; heads of 128
    "fp16 2/2 d64 p16 70:70,33:2",                     // the other dtype
    "bf16 8/2 d128 p16 300:37,1:1,200:200 fused",      // grouped heads, chunks behind a prefix, strided queries
    "bf16 8/2 d128 p32 300:37,1:1,0:1,200:200 fused",  // pages of 32, a row without tokens
    "bf16 6/2 d80 p16 130:130,90:7",                   // narrower swizzles of the copy engine
    "fp16 4/4 d96 p16 130:130,90:7",
    "bf16 4/1 d256 p16 190:150,90:7",                         // one stage of queries, short tiles
    "bf16 28/4 d128 p16 260:260,700:9",                       // a group that does not divide 128
    "bf16 40/2 d128 p16 260:100,1500:3",                      // more than 16 heads of a KV head: two passes of decode
    "bf16 32/8 d128 p16 9000:64,2100:600,33:33,900:3 fused",  // many splits, more tiles than processors
    "bf16 8/2 d128 p16 400:140,1030:20 far",                  // offsets beyond 2^31 elements
};

constexpr const char* kNaiveShapes[] = {
    "fp32 4/2 d64 p16 1:1,17:3,40:5",
    "bf16 4/2 d128 p32 0:1,33:2,70:6 fused",
    "fp16 2/1 d80 p8 19:19",
};

int number(std::string_view word, std::string_view whole) {
  int value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  FS_REQUIRE(error == std::errc{} && end == word.data() + word.size() && value >= 0, "expected a number, got '",
             std::string(word), "' in '", std::string(whole), "'");
  return value;
}

std::pair<std::string_view, std::string_view> cut(std::string_view word, char at) {
  const auto found = word.find(at);
  if (found == std::string_view::npos) return {word, {}};
  return {word.substr(0, found), word.substr(found + 1)};
}

std::vector<SpecRow> parse_rows(std::string_view words, std::string_view whole) {
  std::vector<SpecRow> rows;
  while (!words.empty()) {
    const auto [word, rest] = cut(words, ',');
    const auto [shape, count] = cut(word, '*');
    const auto [length, queries] = cut(shape, ':');
    const SpecRow row{number(length, whole), number(queries, whole)};
    rows.insert(rows.end(), static_cast<std::size_t>(count.empty() ? 1 : number(count, whole)), row);
    words = rest;
  }
  return rows;
}

DType parse_dtype(const std::string& word) {
  if (word == "bf16") return DType::kBFloat16;
  if (word == "fp16") return DType::kFloat16;
  FS_REQUIRE(word == "fp32", "the dtype must be bf16, fp16 or fp32, got '", word, "'");
  return DType::kFloat32;
}

/// The words of a decode of rows as long as those of a prefill.
std::string as_decode(const std::string& shape) {
  std::istringstream words(shape);
  std::string result, word;
  while (words >> word) {
    if (word.find(':') != std::string::npos) {
      std::string rows;
      for (const SpecRow& row : parse_rows(word, shape)) {
        rows += joined(rows.empty() ? "" : ",", row.length, ":1");
      }
      word = rows;
    }
    result += joined(result.empty() ? "" : " ", word);
  }
  return result;
}

}  // namespace

int AttentionSpec::num_tokens() const {
  int count = 0;
  for (const SpecRow& row : rows) count += row.queries;
  return count;
}

int AttentionSpec::longest() const {
  int longest = 1;
  for (const SpecRow& row : rows) longest = std::max(longest, row.length);
  return longest;
}

AttentionSpec parse_spec(std::string_view words) {
  AttentionSpec spec;
  std::istringstream stream{std::string(words)};
  std::string dtype, heads, head_dim, page, rows, word;
  stream >> spec.kernel >> dtype >> heads >> head_dim >> page >> rows;
  FS_REQUIRE(spec.kernel == "decode" || spec.kernel == "mma" || spec.kernel == "hopper" || spec.kernel == "naive",
             "the kernel must be decode, mma, hopper or naive, got '", std::string(words), "'");
  FS_REQUIRE(!rows.empty() && head_dim[0] == 'd' && page[0] == 'p',
             "write a shape like 'decode bf16 32/8 d128 p16 4097:1,1:1*3', got '", std::string(words), "'");
  spec.dtype = parse_dtype(dtype);
  const auto [q_heads, kv_heads] = cut(heads, '/');
  spec.num_q_heads = number(q_heads, words);
  spec.num_kv_heads = number(kv_heads, words);
  spec.head_dim = number(std::string_view(head_dim).substr(1), words);
  spec.page_tokens = number(std::string_view(page).substr(1), words);
  spec.rows = parse_rows(rows, words);
  FS_REQUIRE(!spec.rows.empty() && spec.num_kv_heads > 0 && spec.page_tokens > 0, "nothing to attend in '",
             std::string(words), "'");
  while (stream >> word) {
    FS_REQUIRE(word == "fused" || word == "ordered" || word == "far",
               "a shape may end with fused, ordered or far, got '", word, "'");
    (word == "fused" ? spec.fused : word == "ordered" ? spec.ordered : spec.far) = true;
  }
  return spec;
}

std::vector<std::string> default_comparisons() {
  std::vector<std::string> specs;
  for (const char* shape : kNaiveShapes) specs.push_back(joined("naive ", shape));
  for (const char* shape : kShapes) specs.push_back(joined("decode ", as_decode(shape)));
  for (const char* kernel : {"mma ", "hopper "}) {
    for (const char* shape : kShapes) specs.push_back(joined(kernel, shape));
  }
  return specs;
}

std::vector<std::string> default_timings() {
  return {"decode bf16 32/8 d128 p16 4096:1*32", "decode bf16 32/8 d128 p16 131072:1",
          "decode bf16 32/8 d128 p16 1024:1*256", "hopper bf16 16/16 d128 p16 4096:4096*8",
          "mma bf16 16/16 d128 p16 4096:4096*8"};
}

}  // namespace fastserve::smoke
