#include "base/error.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace fastserve::bindings {

void register_errors(py::module_& module) {
  // The Python names are re-exported by fastserve.errors. InvalidArgumentError is a ValueError as well.
  static py::handle root = py::exception<FastServeError>(module, "FastServeError").release();
  const py::tuple value_error_bases = py::make_tuple(root, py::handle(PyExc_ValueError));
  static py::handle invalid =
      py::exception<InvalidArgumentError>(module, "InvalidArgumentError", value_error_bases).release();
  static py::handle device = py::exception<DeviceError>(module, "DeviceError", root).release();
  static py::handle internal = py::exception<InternalError>(module, "InternalError", root).release();
  py::register_exception_translator([](std::exception_ptr pointer) {
    if (!pointer) return;
    try {
      std::rethrow_exception(pointer);
    } catch (const InvalidArgumentError& error) {
      py::set_error(invalid, error.what());
    } catch (const DeviceError& error) {
      py::set_error(device, error.what());
    } catch (const InternalError& error) {
      py::set_error(internal, error.what());
    } catch (const FastServeError& error) {
      py::set_error(root, error.what());
    }
  });
}

}  // namespace fastserve::bindings
