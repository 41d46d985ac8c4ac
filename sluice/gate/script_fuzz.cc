// Rule files from anybody, judged against a fixed conversation.
#include <cstdint>
#include <string_view>

#include "sluice/base/core/check.h"
#include "sluice/gate/script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  const auto script =
      gate::Script::parse({reinterpret_cast<const char*>(data), size}, "rules.toml");
  if (!script) {
    CHECK(!script.error().message.empty());
    return 0;
  }
  llm::Call call;
  call.model = "m";
  call.body = llm::Body(std::make_shared<const Bytes>(
      R"({"model":"m","messages":[{"role":"user","content":"write a.txt"},)"
      R"({"role":"assistant","tool_calls":[{"id":"c","function":{"name":"write"}}]},)"
      R"({"role":"tool","tool_call_id":"c","content":"Wrote /home/user/a.txt"}]})"));
  const auto verdict = script->judge(call);
  if (const auto* answer = std::get_if<llm::Answer>(&verdict.reply)) {
    CHECK(answer->choices.size() == 1);
  }
  return 0;
}
