// The smallest environment there is, and a server for it: each step says its message again.
//
//   echo_environment 8000
//
// Any OpenEnv client can reset and step it: {"message": "hello"} gives {"echoed_message": "hello",
// "message_length": 5}, and a reward of a tenth of the length.
#include <cstdlib>

#include "sluice/base/id.h"
#include "sluice/env/run_server.h"

namespace sluice::env {

constexpr const char* kAction = R"({"type": "object", "title": "EchoAction",
    "properties": {"message": {"type": "string", "minLength": 1}},
    "required": ["message"], "additionalProperties": false})";
constexpr const char* kObservation = R"({"type": "object", "title": "EchoObservation",
    "properties": {"echoed_message": {"type": "string"}, "message_length": {"type": "integer"}}})";

// What one session owns. Calls are coroutines: whatever takes long is awaited, nothing blocks.
class EchoEnvironment final : public Environment {
 public:
  awaitable<Result<Observation>> reset(json::Object arguments, CallContext*) override {
    episode_ = json::get_string(arguments, "episode_id").value_or(new_uuid());
    steps_ = 0;
    Observation first;
    first.metadata["status"] = "ready";
    co_return first;
  }

  // The server has checked that the action is as its schema says.
  awaitable<Result<Observation>> step(json::Object action, CallContext*) override {
    const std::string_view message = *json::get_string(action, "message");
    ++steps_;
    Observation echo;
    echo.fields = {{"echoed_message", message}, {"message_length", message.size()}};
    echo.reward = static_cast<double>(message.size()) / 10;
    co_return echo;
  }

  Result<json::Object> state() override {
    return json::Object{{"episode_id", episode_}, {"step_count", steps_}};
  }

 private:
  std::string episode_ = new_uuid();
  int64_t steps_ = 0;
};

EnvironmentInfo echo_info() {
  EnvironmentInfo info;
  info.name = "echo_env";
  info.class_name = "EchoEnvironment";
  info.actions = EnvironmentInfo::Actions::kOwn;
  info.sessions = EnvironmentInfo::Sessions::kMany;
  info.action_schema = json::parse(kAction)->get_object();
  info.observation_schema = json::parse(kObservation)->get_object();
  return info;
}

}  // namespace sluice::env

int main(int argc, char** argv) {
  sluice::env::FactoryOf<sluice::env::EchoEnvironment> factory(sluice::env::echo_info());
  sluice::env::ServerOptions options;
  options.max_sessions = 64;
  return sluice::env::run_server(factory, argc > 1 ? std::atoi(argv[1]) : 8000, options);
}
