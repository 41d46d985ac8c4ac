// What a plan means for one agent: its arguments, environment and files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ranges>

#include "sluice/agent/driver.h"
#include "sluice/json/value.h"

namespace sluice::agent {
namespace {

constexpr char kPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
// The kernel's limit for one argument (MAX_ARG_STRLEN), its terminating zero included.
constexpr size_t kMaxArgument = 128 * 1024 - 1;

// Sets the value at a pointer of object keys, making the objects on the way.
Result<void> set_at(json::Value& root, std::string_view pointer, json::Value value) {
  json::Value* at = &root;
  while (!pointer.empty()) {
    pointer.remove_prefix(1);
    const size_t end = pointer.find('/');
    std::string key(pointer.substr(0, end));
    pointer = end == std::string_view::npos ? std::string_view() : pointer.substr(end);
    for (size_t i = 0; (i = key.find('~', i)) != std::string::npos; ++i) {
      if (i + 1 < key.size()) key.replace(i, 2, key[i + 1] == '1' ? "/" : "~");
    }
    if (at->is_null()) at->emplace_object();
    if (!at->is_object()) {
      return Error(ErrorCode::kInvalidArgument,
                   fmt::format("{} is below something that is no object", key));
    }
    at = &at->as_object()[key];
  }
  *at = std::move(value);
  return {};
}

// `text` as it is, or what it says as JSON.
Result<json::Value> value_of(const std::string& text, bool as_json) {
  if (!as_json) return json::Value(text);
  auto value = json::parse(text);
  if (!value) return Error(ErrorCode::kInvalidArgument, "its value must be JSON, is: " + text);
  return std::move(*value);
}

// What options of the plan, and the gate's MCP server, change in a file: values at pointers.
Result<std::vector<std::pair<std::string, json::Value>>> edits_of(const Plan& plan,
                                                                  const FileSpec& file,
                                                                  const TemplateValues& values) {
  const Spec& spec = *plan.spec;
  std::vector<std::pair<std::string, json::Value>> edits;
  for (const auto& [name, text] : plan.options) {
    const auto option = spec.options.find(name);
    if (option == spec.options.end() || option->second.file != file.path) continue;
    const std::string& pointer = option->second.pointer;
    auto value = value_of(text, option->second.json_value);
    if (!value) return std::move(value).error().within("agent option at " + pointer);
    edits.emplace_back(pointer, std::move(*value));
  }
  if (plan.host_tools != HostTools::kNone && spec.mcp && spec.mcp->file == file.path) {
    SLUICE_TRY(const std::string text, expand(spec.mcp->value, values));
    auto value = value_of(text, true);
    if (!value) return std::move(value).error().within(spec.source + ": mcp");
    edits.emplace_back(spec.mcp->pointer, std::move(*value));
  }
  return edits;
}

}  // namespace

Result<void> check_host_tools(const Spec& spec, HostTools tools) {
  if (tools == HostTools::kNone || spec.mcp) return {};
  return Error(ErrorCode::kUnsupported,
               fmt::format("{} has no MCP: a task's tools cannot be offered to it (its spec has "
                           "no [mcp])",
                           spec.title()),
               ErrorOrigin::kCaller);
}

Result<void> check_options(const Spec& spec, const std::map<std::string, std::string>& options) {
  for (const auto& [name, text] : options) {
    std::string mistake;
    const auto found = spec.options.find(name);
    if (found == spec.options.end()) {
      auto known = spec.options | std::views::keys;
      mistake = fmt::format("{} has no option \"{}\"; {}{}", spec.name, name,
                            known.empty() ? "it has none" : "known: ", fmt::join(known, ", "));
    } else if (const auto& values = found->second.values;
               !values.empty() && std::ranges::find(values, text) == values.end()) {
      mistake = fmt::format("{}'s option \"{}\" must be one of: {}; is \"{}\"", spec.name, name,
                            fmt::join(values, ", "), text);
    } else if (const auto value = value_of(text, found->second.json_value); !value) {
      mistake = fmt::format("{}'s option \"{}\": {}", spec.name, name, value.error().message);
    }
    if (!mistake.empty()) return Error(ErrorCode::kInvalidArgument, mistake, ErrorOrigin::kCaller);
  }
  return {};
}

Result<void> check_tokens(const Work& work) {
  const int64_t window = work.context_window.value_or(kContextWindow);
  if (work.max_output.value_or(0) <= window) return {};
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("max_output, {}, is more than the context window, {}: set "
                           "context_window as well",
                           *work.max_output, window),
               ErrorOrigin::kCaller);
}

std::string agent_home(const Plan& plan) {
  const auto own = plan.env.find("HOME");
  return own != plan.env.end() && own->second.starts_with('/') ? own->second : sandbox::kHome;
}

