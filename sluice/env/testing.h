// For tests: an environment with a few tools, of the same content as the reference environment in
// tests/env/reference_environment.py, so that both servers can be asked the same.
#pragma once

#include <memory>
#include <string>

#include "sluice/env/environment.h"
#include "sluice/env/rollouts.h"

namespace sluice::env::testing {

struct ToolEnvironmentOptions {
  EnvironmentInfo::Sessions sessions = EnvironmentInfo::Sessions::kMany;
  EnvironmentInfo::Calls calls = EnvironmentInfo::Calls::kOverlapping;
  Duration step_timeout = std::chrono::seconds(30);
  size_t max_echo = 64 << 20;
  RolloutBoard* board = nullptr;  // each call of `wait` is a rollout on it
};

// Tools: echo, fail, wait, object. A reset with {"fail": "..."} fails with that message, one with
// {"throw": true} throws; {"broken_state": true} makes state() fail from then on.
class ToolEnvironmentFactory final : public EnvironmentFactory {
 public:
  explicit ToolEnvironmentFactory(ToolEnvironmentOptions options = {});

  const EnvironmentInfo& info() const override { return info_; }
  std::shared_ptr<const Tools> tools() override { return tools_; }
  awaitable<Result<std::unique_ptr<Environment>>> create(std::string session) override;
  std::vector<Listing> listings() override { return {{"Agents", {"opencode <1.18>", "pi"}}}; }

  // What the environments did.
  struct Log {
    int created = 0;
    int closed = 0;
    int waiting = 0;    // calls of `wait` under way
    int cancelled = 0;  // calls of `wait` that were
    CancelReason last_reason = CancelReason::kNone;
    std::string create_fails_with;  // set it to make create() fail
    bool hold_create = false;       // create() waits while it is set
    std::string last_session;       // for which create() was called last
    Duration cancel_takes{};        // how long a cancelled `wait` cleans up
  };
  Log log;

 private:
  EnvironmentInfo info_;
  std::shared_ptr<const Tools> tools_;
  const ToolEnvironmentOptions options_;
};

// A tool of which nothing else matters.
Tool plain_tool(std::string name);

}  // namespace sluice::env::testing
