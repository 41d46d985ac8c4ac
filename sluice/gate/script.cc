#include "sluice/gate/script.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include <boost/regex.hpp>

#include "sluice/base/core/fd.h"
#include "sluice/base/toml.h"
#include "sluice/json/value.h"

namespace sluice::gate {
namespace {

using llm::Finish;
using llm::Message;
using llm::Purpose;
using llm::Role;

constexpr size_t kMaxScript = 1 << 20;
// Of a message, for a pattern to look at: agents decide how long their messages are.
constexpr size_t kMaxMatchedText = 64 * 1024;

struct ToolRow {
  std::string id;
  std::string name;
  json::Value arguments;                      // strings in it are templates
  std::optional<std::string> arguments_text;  // or the text as it is to be sent
};

// A request as rules see it.
struct Scene {
  const llm::Call& call;
  const llm::Request& request;
  size_t turn = 1;  // of the assistant, that is to be answered
  const Message* last = nullptr;
  const Message* task = nullptr;         // the first user message
  const Message* tool_result = nullptr;  // the last one
  std::string after_tool{};              // whose result the last message is
  std::vector<std::string> matched{};    // groups of the rule's pattern
};

Scene scene_of(const llm::Call& call, const llm::Request& request) {
  Scene scene{call, request};
  for (const Message& message : request.messages) {
    if (message.role == Role::kAssistant) ++scene.turn;
    if (message.role == Role::kUser && scene.task == nullptr) scene.task = &message;
    if (message.role == Role::kTool) scene.tool_result = &message;
    scene.last = &message;
  }
  if (scene.last != nullptr && scene.last->role == Role::kTool) {
    for (const Message& message : request.messages) {
      for (const llm::ToolCall& tool : message.tool_calls) {
        if (tool.id == scene.last->tool_call_id) scene.after_tool = tool.name;
      }
    }
  }
  return scene;
}

std::string_view text_of(const Message* message) {
  return message == nullptr ? std::string_view() : std::string_view(message->text);
}

// The value of "{{name}}"; nothing for a name that is none of ours.
std::optional<std::string> value_of(std::string_view name, const Scene& scene) {
  if (name == "last") return std::string(text_of(scene.last));
  if (name == "task") return std::string(text_of(scene.task));
  if (name == "tool_result") return std::string(text_of(scene.tool_result));
  if (name == "model") return scene.call.model;
  if (name.size() == 7 && name.starts_with("match.") && name[6] >= '0' && name[6] <= '9') {
    const auto group = static_cast<size_t>(name[6] - '0');
    return group < scene.matched.size() ? scene.matched[group] : std::string();
  }
  return std::nullopt;
}

std::string expand(std::string_view text, const Scene& scene) {
  std::string out;
  while (!text.empty()) {
    const size_t open = std::min(text.find("{{"), text.size());
    out.append(text.substr(0, open));
    text.remove_prefix(open);
    if (text.empty()) break;
    const size_t close = text.find("}}");
    const auto value =
        close == std::string_view::npos ? std::nullopt : value_of(text.substr(2, close - 2), scene);
    out.append(value ? *value : "{{");
    text.remove_prefix(value ? close + 2 : 2);
  }
  return out;
}

json::Value expand(const json::Value& value, const Scene& scene) {
  if (value.is_string()) return json::Value(expand(std::string_view(value.get_string()), scene));
  if (value.is_array()) {
    json::Array out;
    for (const json::Value& element : value.get_array()) out.push_back(expand(element, scene));
    return out;
  }
  if (value.is_object()) {
    json::Object out;
    for (const auto& [name, member] : value.get_object()) out[name] = expand(member, scene);
    return out;
  }
  return value;
}

std::optional<boost::regex> pattern(TomlReader& in, std::string_view key) {
  const auto text = in.string(key);
  if (!text) return std::nullopt;
  try {
    return boost::regex(*text);
  } catch (const boost::regex_error& error) {
    in.mistake(key, fmt::format("is no regular expression: {}", error.what()));
    return std::nullopt;
  }
}

}  // namespace

struct Script::Rule {
  std::string name;

  // When.
  std::optional<size_t> turn;
  std::optional<Purpose> purpose;
  std::optional<bool> has_tools;
  std::optional<Role> last_role;
  std::optional<std::string> after_tool, offers_tool;
  std::optional<std::string> last_contains, task_contains;
  std::optional<boost::regex> last_matches;

  // What then.
  std::string text, reasoning;
  std::vector<ToolRow> tools;
  Finish finish = Finish::kStop;
  std::optional<llm::Usage> usage;
  std::optional<std::string> refuse;
  bool retryable = false;
  Duration delay{};

  static Rule read(TomlReader& in) {
    Rule rule;
    rule.name = in.string("name").value_or("");
    if (auto when = in.table("when")) rule.read_when(*when);
    const auto text = in.string("text");
    rule.text = text.value_or("");
    rule.reasoning = in.string("reasoning").value_or("");
    for (TomlReader& row : in.tables("tool_calls")) rule.tools.push_back(read_tool(row));
    rule.finish = in.one_of("finish", llm::kFinishes).value_or(Finish::kStop);
    if (auto usage = in.table("usage")) {
      constexpr int64_t kMax = int64_t{1} << 40;
      rule.usage = llm::Usage{usage->integer("prompt_tokens", 0, kMax).value_or(0),
                              usage->integer("completion_tokens", 0, kMax).value_or(0)};
    }
    rule.refuse = in.string("refuse");
    rule.retryable = in.boolean("retryable").value_or(false);
    rule.delay =
        in.seconds("delay_s", Duration::zero(), std::chrono::hours(1)).value_or(Duration::zero());
    if (!text && rule.tools.empty() && !rule.refuse) {
      in.mistake("text",
                 "a rule needs text, tool_calls or refuse (text = \"\" for an empty answer)");
    }
    if (rule.refuse && (text || !rule.tools.empty())) {
      in.mistake("refuse", "a rule either answers or refuses");
    }
    return rule;
  }

