#include "kernels/cuda/vocab_rows.h"
#include "kernels/operand.h"
#include "kernels/sampling/sampling.h"
#include "kernels/sampling/vocab_scan.h"

namespace fastserve::kernels {
namespace {

/// Hands out pieces of the workspace, each aligned to 16 bytes, and counts them.
struct Carver {
  char* base;
  std::int64_t bytes = 0;

  template <typename T>
  T* take(std::int64_t count) {
    T* piece = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
    bytes += (count * static_cast<std::int64_t>(sizeof(T)) + 15) / 16 * 16;
    return piece;
  }
};

/// Point the arrays of `rows` into the workspace; its size.
std::int64_t carve(cuda::VocabRows& rows, void* workspace, bool changes_logits) {
  Carver carver{static_cast<char*>(workspace)};
  rows.maxima = carver.take<float>(rows.num_rows * rows.num_blocks);
  rows.masses = carver.take<float>(rows.num_rows * rows.num_blocks);
  rows.inverse_temperature = carver.take<float>(rows.num_rows);
  rows.changed = carver.take<std::int32_t>(rows.num_rows);
  if (changes_logits) {
    rows.changed_logits = carver.take<float>(rows.num_rows * rows.vocab_size);
    rows.marks = carver.take<std::int32_t>(rows.num_rows * rows.vocab_size);
  }
  return carver.bytes;
}

}  // namespace

std::int64_t sampling_workspace_bytes(std::int64_t num_rows, std::int64_t vocab_size, bool changes_logits) {
  FS_REQUIRE(num_rows >= 0 && vocab_size >= 0, "num_rows and vocab_size must not be negative, got ", num_rows, " and ",
             vocab_size);
  cuda::VocabRows rows{
      .num_rows = num_rows, .vocab_size = vocab_size, .num_blocks = (vocab_size + kVocabBlock - 1) / kVocabBlock};
  return carve(rows, nullptr, changes_logits);
}

cuda::VocabRows vocab_rows_on_gpu(const TensorView& logits, const TensorView* workspace, bool changes_logits) {
  const std::int64_t vocab_size = logits.size(1);
  FS_REQUIRE(vocab_size <= cuda::kMaxVocabSize, "on a GPU a vocabulary may have ", cuda::kMaxVocabSize, " tokens, got ",
             vocab_size);
  FS_REQUIRE(workspace != nullptr, "on a GPU a workspace of sampling_workspace_bytes is needed, got none");
  cuda::VocabRows rows{.logits = logits.as<const float>(),
                       .logits_stride = row_stride(logits),
                       .num_rows = logits.size(0),
                       .vocab_size = vocab_size,
                       .num_blocks = (vocab_size + kVocabBlock - 1) / kVocabBlock};
  const std::int64_t bytes = carve(rows, workspace->data, changes_logits);
  require_ndim(*workspace, 1, "workspace");
  require_vector(*workspace, workspace->size(0), DType::kUInt8, "workspace");
  FS_REQUIRE(workspace->size(0) >= bytes && reinterpret_cast<std::uintptr_t>(workspace->data) % 16 == 0,
             "workspace must have ", bytes, " bytes, aligned to 16, got ", workspace->describe());
  return rows;
}

}  // namespace fastserve::kernels
