#include "sluice/env/testing.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "sluice/base/id.h"
#include "sluice/env/documents.h"
#include "sluice/net/shard.h"

namespace sluice::env::testing {
namespace {

constexpr std::string_view kTools = R"({
  "echo": {
    "description": "Say it again.",
    "input": {
      "type": "object", "additionalProperties": false, "required": ["message"],
      "properties": {
        "message": {"type": "string"},
        "times": {"type": "integer", "default": 1},
        "loud": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": null},
        "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}],
                 "default": null},
        "ratio": {"type": "number", "default": 1.0}}}},
  "fail": {
    "description": "Fail.",
    "input": {"type": "object", "additionalProperties": false,
              "properties": {"message": {"type": "string", "default": "boom"}}}},
  "wait": {
    "description": "Wait.",
    "input": {"type": "object", "additionalProperties": false,
              "properties": {"seconds": {"type": "number", "default": 1.0}}}},
  "object": {
    "description": "Return an object.",
    "input": {"type": "object", "additionalProperties": false, "properties": {}}}})";

class ToolEnvironment final : public Environment {
 public:
  ToolEnvironment(ToolEnvironmentFactory::Log* log, const ToolEnvironmentOptions& options)
      : log_(log), board_(options.board), max_echo_(options.max_echo) {}

  awaitable<Result<Observation>> reset(json::Object arguments, CallContext* /*context*/) override {
    if (arguments.contains("throw")) throw std::runtime_error("secret detail");
    if (const auto why = json::get_string(arguments, "fail")) {
      co_return Error(ErrorCode::kInvalidArgument, std::string(*why));
    }
    broken_ = arguments.contains("broken_state");
    episode_ = json::get_string(arguments, "episode_id").value_or(new_uuid());
    steps_ = 0;
    Observation first;
    first.metadata["status"] = "ready";
    co_return first;
  }

  awaitable<Result<ToolResult>> call_tool(std::string name, json::Object arguments,
                                          CallContext* context) override {
    if (name == "echo") co_return echo(arguments);
    if (name == "fail") {
      co_return Error(ErrorCode::kInvalidArgument,
                      std::string(*json::get_string(arguments, "message")));
    }
    if (name == "object") {
      ToolResult result{R"({"answer": 42})", json::Object()};
      (*result.object)["answer"] = 42;
      co_return result;
    }
    // Clients may ask for any number, and a Duration holds no such time.
    const double seconds = std::clamp(*json::get_number(arguments, "seconds"), 0.0, 3600.0);
    co_return co_await wait(seconds, context);
  }

  Result<json::Object> state() override {
    if (broken_) return Error(ErrorCode::kFailedPrecondition, "the state is broken");
    json::Object out;
    out["episode_id"] = episode_;
    out["step_count"] = steps_;
    out["calls"] = calls_;
    return out;
  }

  void on_tool_step() override { ++steps_; }

  awaitable<void> close() override {
    ++log_->closed;
    co_return;
  }

 private:
  Result<ToolResult> echo(const json::Object& arguments) {
    ++calls_;
    std::string message(*json::get_string(arguments, "message"));
    if (json::get_bool(arguments, "loud").value_or(false)) {
      for (char& c : message) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    }
    const int64_t times = std::max<int64_t>(0, *json::get_integer(arguments, "times"));
    if (times > 0 && message.size() > max_echo_ / static_cast<size_t>(times)) {
      return Error(ErrorCode::kTooLarge, "that is too much to say");
    }
    std::string text;
    for (int64_t i = 0; i < times; ++i) text.append(message);
    return ToolResult{std::move(text), std::nullopt};
  }

  awaitable<Result<ToolResult>> wait(double seconds, CallContext* context) {
    const std::string rollout = new_uuid();
    net::Signal stop;
    bool asked = false;
    if (board_ != nullptr) {
      json::Object summary;
      summary["task_id"] = fmt::format("wait {}", seconds);
      board_->begin(rollout, std::move(summary), [&asked] { asked = true; });
    }
    ++log_->waiting;
    constexpr int parts = 10;
    Result<void> slept;
    for (int i = 0; i < parts && slept && !asked; ++i) {
      context->progress(i, parts, fmt::format("part {}", i));
      if (board_ != nullptr) {
        json::Object detail;
        detail["part"] = i;
        board_->event(rollout, "phase", std::move(detail));
      }
      slept = co_await net::sleep_for(
          std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds / parts)));
    }
    if (!slept) {
      ++log_->cancelled;
      log_->last_reason = context->cancelled();
      if (log_->cancel_takes > Duration::zero()) {
        const auto cleaned = co_await net::sleep_for(log_->cancel_takes);
      }
    }
    --log_->waiting;
    if (board_ != nullptr) {
      json::Object fields;
      fields["error"] = slept && !asked ? json::Value(nullptr) : json::Value("cancelled");
      board_->finish(rollout, std::move(fields), {});
    }
    if (!slept || asked) co_return Error(ErrorCode::kCancelled, "cancelled while waiting");
    co_return ToolResult{"waited", std::nullopt};
  }

  ToolEnvironmentFactory::Log* const log_;
  RolloutBoard* const board_;
  const size_t max_echo_;
  std::string episode_ = new_uuid();
  int64_t steps_ = 0;
  int64_t calls_ = 0;
  bool broken_ = false;
};

}  // namespace

Tool plain_tool(std::string name) {
  Tool tool;
  tool.name = std::move(name);
  tool.input_schema["type"] = "object";
  return tool;
}

ToolEnvironmentFactory::ToolEnvironmentFactory(ToolEnvironmentOptions options) : options_(options) {
  info_.name = "tool_env";
  info_.class_name = "ToolEnv";
  info_.sessions = options.sessions;
  info_.calls = options.calls;
  info_.step_timeout = options.step_timeout;
  auto tools = std::make_shared<Tools>();
  for (const auto& member : parse_document(kTools)) {
    Tool tool;
    tool.name = std::string(member.key());
    const json::Object& text = member.value().get_object();
    tool.description = std::string(*json::get_string(text, "description"));
    tool.input_schema = *json::get_object(text, "input");
    if (tool.name != "object") tool.output_schema = text_output_schema();
    tools->push_back(std::move(tool));
  }
  tools_ = std::move(tools);
}

awaitable<Result<std::unique_ptr<Environment>>> ToolEnvironmentFactory::create(
    std::string session) {
  log.last_session = std::move(session);
  while (log.hold_create) {
    const auto slept = co_await net::sleep_for(std::chrono::milliseconds(1));
    if (!slept) break;
  }
  if (!log.create_fails_with.empty()) {
    co_return Error(ErrorCode::kUnavailable, log.create_fails_with);
  }
  ++log.created;
  std::unique_ptr<Environment> made = std::make_unique<ToolEnvironment>(&log, options_);
  co_return made;
}

}  // namespace sluice::env::testing
