#include "sluice/gate/tool_ids.h"

#include <fmt/format.h>

#include <utility>

#include "sluice/json/text.h"
#include "sluice/llm/dialect.h"

namespace sluice::gate {
namespace {

constexpr size_t kMaxSent = 40;  // OpenAI's limit
constexpr size_t kMadeDigits = 24;

// Anthropic's letters, which the others take too.
bool fits(std::string_view id) {
  return !id.empty() && id.size() <= kMaxSent &&
         id.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") ==
             std::string_view::npos;
}

// The same each time.
std::string made_for(const llm::Call& call, size_t choice, size_t index, size_t attempt) {
  const llm::Codec* const codec = llm::find_codec(call.dialect);
  const std::string digits = xxh3_128(fmt::format("{} {} {} {} {}", call.rollout.value,
                                                  call.ordinal, choice, index, attempt))
                                 .hex();
  std::string id(codec == nullptr ? "call_" : codec->tool_id_prefix());
  return id.append(digits, 0, kMadeDigits);
}

}  // namespace

bool ToolIds::is_new(const std::string& id) {
  return seen_.size() < kMost && seen_.insert(xxh3_128(id)).second;
}

std::string ToolIds::name(llm::Answer& answer, const llm::Call& call) {
  Bytes renamed;
  for (size_t choice = 0; choice < answer.choices.size(); ++choice) {
    auto& calls = answer.choices[choice].message.tool_calls;
    for (size_t index = 0; index < calls.size(); ++index) {
      std::string& id = calls[index].id;
      if (fits(id) && is_new(id)) continue;
      std::string made = made_for(call, choice, index, 0);
      // Somebody may have guessed it.
      for (size_t attempt = 1; seen_.contains(xxh3_128(made)); ++attempt) {
        made = made_for(call, choice, index, attempt);
      }
      if (seen_.size() < kMost) seen_.insert(xxh3_128(made));
      const std::string own = std::exchange(id, std::move(made));
      if (own.empty() || own.size() > kMaxOwn || renamed_ == kMost) continue;
      ++renamed_;
      if (!own_) own_ = std::make_shared<llm::OwnIds>();
      own_->add(id, own);
      renamed.push_back(renamed.empty() ? '{' : ',');
      json::append_string(renamed, id);
      renamed.push_back(':');
      json::append_string(renamed, own);
    }
  }
  if (!renamed.empty()) renamed.push_back('}');
  return renamed;
}

}  // namespace sluice::gate
