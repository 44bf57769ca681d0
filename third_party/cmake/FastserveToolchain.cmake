# Compiler settings shared by every target of the project.

# Older compilers lack parts of C++20 and fail without naming the cause.
set(fastserve_minimum_GNU 12)
set(fastserve_minimum_Clang 16)
set(minimum "${fastserve_minimum_${CMAKE_CXX_COMPILER_ID}}")
if(NOT minimum)
  message(WARNING "FastServe is built and tested with g++ and clang; ${CMAKE_CXX_COMPILER_ID} may not compile it")
elseif(CMAKE_CXX_COMPILER_VERSION VERSION_LESS minimum)
  message(FATAL_ERROR "FastServe needs g++ ${fastserve_minimum_GNU} or clang ${fastserve_minimum_Clang}, or newer; found "
    "${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}). Choose another one with CXX=/path/to/compiler.")
endif()
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(FASTSERVE_CCACHE ccache)
if(FASTSERVE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${FASTSERVE_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${FASTSERVE_CCACHE}")
endif()

# CUDA: the result is the variable FASTSERVE_WITH_CUDA.
set(FASTSERVE_WITH_CUDA OFF)
if(NOT FASTSERVE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual")
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older CMake does not know that this nvcc takes it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # csrc/CMakeLists.txt links it
    set(FASTSERVE_WITH_CUDA ON)
  elseif(FASTSERVE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTSERVE_CUDA=ON but no CUDA compiler was found: put nvcc on PATH or set CMAKE_CUDA_COMPILER")
  endif()
endif()
if(FASTSERVE_WITH_CUDA)
  message(STATUS "FastServe: CPU and CUDA (nvcc ${CMAKE_CUDA_COMPILER_VERSION}, ${CMAKE_CUDA_ARCHITECTURES})")
else()
  message(STATUS "FastServe: CPU only (FASTSERVE_CUDA=${FASTSERVE_CUDA}; ON builds the CUDA backend)")
endif()

# Our own code: strict warnings. They are errors in CI only: a compiler newer than ours must not break an installation.
option(FASTSERVE_WERROR "Warnings are errors" OFF)
if(FASTSERVE_WERROR)
  set(fastserve_cxx_errors -Werror)
  set(fastserve_cuda_errors ",-Werror -Werror=all-warnings")
endif()
add_library(fastserve_options INTERFACE)
target_include_directories(fastserve_options INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
target_compile_options(fastserve_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor ${fastserve_cxx_errors}>
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler=-Wall,-Wextra${fastserve_cuda_errors}>")
target_compile_definitions(fastserve_options INTERFACE
  FASTSERVE_VERSION="${PROJECT_VERSION}"
  $<$<BOOL:${FASTSERVE_WITH_CUDA}>:FASTSERVE_WITH_CUDA>)
if(FASTSERVE_SANITIZE)
  target_compile_options(fastserve_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FASTSERVE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g>)
  target_link_options(fastserve_options INTERFACE -fsanitize=${FASTSERVE_SANITIZE})
endif()
