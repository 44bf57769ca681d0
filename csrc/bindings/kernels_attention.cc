#include <pybind11/stl.h>

#include <optional>

#include "base/tensor_view.h"
#include "bindings/compute_pool.h"
#include "bindings/kernels.h"
#include "bindings/tensor_caster.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/attention_gpu.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using AttentionKernel = void (*)(const kernels::AttentionInputs&, ThreadPool&);

void def_attention(py::module_& module, const char* name, AttentionKernel kernel, const char* doc) {
  const auto call = [kernel](const TensorView& q, const TensorView& kv_cache, const TensorView& query_start,
                             const TensorView& seq_lens, const TensorView& block_start, const TensorView& block_ids,
                             const TensorView& out, std::int64_t row_begin, std::int64_t row_end, std::int64_t layer,
                             double scale, const std::optional<TensorView>& workspace, std::int64_t max_seq_len,
                             const char* backend, std::int64_t stream) {
    ThreadPool& pool = compute_pool();
    const auto chosen = kernels::parse_attention_backend(backend);
    py::gil_scoped_release release;
    kernel({q, kv_cache, query_start, seq_lens, block_start, block_ids, out, row_begin, row_end, layer, scale,
            workspace ? &*workspace : nullptr, max_seq_len, chosen, stream},
           pool);
  };
  module.def(name, call, py::arg("q"), py::arg("kv_cache"), py::arg("query_start"), py::arg("seq_lens"),
             py::arg("block_start"), py::arg("block_ids"), py::arg("out"), py::kw_only(), py::arg("row_begin"),
             py::arg("row_end"), py::arg("layer"), py::arg("scale"), py::arg("workspace") = py::none(),
             py::arg("max_seq_len") = 0, py::arg("backend") = "native", py::arg("stream") = 0, doc);
}

}  // namespace

void register_attention(py::module_& module) {
  def_attention(module, "attention_decode", kernels::attention_decode,
                "Paged attention of rows with one query token each; see kernels/attention/attention.h.");
  def_attention(module, "attention_prefill", kernels::attention_prefill,
                "Paged causal attention of rows with any number of query tokens; see kernels/attention/attention.h.");
  module.def("attention_workspace_bytes", kernels::attention_workspace_bytes, py::arg("num_rows"),
             py::arg("num_q_heads"), py::arg("head_dim"), py::arg("max_seq_len"),
             "Bytes of the workspace of attention on a GPU; see kernels/attention/attention.h.");
  module.def("attention_hopper_available", kernels::attention_hopper_available,
             "Whether the current GPU runs the attention kernels for Hopper; see kernels/attention/attention_gpu.h.");
}

}  // namespace fastserve::bindings
