# Writes OUT for sluice_documents(): NAME FILE pairs in DOCUMENTS, files from the working directory.
set(text "#include <string_view>\n\nnamespace ${NAMESPACE} {\n")
while(DOCUMENTS)
  list(POP_FRONT DOCUMENTS name file)
  file(READ ${file} content)
  string(APPEND text "
extern const std::string_view ${name};
const std::string_view ${name} = R\"SLUICE(${content})SLUICE\";
")
endwhile()
file(WRITE ${OUT} "${text}\n}  // namespace ${NAMESPACE}\n")
