#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/compute_pool.h"
#include "bindings/kernels.h"
#include "bindings/tensor_caster.h"
#include "kernels/dense/activation.h"
#include "kernels/dense/embedding.h"
#include "kernels/dense/linear.h"
#include "kernels/dense/norm.h"
#include "kernels/dense/rope_kv_write.h"
#include "kernels/memory/read_bandwidth.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using OptionalTensor = std::optional<TensorView>;
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

const TensorView* pointer_to(const OptionalTensor& tensor) { return tensor ? &*tensor : nullptr; }

}  // namespace

void register_linear(py::module_& module) {
  module.attr("linear_panel_width") = kernels::kPanelWidth;
  module.attr("linear_bf16_input_unit") = kernels::kLinearInputUnit;
  module.def(
      "pack_linear_weight",
      [](const TensorView& packed, const TensorView& weight) {
        kernels::pack_linear_weight(packed, weight, compute_pool());
      },
      py::arg("packed"), py::arg("weight"), ReleaseGil(),
      "Copy weight [N, K] into packed [ceil(N / 32), K, 32], the layout that `linear` reads; bf16: K rounded up to a "
      "multiple of linear_bf16_input_unit.");
  module.def(
      "linear",
      [](const TensorView& out, const TensorView& x, const TensorView& packed, const OptionalTensor& bias,
         int num_segments) { kernels::linear(out, x, packed, pointer_to(bias), num_segments, compute_pool()); },
      py::arg("out"), py::arg("x"), py::arg("packed"), py::arg("bias") = py::none(), py::arg("num_segments") = 1,
      ReleaseGil(),
      "out [T, N] = x [T, K] @ weight.T + bias; a row of out does not depend on the other rows. The inputs are summed "
      "in num_segments (1, 2, 4, 8) segments, and these added up as a binary tree.");
}

void register_read_bandwidth(py::module_& module) {
  module.def(
      "read_bandwidth",
      [](const TensorView& x, const TensorView& out, std::int64_t stream) {
        kernels::read_bandwidth(x, out, stream, compute_pool());
      },
      py::arg("x"), py::arg("out"), py::kw_only(), py::arg("stream") = 0, ReleaseGil(),
      "Read x once, out [n] = sums of n shares of it: the roof of kernels that are bound by reading memory (for "
      "benchmarks).");
}

void register_norm(py::module_& module) {
  module.def(
      "rms_norm",
      [](const TensorView& out, const TensorView& x, const TensorView& weight, float eps,
         const OptionalTensor& residual,
         std::int64_t stream) { kernels::rms_norm(out, x, weight, pointer_to(residual), eps, stream, compute_pool()); },
      py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("eps"), py::arg("residual") = py::none(), py::kw_only(),
      py::arg("stream") = 0, ReleaseGil(), "RMSNorm of the rows of x [T, H], or of residual += x.");
  module.def(
      "layer_norm",
      [](const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias, float eps,
         const OptionalTensor& residual, std::int64_t stream) {
        kernels::layer_norm(out, x, weight, bias, pointer_to(residual), eps, stream, compute_pool());
      },
      py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"),
      py::arg("residual") = py::none(), py::kw_only(), py::arg("stream") = 0, ReleaseGil(),
      "LayerNorm of the rows of x [T, H], or of residual += x.");
}

void register_rope(py::module_& module) {
  module.def(
      "rope_kv_write",
      [](const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& positions,
         const OptionalTensor& cos_sin, const TensorView& kv_cache, const TensorView& slots, std::int64_t layer,
         bool interleaved, const OptionalTensor& q_norm, const OptionalTensor& k_norm, float norm_eps,
         std::int64_t stream) {
        const kernels::RopeKvWriteOperands operands{
            q, k, v, positions, pointer_to(cos_sin), kv_cache, slots, pointer_to(q_norm), pointer_to(k_norm)};
        kernels::rope_kv_write(operands, layer, interleaved, norm_eps, stream, compute_pool());
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("positions"), py::arg("cos_sin"), py::arg("kv_cache"),
      py::arg("slots"), py::arg("layer"), py::arg("interleaved") = false, py::arg("q_norm") = py::none(),
      py::arg("k_norm") = py::none(), py::arg("norm_eps") = 0.0f, py::kw_only(), py::arg("stream") = 0, ReleaseGil(),
      "Normalise and rotate q in place, k on its way into kv_cache; write v into kv_cache.");
}

void register_activation(py::module_& module) {
  module.def(
      "activation",
      [](const TensorView& out, const TensorView& x, const char* kind, bool gated, std::int64_t stream) {
        kernels::activation(out, x, kernels::parse_activation(kind), gated, stream, compute_pool());
      },
      py::arg("out"), py::arg("x"), py::arg("kind"), py::arg("gated"), py::kw_only(), py::arg("stream") = 0,
      ReleaseGil(), "out = act(x), or act(x[:, :I]) * x[:, I:] when gated; kind is silu, gelu, gelu_tanh or relu.");
}

void register_embedding(py::module_& module) {
  module.def(
      "embedding",
      [](const TensorView& out, const TensorView& ids, const TensorView& weight, std::int64_t stream) {
        kernels::embedding(out, ids, weight, stream, compute_pool());
      },
      py::arg("out"), py::arg("ids"), py::arg("weight"), py::kw_only(), py::arg("stream") = 0, ReleaseGil(),
      "out[t] = weight[ids[t]]; ids are int32.");
}

}  // namespace fastserve::bindings
