# Third-party libraries, all from Debian 12 (docs/dependencies.md says why each is here).

find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json url)
find_package(OpenSSL 3.0 REQUIRED)
find_package(fmt 9 REQUIRED)
find_package(simdjson REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
find_package(LibArchive 3.6 REQUIRED)
find_package(mimalloc 2.0 REQUIRED)
find_library(SLUICE_SECCOMP_LIBRARY seccomp REQUIRED)
find_library(SLUICE_BROTLI_LIBRARY brotlidec REQUIRED)
if(SLUICE_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
find_package(benchmark QUIET)  # only `./dev bench` needs it

# Boost itself is header-only here; Asio and Beast are compiled once, in sluice/net.
add_library(sluice_boost INTERFACE)
target_link_libraries(sluice_boost INTERFACE Boost::headers)

# The reproducer of the co_await miscompilation (g++ 12 frees its strings twice).
if(NOT DEFINED SLUICE_COROUTINES_OK)
  try_run(ran built ${CMAKE_BINARY_DIR}/co_await ${CMAKE_SOURCE_DIR}/cmake/co_await_temporary.cc
    LINK_LIBRARIES Threads::Threads CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON
    RUN_OUTPUT_VARIABLE printed COMPILE_OUTPUT_VARIABLE log)
  if(NOT built)
    message(FATAL_ERROR "cmake/co_await_temporary.cc does not compile:\n${log}")
  endif()
  string(STRIP "${printed}" printed)
  if(NOT ran EQUAL 0 OR NOT printed STREQUAL "65")
    message(FATAL_ERROR
      "This compiler miscompiles co_await expressions that hold temporaries "
      "(cmake/co_await_temporary.cc ended with '${ran}', printed '${printed}' instead of 65). "
      "Use clang 19: apt-get install clang-19, then cmake --preset release.")
  endif()
  set(SLUICE_COROUTINES_OK 1 CACHE INTERNAL "co_await with temporaries compiles correctly")
endif()
