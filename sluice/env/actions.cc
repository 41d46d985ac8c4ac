// Actions and observations: what a step asks for, taking it, and how its end is written.
#include <fmt/format.h>

#include <algorithm>

#include "sluice/env/core.h"
#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

const json::Object& list_tools_schema() {
  static const json::Object schema = parse_document(R"({
    "type": "object", "additionalProperties": false,
    "properties": {
      "metadata": {"type": "object", "default": {}},
      "type": {"const": "list_tools", "default": "list_tools"}}})");
  return schema;
}

bool contains_ignoring_case(std::string_view text, std::string_view word) {
  const auto same = [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? a + 32 : a) == b;
  };
  return std::search(text.begin(), text.end(), word.begin(), word.end(), same) != text.end();
}

// OpenEnv tells the kinds of failure apart by what the message says, and so do its clients' users.
std::string error_type(std::string_view message) {
  if (contains_ignoring_case(message, "not found") ||
      contains_ignoring_case(message, "unknown tool")) {
    return "tool_not_found";
  }
  if (contains_ignoring_case(message, "invalid") || contains_ignoring_case(message, "argument")) {
    return "invalid_args";
  }
  return "execution_error";
}

json::Value data_of(const ToolResult& result) {
  return result.object ? json::Value(*result.object) : json::Value(result.text);
}

json::Object structured_of(const ToolResult& result) {
  return result.object ? *result.object : json::Object{{"result", result.text}};
}

std::string observation_text(json::Object fields, const json::Value& reward, bool done) {
  return python::compact(
      json::Object{{"observation", std::move(fields)}, {"reward", reward}, {"done", done}});
}

std::string observation_text(Observation observation) {
  if (!observation.metadata.empty()) {
    observation.fields["metadata"] = std::move(observation.metadata);
  }
  return observation_text(std::move(observation.fields), observation.reward, observation.done);
}

// Takes the defaults out of `checked` again.
void keep_given(const json::Value& given, json::Value& checked) {
  json::Object out;
  for (auto& member : checked.get_object()) {
    const bool is_given = given.is_object() && given.get_object().contains(member.key());
    if (is_given) out[member.key()] = std::move(member.value());
  }
  checked = std::move(out);
}

Duration seconds(double number) {
  // A deadline beyond any other limit is none.
  return from_seconds(std::min(number, 1e9));
}

awaitable<StepAnswer> tool_step(Core* core, std::shared_ptr<EnvSession> session, Action action,
                                std::optional<double> timeout_s, CallHandle* handle) {
  session->environment().on_tool_step();
  CallOptions options;
  options.handle = handle;
  const double limit = timeout_s.value_or(to_seconds(core->factory.info().step_timeout));
  const ToolAnswer answer =
      co_await call_tool(core, std::move(session), action.tool, std::move(action.arguments),
                         std::move(options), limit);
  json::Object fields{{"tool_name", action.tool}, {"result", nullptr}, {"error", nullptr}};
  if (answer.result) {
    fields["result"] = step_tool_result(*answer.result);
  } else {
    fields["error"] = {{"error_type", answer.type}, {"message", answer.message}};
  }
  StepAnswer step;
  step.text = observation_text(std::move(fields), nullptr, false);
  co_return step;
}

StepAnswer answer_of(std::optional<Result<Observation>> result, const CallOptions& options,
                     std::string_view what) {
  if (!result) {
    const bool late = options.deadline.expired();
    return {fmt::format("{} {}", what, late ? "timed out" : "was cancelled"), true};
  }
  if (!*result) return {to_valid_utf8(result->error().message), true};
  return {observation_text(std::move(**result)), false};
}

}  // namespace

Action parse_action(const json::Object& data, const EnvironmentInfo& info, Mistakes* problems) {
  Action action;
  if (info.actions == EnvironmentInfo::Actions::kOwn) {
    json::Value checked = check(info.action_schema, data, {}, Naming::kModel, problems);
    if (problems->empty() && checked.is_object())
      action.arguments = std::move(checked.get_object());
    return action;
  }
  const bool list = json::get_string(data, "type") == "list_tools";
  const json::Object& schema =
      list ? list_tools_schema() : *json::get_object(tool_schemas(), "action");
  json::Value checked = check(schema, data, {}, Naming::kModel, problems);
  if (!problems->empty()) return action;
  action.kind = list ? Action::Kind::kListTools : Action::Kind::kCallTool;
  if (list) return action;
  json::Object& fields = checked.get_object();
  action.tool = std::string(fields["tool_name"].get_string());
  if (json::Value* given = fields.if_contains("arguments")) {
    action.arguments = std::move(given->get_object());
  }
  return action;
}

