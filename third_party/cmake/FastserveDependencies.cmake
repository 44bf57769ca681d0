# What we build on; third_party/README.md says why. Nothing is downloaded and nothing is copied into the tree.
find_package(Threads REQUIRED)
if(FASTSERVE_PYTHON)
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
  if(NOT pybind11_DIR)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
      OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  endif()
  find_package(pybind11 3.0 CONFIG REQUIRED)
endif()
if(FASTSERVE_TESTS)
  find_package(GTest REQUIRED)
endif()
