#include "sluice/llm/cut_call.h"

#include <algorithm>

#include "sluice/json/raw.h"

namespace sluice::llm {
namespace {

// Whether sampling went on for as long as it might.
bool is_at_limit(const Choice& choice, const Answer& answer, const Call& call) {
  auto sampled = static_cast<int64_t>(choice.ids.size());
  if (answer.choices.size() == 1 && answer.usage) {
    sampled = std::max(sampled, answer.usage->completion_tokens);
  }
  if (sampled == 0) return false;
  const auto request = call.request();
  return request && (*request)->max_tokens && sampled >= *(*request)->max_tokens;
}

}  // namespace

void withhold_cut_calls(Answer& answer, const Call& call) {
  for (Choice& choice : answer.choices) {
    std::vector<ToolCall>& calls = choice.message.tool_calls;
    if (calls.empty() || json::read_value(calls.back().arguments)) continue;
    if (choice.finish != Finish::kLength && !is_at_limit(choice, answer, call)) continue;
    choice.withheld.insert(choice.withheld.begin(), std::move(calls.back()));
    calls.pop_back();
    choice.finish = Finish::kLength;
  }
}

}  // namespace sluice::llm
