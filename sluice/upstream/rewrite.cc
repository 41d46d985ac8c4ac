#include "sluice/upstream/rewrite.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <string>
#include <vector>

#include "sluice/json/splice.h"
#include "sluice/json/value.h"

namespace sluice::upstream {
namespace {

using llm::Dialect;

// New values of fields at a body's top. What they are made from is looked up in the body first.
class Changes {
 public:
  Changes(json::Peeker& peeker, const Bytes& body) : peeker_(peeker), body_(body) {}

  Result<std::optional<json::Raw>> find(std::string_view name) {
    const std::array names{name};
    SLUICE_TRY(const auto found, peeker_.fields(body_, names));
    if (!found[0] || found[0]->value.is(json::Type::kNull)) return std::optional<json::Raw>();
    return std::optional(found[0]->value);
  }

  // The object under `name`, or an empty one.
  Result<json::Object> object(std::string_view name) {
    SLUICE_TRY(const auto found, find(name));
    if (!found) return json::Object();
    SLUICE_TRY(json::Value value, json::parse(found->text));
    if (!value.is_object()) {
      return Error(ErrorCode::kInvalidArgument, fmt::format("{}: must be an object", name),
                   ErrorOrigin::kAgent);
    }
    return std::move(value.as_object());
  }

  void set(std::string_view name, std::string json) {
    values_.push_back(std::move(json));
    edits_.push_back({name, values_.back()});
  }
  void set(std::string_view name, const json::Object& object) {
    set(name, json::serialize(json::Value(object)));
  }

  Result<Bytes> apply() {
    if (edits_.empty()) return body_;
    return json::splice(peeker_, body_, edits_);
  }

 private:
  json::Peeker& peeker_;
  const Bytes& body_;
  std::deque<std::string> values_;  // does not move what edits point at
  std::vector<json::Edit> edits_;
};

// The cap under whichever of the names the agent uses, else under the first.
Result<void> cap(Changes& changes, std::initializer_list<std::string_view> names, int64_t most) {
  bool named = false;
  for (const std::string_view name : names) {
    SLUICE_TRY(const auto found, changes.find(name));
    if (!found) continue;
    named = true;
    const auto asked = json::to_integer(*found);
    if (!asked || *asked > most) changes.set(name, std::to_string(most));
  }
  if (!named) changes.set(*names.begin(), std::to_string(most));
  return {};
}

Result<void> change_chat(Changes& changes, const Rewrite& rewrite) {
  if (rewrite.thinking == Thinking::kOff) {
    SLUICE_TRY(json::Object kwargs, changes.object("chat_template_kwargs"));
    kwargs["enable_thinking"] = false;
    changes.set("chat_template_kwargs", kwargs);
  }
  if (rewrite.max_tokens_cap) {
    SLUICE_TRY_VOID(cap(changes, {"max_tokens", "max_completion_tokens"}, *rewrite.max_tokens_cap));
  }
  if (rewrite.top_logprobs) {
    changes.set("logprobs", "true");
    changes.set("top_logprobs", std::to_string(*rewrite.top_logprobs));
  }
  return {};
}

Result<void> change_responses(Changes& changes, const Rewrite& rewrite) {
  if (rewrite.thinking == Thinking::kOff) {
    SLUICE_TRY(json::Object reasoning, changes.object("reasoning"));
    reasoning["effort"] = "none";
    changes.set("reasoning", reasoning);
  }
  if (rewrite.max_tokens_cap) {
    SLUICE_TRY_VOID(cap(changes, {"max_output_tokens"}, *rewrite.max_tokens_cap));
  }
  if (rewrite.top_logprobs) {
    constexpr std::string_view kLogprobs = "message.output_text.logprobs";
    json::Array include;
    SLUICE_TRY(const auto given, changes.find("include"));
    if (given) {
      SLUICE_TRY(json::Value value, json::parse(given->text));
      if (value.is_array()) include = std::move(value.as_array());
    }
    if (std::find(include.begin(), include.end(), json::Value(kLogprobs)) == include.end()) {
      include.emplace_back(kLogprobs);
    }
    changes.set("include", json::serialize(json::Value(std::move(include))));
    changes.set("top_logprobs", std::to_string(*rewrite.top_logprobs));
  }
  return {};
}

Result<void> change_messages(Changes& changes, const Rewrite& rewrite) {
  if (rewrite.thinking == Thinking::kOff) changes.set("thinking", R"({"type":"disabled"})");
  if (rewrite.max_tokens_cap) {
    SLUICE_TRY_VOID(cap(changes, {"max_tokens"}, *rewrite.max_tokens_cap));
  }
  return {};
}

Result<void> change_gemini(Changes& changes, const Rewrite& rewrite) {
  SLUICE_TRY(json::Object config, changes.object("generationConfig"));
  if (rewrite.thinking == Thinking::kOff) {
    config["thinkingConfig"] = json::Object{{"thinkingBudget", 0}};
  }
  if (rewrite.max_tokens_cap) {
    const auto asked = json::get_integer(config, "maxOutputTokens");
    config["maxOutputTokens"] =
        std::min(asked.value_or(*rewrite.max_tokens_cap), *rewrite.max_tokens_cap);
  }
  if (rewrite.top_logprobs) {
    config["responseLogprobs"] = true;
    config["logprobs"] = *rewrite.top_logprobs;
  }
  changes.set("generationConfig", config);
  return {};
}

}  // namespace

Result<Bytes> rewritten(json::Peeker& peeker, Dialect dialect, const Bytes& body,
                        const Rewrite& rewrite) {
  if (rewrite.changes_nothing()) return body;
  Changes changes(peeker, body);
  switch (dialect) {
    case Dialect::kChat:
      SLUICE_TRY_VOID(change_chat(changes, rewrite));
      break;
    case Dialect::kResponses:
      SLUICE_TRY_VOID(change_responses(changes, rewrite));
      break;
    case Dialect::kMessages:
      SLUICE_TRY_VOID(change_messages(changes, rewrite));
      break;
    case Dialect::kGemini:
      SLUICE_TRY_VOID(change_gemini(changes, rewrite));
      break;
  }
  return changes.apply();
}

}  // namespace sluice::upstream
