# The compiler, its flags, and the proof that it compiles coroutines correctly.

if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang" OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19)
  message(FATAL_ERROR
    "Sluice is built with clang 19 or newer (found ${CMAKE_CXX_COMPILER_ID} "
    "${CMAKE_CXX_COMPILER_VERSION}). On Debian 12: apt-get install clang-19, then "
    "cmake --preset release. g++ 12 miscompiles co_await expressions with temporaries.")
endif()

find_program(SLUICE_CCACHE ccache)
if(SLUICE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${SLUICE_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SLUICE_CCACHE})
endif()

# Another version's lld cannot read clang 19's bitcode, so the linker is named.
add_link_options(-fuse-ld=lld --ld-path=ld.lld-19)

# Optimising what the sanitizers add doubles a build and gains its tests nothing.
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -gline-tables-only -fno-omit-frame-pointer")
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -gline-tables-only -fno-omit-frame-pointer -DNDEBUG")
set(CMAKE_C_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")

# What every target takes, the guest included.
add_library(sluice_warnings INTERFACE)
target_compile_options(sluice_warnings INTERFACE
  -Wall -Wextra -Werror -Wshadow-uncaptured-local -Wnon-virtual-dtor -Wimplicit-fallthrough
  -Wunused-result)

# What every target of the host side takes: sanitizers and ThinLTO. The guest and the sandbox
# helper are static programs, which a sanitizer's runtime cannot be, so they stay out.
add_library(sluice_host_options INTERFACE)
target_link_libraries(sluice_host_options INTERFACE sluice_warnings)
if(SLUICE_SANITIZE)
  target_compile_options(sluice_host_options INTERFACE
    -fsanitize=${SLUICE_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(sluice_host_options INTERFACE -fsanitize=${SLUICE_SANITIZE})
endif()
if(SLUICE_FUZZ)
  target_compile_options(sluice_host_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(sluice_host_options INTERFACE -flto=thin)
  target_link_options(sluice_host_options INTERFACE
    -flto=thin -Wl,--thinlto-cache-dir=${CMAKE_BINARY_DIR}/lto-cache)
endif()
target_compile_definitions(sluice_host_options INTERFACE
  BOOST_ASIO_SEPARATE_COMPILATION BOOST_BEAST_SEPARATE_COMPILATION
  BOOST_ASIO_NO_DEPRECATED BOOST_ALL_NO_LIB
  # Frames of coroutines come from operator new, which is aligned enough for them: memalign() is slow
  # and takes more. Asio itself keeps none for the next ones, because it would give a small one that
  # lives long, as those of a parked call do, the place of a large one.
  BOOST_ASIO_DISABLE_STD_ALIGNED_ALLOC BOOST_ASIO_DISABLE_BOOST_ALIGN
  BOOST_ASIO_RECYCLING_ALLOCATOR_CACHE_SIZE=0)