awaitable<StepAnswer> take_step(Core* core, std::shared_ptr<EnvSession> session, Action action,
                                std::optional<double> timeout_s, CallHandle* handle) {
  session->touch();
  if (action.kind == Action::Kind::kListTools) {
    session->environment().on_tool_step();
    StepAnswer step;
    step.text =
        fmt::format(R"({{"observation":{},"reward":null,"done":false}})", core->tools()->for_step);
    co_return step;
  }
  if (action.kind == Action::Kind::kCallTool) {
    co_return co_await tool_step(core, std::move(session), std::move(action), timeout_s, handle);
  }
  const Duration limit = timeout_s ? seconds(*timeout_s) : core->factory.info().step_timeout;
  CallOptions options;
  options.deadline = Deadline::in(std::min(limit, core->options.max_call_time));
  options.handle = handle;
  auto work = [arguments = std::move(action.arguments)](Environment* environment,
                                                        CallContext* context) {
    return environment->step(arguments, context);
  };
  auto result = co_await session->run<Observation>(options, std::move(work));
  StepAnswer step = answer_of(std::move(result), options, "The step");
  core->count_call("step", step.failed ? "failed" : "ok");
  co_return step;
}

awaitable<StepAnswer> take_reset(Core* core, std::shared_ptr<EnvSession> session,
                                 json::Object arguments, CallHandle* handle) {
  session->touch();
  CallOptions options;
  options.deadline = Deadline::in(core->options.max_call_time);
  options.handle = handle;
  auto work = [arguments = std::move(arguments)](Environment* environment, CallContext* context) {
    return environment->reset(arguments, context);
  };
  auto result = co_await session->run<Observation>(options, std::move(work));
  StepAnswer step = answer_of(std::move(result), options, "The reset");
  core->count_call("reset", step.failed ? "failed" : "ok");
  co_return step;
}

awaitable<ToolAnswer> call_tool(Core* core, std::shared_ptr<EnvSession> session, std::string name,
                                json::Value arguments, CallOptions options,
                                std::optional<double> timeout_s) {
  session->touch();
  const auto texts = core->tools();
  const auto found = texts->by_name.find(name);
  ToolAnswer answer;
  const auto fail = [&](std::string message) {
    answer.type = error_type(message);
    answer.message = std::move(message);
    core->count_call("tool", answer.type);
  };
  if (found == texts->by_name.end()) {
    fail(fmt::format("Unknown tool: {}", python::repr(json::Value(name))));
    co_return answer;
  }
  Mistakes problems;
  json::Value checked = check(found->second->input_schema, arguments, {}, Naming::kCall, &problems);
  if (!problems.empty() || !checked.is_object()) {
    fail(to_text(problems, fmt::format("call[{}]", name)));
    co_return answer;
  }
  if (found->second->defaults == Tool::Defaults::kLeftOut) keep_given(arguments, checked);
  const Duration limit = timeout_s ? seconds(*timeout_s) : core->options.max_call_time;
  options.deadline = Deadline::in(std::min(limit, core->options.max_call_time));
  auto work = [name, given = std::move(checked.get_object())](Environment* environment,
                                                              CallContext* context) {
    return environment->call_tool(name, given, context);
  };
  const auto began = Clock::now();
  auto result = co_await session->run<ToolResult>(options, std::move(work));
  if (result && *result) {
    answer.result = std::move(**result);
    core->count_call("tool", "ok");
  } else if (result) {
    fail(fmt::format("Error calling tool '{}': {}", name, to_valid_utf8(result->error().message)));
  } else if (options.deadline.expired()) {
    fail(fmt::format("Tool '{}' timed out after {} seconds", name,
                     python::float_repr(timeout_s.value_or(to_seconds(limit)))));
    answer.type = "timeout";
  } else {
    fail(fmt::format("Error calling tool '{}': the call was cancelled", name));
  }
  core->log.info("env", "tool called",
                 {{"session", session->id()},
                  {"tool", name},
                  {"outcome", answer.result ? std::string("ok") : answer.type},
                  {"seconds", to_seconds(Clock::now() - began)}});
  co_return answer;
}

json::Object step_tool_result(const ToolResult& result) {
  json::Array contents;
  contents.push_back(json::Object{
      {"type", "text"}, {"text", result.text}, {"annotations", nullptr}, {"meta", nullptr}});
  return {{"content", std::move(contents)},
          {"structured_content", structured_of(result)},
          {"meta", nullptr},
          {"data", data_of(result)},
          {"is_error", false}};
}

json::Object mcp_tool_result(const ToolResult& result) {
  json::Array contents;
  contents.push_back(json::Object{{"type", "text"}, {"text", result.text}});
  return {{"content", std::move(contents)},
          {"structuredContent", structured_of(result)},
          {"isError", false},
          // OpenEnv's own client reads these.
          {"structured_content", structured_of(result)},
          {"data", data_of(result)},
          {"is_error", false}};
}

}  // namespace sluice::env
