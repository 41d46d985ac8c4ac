# Documents of a room (JSON files beside its sources) as text inside its library.

# sluice_documents(OUT NAMESPACE NAME FILE [NAME FILE ...]): sets OUT to a source file, made anew
# when a FILE changes, with `extern const std::string_view NAME` in NAMESPACE for each. The room
# declares them in a header of its own.
function(sluice_documents out namespace)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/embedded.cc)
  set(script ${CMAKE_SOURCE_DIR}/cmake/EmbedDocuments.cmake)
  set(files ${ARGN})
  list(FILTER files INCLUDE REGEX "\\.json$")
  add_custom_command(OUTPUT ${source}
    COMMAND ${CMAKE_COMMAND} -DOUT=${source} -DNAMESPACE=${namespace} "-DDOCUMENTS=${ARGN}"
            -P ${script}
    WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
    DEPENDS ${files} ${script} VERBATIM)
  set(${out} ${source} PARENT_SCOPE)
endfunction()
