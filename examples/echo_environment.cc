// The smallest environment there is, and a server for it: each step says its message again.
//
//   echo_environment 8000
//
// Any OpenEnv client can reset and step it: {"message": "hello"} gives {"echoed_message": "hello",
// "message_length": 5}, and a reward of a tenth of the length.
#include <cstdio>
#include <cstdlib>

#include "sluice/base/id.h"
#include "sluice/env/server.h"
#include "sluice/net/shard.h"
#include "sluice/net/socket.h"

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
    echo.fields["echoed_message"] = message;
    echo.fields["message_length"] = message.size();
    echo.reward = static_cast<double>(message.size()) / 10;
    co_return echo;
  }

  Result<json::Object> state() override {
    json::Object now;
    now["episode_id"] = episode_;
    now["step_count"] = steps_;
    return now;
  }

 private:
  std::string episode_ = new_uuid();
  int64_t steps_ = 0;
};

// What all of them have in common, and where a session's comes from.
class EchoFactory final : public EnvironmentFactory {
 public:
  EchoFactory() {
    info_.name = "echo_env";
    info_.class_name = "EchoEnvironment";
    info_.actions = EnvironmentInfo::Actions::kOwn;
    info_.sessions = EnvironmentInfo::Sessions::kMany;
    info_.action_schema = json::parse(kAction)->get_object();
    info_.observation_schema = json::parse(kObservation)->get_object();
  }
  const EnvironmentInfo& info() const override { return info_; }
  awaitable<Result<std::unique_ptr<Environment>>> create(std::string) override {
    std::unique_ptr<Environment> made = std::make_unique<EchoEnvironment>();
    co_return made;
  }

 private:
  EnvironmentInfo info_;
};

}  // namespace sluice::env

int main(int argc, char** argv) {
  sluice::net::Shard shard;
  sluice::env::EchoFactory factory;
  sluice::env::ServerOptions options;
  options.max_sessions = 64;
  auto server = sluice::env::EnvServer::make(shard, factory, options);
  const auto port = static_cast<uint16_t>(argc > 1 ? std::atoi(argv[1]) : 8000);
  auto listener = sluice::net::listen_tcp(shard, "127.0.0.1", port);
  if (!server || !listener) return 1;
  std::printf("listening on %s\n", (*listener)->address().c_str());
  std::fflush(stdout);
  if (!(*server)->serve(std::move(*listener))) return 1;
  shard.run_until([] { return false; });
}
