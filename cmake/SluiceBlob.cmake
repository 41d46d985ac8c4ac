# Small static programs that run apart from us (inside a sandbox, beside the engine), and their
# bytes inside a library.

# sluice_static_program(TARGET SOURCES ...): no sanitizer, no shared library, no iostream. Whatever
# the build type, it is what is shipped.
function(sluice_static_program target)
  add_executable(${target} ${ARGN})
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE sluice_warnings)
  target_compile_options(${target} PRIVATE
    -O2 -g0 -fno-exceptions -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections -fstack-protector-strong
    -D_FORTIFY_SOURCE=2)
  target_link_options(${target} PRIVATE
    -static-pie -Wl,--gc-sections -Wl,-z,relro,-z,now -Wl,-z,noexecstack -Wl,--strip-all)
endfunction()

# sluice_blob(LIBRARY SYMBOL PROGRAM SOURCES ...): a library whose symbols SYMBOLBegin and
# SYMBOLEnd enclose PROGRAM's executable.
function(sluice_blob library symbol program)
  set(assembly ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.S)
  file(CONFIGURE OUTPUT ${assembly} @ONLY CONTENT [[
.section .note.GNU-stack,"",%progbits
.section .rodata.@symbol@,"a",%progbits
.balign 16
.global @symbol@Begin
.hidden @symbol@Begin
@symbol@Begin:
.incbin "@symbol@.bin"
.global @symbol@End
.hidden @symbol@End
@symbol@End:
.byte 0
]])
  set(bytes ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.bin)
  add_custom_command(OUTPUT ${bytes}
    COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:${program}> ${bytes}
    DEPENDS ${program} $<TARGET_FILE:${program}> VERBATIM)
  add_library(${library} STATIC ${ARGN} ${assembly})
  set_source_files_properties(${assembly} PROPERTIES
    OBJECT_DEPENDS ${bytes} INCLUDE_DIRECTORIES ${CMAKE_CURRENT_BINARY_DIR})
  target_include_directories(${library} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${library} PUBLIC sluice_core)
endfunction()
