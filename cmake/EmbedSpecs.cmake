# Writes OUT, a C++ file with the text of each file in SPECS.
set(rows "")
foreach(spec ${SPECS})
  get_filename_component(name ${spec} NAME_WE)
  file(READ ${spec} text)
  string(APPEND rows "      {\"${name}\", R\"SLUICE(${text})SLUICE\"},\n")
endforeach()
file(WRITE ${OUT} "#include \"sluice/agent/registry.h\"

namespace sluice::agent {

const std::vector<std::pair<std::string_view, std::string_view>>& builtin_specs() {
  static const std::vector<std::pair<std::string_view, std::string_view>> specs = {
${rows}  };
  return specs;
}

}  // namespace sluice::agent
")
