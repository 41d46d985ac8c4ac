# Writes OUT, a C++ file with the documents of IN (sluice/env) as text.
file(READ ${IN}/openapi.json openapi)
file(READ ${IN}/tool_schemas.json tool_schemas)
file(READ ${IN}/coding/run_rollout.json run_rollout)
file(WRITE ${OUT} "#include \"sluice/env/embedded.h\"

namespace sluice::env::embedded {

const std::string_view kOpenapi = R\"SLUICE(${openapi})SLUICE\";
const std::string_view kRunRollout = R\"SLUICE(${run_rollout})SLUICE\";
const std::string_view kToolSchemas = R\"SLUICE(${tool_schemas})SLUICE\";

}  // namespace sluice::env::embedded
")
