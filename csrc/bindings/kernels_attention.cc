#include "base/tensor_view.h"
#include "bindings/compute_pool.h"
#include "bindings/kernels.h"
#include "bindings/tensor_caster.h"
#include "kernels/attention.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using AttentionKernel = void (*)(const kernels::AttentionInputs&, ThreadPool&);

void def_attention(py::module_& module, const char* name, AttentionKernel kernel, const char* doc) {
  const auto call = [kernel](const TensorView& q, const TensorView& kv_cache, const TensorView& query_start,
                             const TensorView& seq_lens, const TensorView& block_start, const TensorView& block_ids,
                             const TensorView& out, std::int64_t row_begin, std::int64_t row_end, std::int64_t layer,
                             double scale) {
    ThreadPool& pool = compute_pool();
    py::gil_scoped_release release;
    kernel({q, kv_cache, query_start, seq_lens, block_start, block_ids, out, row_begin, row_end, layer, scale}, pool);
  };
  module.def(name, call, py::arg("q"), py::arg("kv_cache"), py::arg("query_start"), py::arg("seq_lens"),
             py::arg("block_start"), py::arg("block_ids"), py::arg("out"), py::kw_only(), py::arg("row_begin"),
             py::arg("row_end"), py::arg("layer"), py::arg("scale"), doc);
}

}  // namespace

void register_attention(py::module_& module) {
  def_attention(module, "attention_decode", kernels::attention_decode,
                "Paged attention of rows with one query token each; see kernels/attention.h.");
  def_attention(module, "attention_prefill", kernels::attention_prefill,
                "Paged causal attention of rows with any number of query tokens; see kernels/attention.h.");
}

}  // namespace fastserve::bindings
