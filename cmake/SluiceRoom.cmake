# sluice_room(NAME <room> SOURCES ... [DEPENDS rooms above ...] [PRIVATE third-party ...]
#             [TESTS ...] [FUZZERS ...])
#
# One library per room, one test program per room, one fuzzer per file in FUZZERS. DEPENDS is
# public (a room's headers may show the headers of the rooms above it); third-party libraries are
# private, so that a room cannot use what it did not ask for.
function(sluice_room)
  cmake_parse_arguments(ROOM "" "NAME" "SOURCES;DEPENDS;PRIVATE;TESTS;TEST_PRIVATE;FUZZERS" ${ARGN})
  set(target sluice_${ROOM_NAME})
  add_library(${target} STATIC ${ROOM_SOURCES})
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC sluice_host_options ${ROOM_DEPENDS} PRIVATE ${ROOM_PRIVATE})

  if(SLUICE_TESTS AND ROOM_TESTS)
    add_executable(${ROOM_NAME}_test ${ROOM_TESTS})
    target_link_libraries(${ROOM_NAME}_test
      PRIVATE ${target} ${ROOM_TEST_PRIVATE} GTest::gtest GTest::gmock GTest::gtest_main)
    gtest_discover_tests(${ROOM_NAME}_test
      TEST_PREFIX "${ROOM_NAME}." DISCOVERY_MODE PRE_TEST PROPERTIES LABELS unit TIMEOUT 120)
  endif()

  if(SLUICE_FUZZ)
    foreach(source ${ROOM_FUZZERS})
      get_filename_component(fuzzer ${source} NAME_WE)
      add_executable(${fuzzer} ${source})
      target_link_libraries(${fuzzer} PRIVATE ${target})
      target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
    endforeach()
  endif()
endfunction()