Result<Launch> make_launch(const Plan& plan, const Endpoint& endpoint, const std::string& program) {
  const Spec& spec = *plan.spec;
  const DialectSpec* dialect = spec.dialect(plan.dialect);
  if (dialect == nullptr) {
    std::vector<std::string_view> known;
    for (const DialectSpec& row : spec.dialects) known.push_back(llm::to_string(row.dialect));
    return Error(ErrorCode::kUnsupported,
                 fmt::format("{} does not speak the dialect {}; it speaks: {}", spec.name,
                             llm::to_string(plan.dialect), fmt::join(known, ", ")),
                 ErrorOrigin::kCaller);
  }
  SLUICE_TRY_VOID(check_host_tools(spec, plan.host_tools));
  SLUICE_TRY_VOID(check_options(spec, plan.options));
  TemplateValues values = dialect->vars;
  values["gate"] = endpoint.url;
  values["base_url"] = endpoint.url + dialect->path;
  values["key"] = endpoint.key;
  values["model"] = plan.model;
  const int64_t window = plan.context_window.value_or(kContextWindow);
  values["context_window"] = std::to_string(window);
  values["max_output"] = std::to_string(std::min(plan.max_output.value_or(kMaxOutput), window));
  values["home"] = agent_home(plan);
  values["workdir"] = plan.workdir;
  values["bundle"] = bundle_mount(spec);
  values["program"] = program;
  values["version"] = spec.version;
  values["rollout"] =
      plan.sandbox.labels.contains("rollout") ? plan.sandbox.labels.at("rollout") : "";

  Launch launch;
  for (const std::string& word : spec.command) {
    SLUICE_TRY(launch.argv.emplace_back(), expand(word, values));
  }
  if (plan.approvals == Approvals::kBypass) {
    launch.argv.insert(launch.argv.end(), spec.approvals_bypass.begin(),
                       spec.approvals_bypass.end());
  }

  std::map<std::string, std::string> env = {{"HOME", agent_home(plan)},
                                            {"PATH", kPath},
                                            {"USER", "user"},
                                            {"LOGNAME", "user"},
                                            {"LANG", "C.UTF-8"},
                                            {"SHELL", "/bin/sh"},
                                            {"TMPDIR", "/tmp"},
                                            {"NO_PROXY", "127.0.0.1,localhost"},
                                            {"no_proxy", "127.0.0.1,localhost"}};
  for (const auto& [name, value] : spec.env) {
    SLUICE_TRY(env[name], expand(value, values));
  }
  for (const auto& [name, value] : plan.env) env[name] = value;
  if (plan.env.contains("HOME")) env["HOME"] = agent_home(plan);

  for (const FileSpec& file : spec.files) {
    SLUICE_TRY(std::string path, expand(file.path, values));
    SLUICE_TRY(std::string content, expand(file.content, values));
    SLUICE_TRY(auto edits, edits_of(plan, file, values));
    if (!edits.empty()) {
      auto root = json::parse(content);
      if (!root) {
        return std::move(root).error().within(fmt::format("{}: {} is not JSON", spec.source, path));
      }
      for (auto& [pointer, value] : edits) {
        SLUICE_TRY_VOID(set_at(*root, pointer, std::move(value)));
      }
      content = json::serialize(*root);
    }
    launch.files.push_back({std::move(path), std::move(content), file.mode});
  }
  for (const auto& [name, text] : plan.options) {
    const OptionSpec& option = spec.options.at(name);
    TemplateValues with_value = values;
    with_value["value"] = text;
    for (const std::string& word : option.args) {
      SLUICE_TRY(launch.argv.emplace_back(), expand(word, with_value));
    }
    for (const auto& [key, value] : option.env) {
      SLUICE_TRY(env[key], expand(value, with_value));
    }
  }

  if (spec.prompt == PromptBy::kStdin) {
    launch.input = plan.instruction;
  } else {
    const size_t lead =
        std::min(plan.instruction.find_first_not_of(spec.prompt_lead), plan.instruction.size());
    launch.input = plan.instruction.substr(0, lead);
    std::string argument = plan.instruction.substr(lead);
    if (argument.size() > kMaxArgument) {
      return Error(ErrorCode::kTooLarge,
                   fmt::format("{} takes its instruction as an argument, which may have {} bytes; "
                               "this one has {}",
                               spec.name, kMaxArgument, argument.size()),
                   ErrorOrigin::kTask);
    }
    if (!argument.empty() || lead == 0) launch.argv.push_back(std::move(argument));
  }
  for (auto& [name, value] : env) launch.env.emplace_back(name, std::move(value));
  return launch;
}

}  // namespace sluice::agent
