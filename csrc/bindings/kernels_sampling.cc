#include <pybind11/stl.h>

#include <optional>

#include "base/tensor_view.h"
#include "bindings/compute_pool.h"
#include "bindings/kernels.h"
#include "bindings/tensor_caster.h"
#include "kernels/memory/copy_blocks.h"
#include "kernels/sampling/sampling.h"
#include "kernels/sampling/token_logprobs.h"
#include "kernels/sampling/token_mask.h"

namespace py = pybind11;

namespace fastserve::bindings {

void register_sampling(py::module_& module) {
  const auto sample = [](const TensorView& logits, const kernels::SamplingSettings& settings, const TensorView& seeds,
                         const TensorView& counters, const TensorView& history_start, const TensorView& history_tokens,
                         const TensorView& history_prompt_len, const TensorView& banned_start,
                         const TensorView& banned_tokens, const TensorView& bias_start, const TensorView& bias_tokens,
                         const TensorView& bias_values, const TensorView& only_biased, const TensorView& out,
                         const std::optional<TensorView>& workspace, std::int64_t stream) {
    ThreadPool& pool = compute_pool();
    py::gil_scoped_release release;
    kernels::sample(
        {logits, settings, seeds, counters, history_start, history_tokens, history_prompt_len, banned_start,
         banned_tokens, bias_start, bias_tokens, bias_values, only_biased, out, workspace ? &*workspace : nullptr},
        stream, pool);
  };
  module.def("sample", sample, py::arg("logits"), py::arg("settings"), py::arg("seeds"), py::arg("counters"),
             py::arg("history_start"), py::arg("history_tokens"), py::arg("history_prompt_len"),
             py::arg("banned_start"), py::arg("banned_tokens"), py::arg("bias_start"), py::arg("bias_tokens"),
             py::arg("bias_values"), py::arg("only_biased"), py::arg("out"), py::kw_only(),
             py::arg("workspace") = py::none(), py::arg("stream") = 0,
             "Choose a token per row of logits; settings are arrays in the order of Setting, see "
             "kernels/sampling/sampling.h.");

  const auto read = [](const TensorView& logits, const TensorView& tokens, const TensorView& token_logprobs,
                       const TensorView& ranks, const TensorView& top_ids, const TensorView& top_logprobs,
                       const std::optional<TensorView>& workspace, std::int64_t stream) {
    ThreadPool& pool = compute_pool();
    py::gil_scoped_release release;
    kernels::token_logprobs(
        {logits, tokens, token_logprobs, ranks, top_ids, top_logprobs, workspace ? &*workspace : nullptr}, stream,
        pool);
  };
  module.def("token_logprobs", read, py::arg("logits"), py::arg("tokens"), py::arg("token_logprobs"), py::arg("ranks"),
             py::arg("top_ids"), py::arg("top_logprobs"), py::kw_only(), py::arg("workspace") = py::none(),
             py::arg("stream") = 0,
             "Log-softmax of the logits at chosen tokens, ranks, largest ones; see kernels/sampling/token_logprobs.h.");

  const auto mask = [](const TensorView& logits, const TensorView& masks, const TensorView& rows) {
    ThreadPool& pool = compute_pool();
    py::gil_scoped_release release;
    kernels::mask_logits(logits, masks, rows, pool);
  };
  module.def("mask_logits", mask, py::arg("logits"), py::arg("masks"), py::arg("rows"),
             "Set logits to -inf where a mask says so; see kernels/sampling/token_mask.h.");

  module.def("sampling_workspace_bytes", kernels::sampling_workspace_bytes, py::arg("num_rows"), py::arg("vocab_size"),
             py::arg("changes_logits"), "Bytes of GPU memory that sample and token_logprobs need as workspace.");
}

void register_copy_blocks(py::module_& module) {
  const auto copy = [](const TensorView& src, const TensorView& dst, const TensorView& src_ids,
                       const TensorView& dst_ids, std::int64_t stream) {
    ThreadPool& pool = compute_pool();
    py::gil_scoped_release release;
    kernels::copy_blocks(src, dst, src_ids, dst_ids, stream, pool);
  };
  module.def("copy_blocks", copy, py::arg("src"), py::arg("dst"), py::arg("src_ids"), py::arg("dst_ids"), py::kw_only(),
             py::arg("stream") = 0, "Copy whole blocks; see kernels/memory/copy_blocks.h.");

  const auto checksum = [](const TensorView& cache, const TensorView& ids, const TensorView& out, std::int64_t stream) {
    ThreadPool& pool = compute_pool();
    py::gil_scoped_release release;
    kernels::checksum_blocks(cache, ids, out, stream, pool);
  };
  module.def("checksum_blocks", checksum, py::arg("cache"), py::arg("ids"), py::arg("out"), py::kw_only(),
             py::arg("stream") = 0, "A 64-bit hash of the bytes of each block; see kernels/memory/copy_blocks.h.");
}

}  // namespace fastserve::bindings
