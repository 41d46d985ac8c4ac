// The lifecycle driver: takes one agent through one sandbox, the same way for every agent.
//
//   create -> install -> upload -> setup -> configure -> start -> agent -> stop -> collect ->
//   verify -> files -> close
//
// Where the work is judged in a fresh sandbox, "snapshot" comes behind setup and "move" before
// verify.
//
// The phases up to setup are the same for every attempt at a task: prepare() does them alone and
// keeps what they made, and a plan that names it begins with a clone of that.
//
// What is special about an agent is in its spec; what is special about a rollout (its model
// endpoint, who watches, a verifier of its own) comes in through Hooks. However a phase ends, by an
// exception too, the sandbox is closed and the report tells what happened so far.
//
// A driver lives on one shard and is used once.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/agent/bundle.h"
#include "sluice/agent/events.h"
#include "sluice/agent/printed.h"
#include "sluice/agent/report.h"
#include "sluice/agent/spec.h"
#include "sluice/agent/work.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::agent {

using net::awaitable;

// Whether the gate offers host tools, over MCP at {gate}/mcp.
enum class HostTools : uint8_t { kNone, kOffered };
// Whether the agent can be told of them; kUnsupported names it and its version.
Result<void> check_host_tools(const Spec& spec, HostTools tools);
// Whether the agent has these options and they may have these values.
Result<void> check_options(const Spec& spec, const std::map<std::string, std::string>& options);

// Whether one answer fits into the window that the agent is told of.
Result<void> check_tokens(const Work& work);

struct Plan : Work {
  std::shared_ptr<const Spec> spec;
  // Of Driver::prepare(), for a plan that is the same up to here.
  std::shared_ptr<const Report> prepared;
  std::string bundle_path;  // on the host; "" to install inside
  std::string model = "policy";
  llm::Dialect dialect = llm::Dialect::kChat;
  HostTools host_tools = HostTools::kNone;
  Duration install_pause = std::chrono::seconds(3);  // before the next attempt, ever longer
  bool own_verifier = false;                         // Hooks::verify() judges
  OutputPlace outputs;                               // of what programs print

  size_t collect_files = 32;              // of the workdir, at most
  size_t collect_file_bytes = 64 * 1024;  // larger ones are only named
};

// The model endpoint as the agent sees it.
struct Endpoint {
  std::string url;  // http://127.0.0.1:<port>/rollout/<id>
  std::string key;
};

// What a rollout adds. All on the driver's shard; defaults do nothing.
class Hooks {
 public:
  virtual ~Hooks() = default;
  virtual void on_phase(std::string_view /*name*/) {}
  virtual void on_agent_event(const AgentEvent& /*event*/) {}
  // Called before the agent is configured.
  virtual awaitable<Result<Endpoint>> open_endpoint(sandbox::Sandbox* sandbox) = 0;
  // Around the agent's life: calls are admitted between the two.
  virtual void agent_starts() {}
  virtual void agent_ended() {}
  // After the verify commands, in their sandbox, when the agent is dead. A reward, or none.
  virtual awaitable<Result<std::optional<double>>> verify(sandbox::Sandbox* sandbox);
};

class Driver {
 public:
  Driver(net::Shard& shard, sandbox::Backend& backend, Plan plan, Hooks& hooks);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // The whole lifecycle. Returns when the sandbox is gone. If plan.prepared is given and failed,
  // its report is the end of this one, too.
  awaitable<Report> run();

  // Instead of run(): only what attempts share, in a sandbox of its own. What set-up left running
  // is ended. kUnsupported where the backend cannot clone.
  awaitable<Report> prepare();

  // The phases of an attempt that prepares for itself and is judged where it was made, in order.
  static std::vector<std::string_view> phases();

  // Ends it early, from the shard's thread: run() then returns soon, with kCancelled. What was
  // verified by then stays in the report.
  void cancel(std::string why);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The agent's files, arguments and environment for a plan, as the driver would use them: for the
// driver itself, for `sluice agents show` and for tests.
struct Launch {
  std::vector<std::string> argv;
  sandbox::Env env;
  Bytes input;
  std::vector<Upload> files;
};
Result<Launch> make_launch(const Plan& plan, const Endpoint& endpoint, const std::string& program);
// The agent's HOME: the task's, if its environment names one by a whole path. Everything that a
// spec puts into {home} goes there.
std::string agent_home(const Plan& plan);

}  // namespace sluice::agent
