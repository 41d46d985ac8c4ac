# sluice_room(NAME <room> SOURCES ... [DEPENDS rooms above ...] [PRIVATE third-party ...]
#             [TESTS ...] [TEST_PRIVATE ...] [FUZZERS ...] [BENCHES ...])
#
# One library per room, one test program per room, one program per file in FUZZERS and BENCHES.
# DEPENDS is public (a room's headers may show the headers of the rooms above it); third-party
# libraries are private, so that a room cannot link what it did not ask for. That the includes
# agree is checked by `tools/check layers`.
#
# Targets over all rooms: unit_tests, threaded_tests, fuzzers, benches, headers_alone.

# The rooms whose objects are touched by more than one thread: their tests also run under TSan.
set(SLUICE_THREADED_ROOMS base net guest llm trace gate rollout env_coding)

add_custom_target(unit_tests)
add_custom_target(threaded_tests)
add_custom_target(fuzzers)
add_custom_target(benches)

# What the sanitizers' runtimes are told in tests: names instead of addresses in reports, and no
# second chance.
if(SLUICE_SANITIZE MATCHES "thread")
  set(sluice_test_environment TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1)
else()
  set(sluice_test_environment
    ASAN_OPTIONS=strict_string_checks=1:detect_stack_use_after_return=1:check_initialization_order=1)
endif()
find_program(SLUICE_SYMBOLIZER llvm-symbolizer-19)
if(SLUICE_SYMBOLIZER)
  string(APPEND sluice_test_environment ":external_symbolizer_path=${SLUICE_SYMBOLIZER}")
endif()

function(sluice_room)
  cmake_parse_arguments(
    ROOM "" "NAME" "SOURCES;DEPENDS;PRIVATE;TESTS;TEST_PRIVATE;FUZZERS;BENCHES" ${ARGN})
  set(target sluice_${ROOM_NAME})
  add_library(${target} STATIC ${ROOM_SOURCES})
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC sluice_host_options ${ROOM_DEPENDS} PRIVATE ${ROOM_PRIVATE})

  if(SLUICE_TESTS AND ROOM_TESTS)
    add_executable(${ROOM_NAME}_test ${ROOM_TESTS})
    target_link_libraries(${ROOM_NAME}_test
      PRIVATE ${target} ${ROOM_TEST_PRIVATE} GTest::gtest GTest::gmock GTest::gtest_main)
    add_dependencies(unit_tests ${ROOM_NAME}_test)
    # ctest -L takes an expression: "unit" finds these too.
    set(label unit)
    if(ROOM_NAME IN_LIST SLUICE_THREADED_ROOMS)
      add_dependencies(threaded_tests ${ROOM_NAME}_test)
      set(label unit_threaded)
    endif()
    if(CMAKE_BUILD_TYPE STREQUAL "Release")  # ThinLTO links are not free: only when asked for
      set_target_properties(${ROOM_NAME}_test PROPERTIES EXCLUDE_FROM_ALL ON)
    endif()
    gtest_discover_tests(${ROOM_NAME}_test
      TEST_PREFIX "${ROOM_NAME}." DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 300
      PROPERTIES LABELS ${label} TIMEOUT 300 ENVIRONMENT ${sluice_test_environment})
  endif()

  if(SLUICE_FUZZ)
    foreach(source ${ROOM_FUZZERS})
      get_filename_component(fuzzer ${source} NAME_WE)
      add_executable(${fuzzer} ${source})
      target_link_libraries(${fuzzer} PRIVATE ${target})
      target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
      # `./dev test` finds the fuzzers in this folder.
      set_target_properties(${fuzzer} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzzers)
      add_dependencies(fuzzers ${fuzzer})
    endforeach()
  endif()

  if(benchmark_FOUND)
    foreach(source ${ROOM_BENCHES})
      get_filename_component(bench ${source} NAME_WE)
      add_executable(${bench} EXCLUDE_FROM_ALL ${source})
      target_link_libraries(${bench} PRIVATE ${target} benchmark::benchmark)
      add_dependencies(benches ${bench})
    endforeach()
  endif()
endfunction()

# For programs that are tested with and not measured: ThinLTO's link, where a release build spends
# most of its time, without optimising across rooms.
function(sluice_link_quickly target)
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_link_options(${target} PRIVATE -Wl,--lto-O0,--lto-CGO0)
  endif()
endfunction()

# Target headers_alone: headers compiled by themselves, so that none leans on what happens to be
# included before it. Those that their own source or test includes first are compiled so already
# (found out when CMake configures). No optimisation or sanitizer: only the front end matters.
function(sluice_headers_alone)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}
    ${CMAKE_SOURCE_DIR}/sluice/*.h)
  set(sources)
  foreach(header ${headers})
    string(REGEX REPLACE "\\.h$" "" stem ${header})
    set(first)
    foreach(own ${stem}.cc ${stem}_test.cc)
      if(EXISTS ${CMAKE_SOURCE_DIR}/${own})
        file(STRINGS ${CMAKE_SOURCE_DIR}/${own} include REGEX "^#include" LIMIT_COUNT 1)
        list(APPEND first "${include}")
      endif()
    endforeach()
    if("#include \"${header}\"" IN_LIST first)
      continue()
    endif()
    string(REPLACE "/" "." name ${header})
    set(source ${CMAKE_BINARY_DIR}/headers/${name}.cc)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\n#include \"${header}\"\n")
    list(APPEND sources ${source})
  endforeach()
  add_library(headers_alone OBJECT EXCLUDE_FROM_ALL ${sources})
  target_include_directories(headers_alone PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(headers_alone PRIVATE sluice_host_options)
  target_compile_options(headers_alone PRIVATE -O0 -g0 -fno-sanitize=all)
endfunction()
