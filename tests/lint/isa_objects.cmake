# cmake -DNM=nm -DOBJECTS=a.o;b.o -P isa_objects.cmake
# Fail when an object compiled for one instruction set defines a weak or unique symbol outside its own namespace: the
# linker keeps one copy of such a symbol, and might keep the one that an older machine cannot run.
foreach(object IN LISTS OBJECTS)
  string(REGEX MATCH "fastserve_kernels_(scalar|avx2|avx512|amx)" found "${object}")
  set(isa "${CMAKE_MATCH_1}")
  execute_process(COMMAND "${NM}" --demangle --defined-only "${object}"
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "," symbols "${symbols}")
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    if(symbol MATCHES "^[0-9a-f]+ [VvWwu] " AND NOT symbol MATCHES " DW\\.ref\\." AND NOT symbol MATCHES "fastserve::kernels::${isa}::")
      message(SEND_ERROR "${object}: shared symbol outside fastserve::kernels::${isa}: ${symbol}")
    endif()
  endforeach()
endforeach()
