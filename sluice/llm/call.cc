#include "sluice/llm/call.h"

namespace sluice::llm {

std::string_view to_string(Purpose purpose) {
  constexpr std::string_view names[] = {"main", "title", "summary", "subagent", "probe"};
  return names[static_cast<size_t>(purpose) % 5];
}

std::string_view to_string(Role role) {
  constexpr std::string_view names[] = {"system", "user", "assistant", "tool"};
  return names[static_cast<size_t>(role) % 4];
}

std::string_view to_string(ToolCall::Kind kind) {
  return kind == ToolCall::Kind::kCustom ? "custom" : "function";
}

std::string_view to_string(Finish finish) {
  constexpr std::string_view names[] = {"stop", "length", "tool_calls", "content_filter"};
  return names[static_cast<size_t>(finish) % 4];
}

std::string_view to_string(Origin origin) {
  constexpr std::string_view names[] = {"sampled", "edited", "canned", "injected"};
  return names[static_cast<size_t>(origin) % 4];
}

std::string_view to_string(Outcome outcome) {
  constexpr std::string_view names[] = {"delivered", "undelivered", "superseded",
                                        "refused",   "failed",      "cancelled"};
  return names[static_cast<size_t>(outcome) % 6];
}

}  // namespace sluice::llm
