// The trainer API's messages: whatever comes is read or refused, and what is read can be written;
// what agents are sent of answers is well-formed.
#include <cstddef>
#include <cstdint>
#include <set>

#include "sluice/gate/tool_ids.h"
#include "sluice/gate/trainer_http/messages.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/cut_call.h"
#include "sluice/llm/fuzz_codec.h"

namespace {

using namespace sluice;  // NOLINT(google-build-using-namespace)

// As the gate makes an answer fit for its agent, twice in one rollout.
void check_sent(const llm::Answer& given, llm::Dialect dialect) {
  const llm::Codec& codec = *llm::find_codec(dialect);
  gate::ToolIds tool_ids;
  std::set<std::string> seen;
  for (uint64_t ordinal = 1; ordinal <= 2; ++ordinal) {
    llm::Call call;
    call.dialect = dialect;
    call.n = llm::kMaxChoices;
    call.ordinal = ordinal;
    call.body = llm::Body(
        std::make_shared<const Bytes>(R"({"messages":[{"role":"user"}],"max_tokens":2})"));
    llm::Answer answer = given;
    if (!llm::complete(answer, call)) return;
    llm::withhold_cut_calls(answer, call);
    const std::string renamed = tool_ids.name(answer, call);
    CHECK(renamed.empty() || json::read_value(renamed).has_value());
    for (const llm::Choice& choice : answer.choices) {
      for (const llm::ToolCall& each : choice.message.tool_calls) {
        CHECK(each.id.size() <= 40 && seen.insert(each.id).second);
      }
    }
    CHECK(json::read_value(codec.plain(llm::envelope(call), answer)).has_value());
    const std::string stream = codec.streamed(llm::envelope(call), answer);
    llm::fuzz::check_stream(stream);
    for (const char* end : {"\u0085", "\u2028", "\u2029"}) {
      CHECK(stream.find(end) == std::string::npos);
    }
    Bytes out;
    llm::append_json(out, answer);
    CHECK(llm::answer_from_json(*json::read_value(out), json::Unknown::kRefused).has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace http = gate::trainer_http;
  const ByteView text(reinterpret_cast<const char*>(data), size);
  (void)http::take_from_json(text);
  (void)http::registration_from_json(text);
  (void)http::text_from_json(text, "version");
  (void)http::count_from_json(text, "versions");
  const auto replies = http::replies_from_json(text);
  if (!replies) return 0;
  for (const auto& each : replies->replies) {
    if (!each.reply) continue;
    if (const auto* answer = std::get_if<llm::Answer>(&each.reply->what)) {
      for (const llm::Dialect dialect : llm::kDialects) check_sent(*answer, dialect);
    }
  }
  return 0;
}