  // Whether the scene meets all conditions; keeps the pattern's groups in it.
  bool matches(Scene& scene) const {
    if (turn && scene.turn != *turn) return false;
    if (purpose && scene.call.purpose != *purpose) return false;
    const auto& tools = scene.request.tools;
    if (has_tools && tools.empty() == *has_tools) return false;
    if (last_role && (scene.last == nullptr || scene.last->role != *last_role)) return false;
    if (after_tool && scene.after_tool != *after_tool) return false;
    if (offers_tool &&
        std::ranges::find(tools, *offers_tool, &llm::ToolOffer::name) == tools.end()) {
      return false;
    }
    const auto contains = [](const Message* message, const std::string& wanted) {
      return text_of(message).find(wanted) != std::string_view::npos;
    };
    if (last_contains && !contains(scene.last, *last_contains)) return false;
    if (task_contains && !contains(scene.task, *task_contains)) return false;
    if (!last_matches) return true;
    const std::string text(text_of(scene.last).substr(0, kMaxMatchedText));
    boost::smatch groups;
    try {
      if (!boost::regex_search(text, groups, *last_matches)) return false;
    } catch (const std::runtime_error&) {
      return false;  // the pattern would take too long on this text
    }
    scene.matched.assign(groups.begin(), groups.end());
    return true;
  }

  llm::Answer answer(const Scene& scene) const {
    llm::Answer out;
    out.origin = llm::Origin::kCanned;
    out.usage = usage;
    llm::Choice& choice = out.choices.emplace_back();
    choice.finish = finish;
    choice.message.text = expand(text, scene);
    choice.message.reasoning = expand(reasoning, scene);
    for (const ToolRow& row : tools) {
      choice.message.tool_calls.push_back({row.id, row.name,
                                           row.arguments_text
                                               ? expand(*row.arguments_text, scene)
                                               : json::serialize(expand(row.arguments, scene))});
    }
    return out;
  }

 private:
  void read_when(TomlReader& in) {
    if (const auto number = in.integer("turn", 1, 1'000'000)) turn = static_cast<size_t>(*number);
    purpose = in.one_of("purpose", llm::kPurposes);
    has_tools = in.boolean("has_tools");
    last_role = in.one_of("last_role", llm::kRoles);
    after_tool = in.string("after_tool");
    offers_tool = in.string("offers_tool");
    last_contains = in.string("last_contains");
    task_contains = in.string("task_contains");
    last_matches = pattern(in, "last_matches");
  }

  static ToolRow read_tool(TomlReader& in) {
    ToolRow row;
    row.id = in.string("id").value_or("");
    row.name = in.required_string("name");
    row.arguments_text = in.string("arguments_text");
    row.arguments = json::Object();
    if (const auto text = in.json("arguments")) {
      auto value = json::parse(*text);
      if (value && value->is_object()) {
        row.arguments = std::move(*value);
      } else {
        in.mistake("arguments", value ? "must be a table" : value.error().message);
      }
      if (row.arguments_text) in.mistake("arguments", "stands beside arguments_text; give one");
    }
    return row;
  }
};

struct Script::Rules {
  std::string source;
  std::vector<Rule> rules;
};

Result<Script> Script::parse(std::string_view text, std::string source) {
  auto rules = std::make_shared<Rules>();
  rules->source = source;
  SLUICE_TRY(TomlReader in, TomlReader::parse(text, std::move(source)));
  for (TomlReader& row : in.tables("rules")) rules->rules.push_back(Rule::read(row));
  if (rules->rules.empty()) in.mistake("rules", "at least one [[rules]] is required");
  SLUICE_TRY_VOID(in.finish());
  return Script(std::move(rules));
}

Result<Script> Script::load(const std::string& path) {
  SLUICE_TRY(const Bytes text, read_file(path, kMaxScript));
  return parse(text, path);
}

Script::Verdict Script::judge(const llm::Call& call) const {
  const auto request = call.parse();
  if (!request) {
    return {llm::Refusal{ErrorCode::kInvalidArgument, request.error().message, true}, {}};
  }
  Scene scene = scene_of(call, *request);
  for (const Rule& rule : rules_->rules) {
    if (!rule.matches(scene)) continue;
    if (rule.refuse) {
      return {
          llm::Refusal{rule.retryable ? ErrorCode::kUnavailable : ErrorCode::kFailedPrecondition,
                       *rule.refuse, !rule.retryable},
          rule.delay};
    }
    return {rule.answer(scene), rule.delay};
  }
  const std::string_view role = scene.last == nullptr ? "none" : to_string(scene.last->role);
  return {llm::Refusal{ErrorCode::kFailedPrecondition,
                       fmt::format("no rule of {} matches turn {} (purpose {}, last message from "
                                   "{}); add one",
                                   rules_->source, scene.turn, to_string(call.purpose), role),
                       true},
          {}};
}

}  // namespace sluice::gate
