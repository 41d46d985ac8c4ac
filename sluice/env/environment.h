// Environment: what a trainer resets, steps and asks for its state, in the sense of OpenEnv, and
// the factory that makes one for each session. An environment knows nothing of HTTP, WebSockets or
// JSON-RPC: server.h serves any of them (examples/echo_environment.cc is a small one).
//
// Two kinds. One offers tools: a step lists them or calls one, MCP clients call them directly, and
// the server checks names and arguments before the environment sees them. The other takes actions
// of its own, described by its schema, in step().
//
// Everything here runs on the server's shard and must not block it: what blocks goes to a
// BlockingPool, and work that belongs to another shard goes there by Shard::post and is awaited.
// So sessions never hold each other up. An environment belongs to one session. Its calls come one
// after the other unless its info() allows them to overlap.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/json/value.h"
#include "sluice/net/executor.h"

namespace sluice::env {

using net::awaitable;

// Why a call was cancelled.
enum class CancelReason : uint8_t {
  kNone,
  kClientGone,  // whoever asked for it is no longer there
  kTimedOut,    // its deadline passed; the client was told
  kRequested,   // somebody asked for its end
  kStopping,    // the server stops
};
std::string_view to_string(CancelReason reason);

// What a call knows of its surroundings. Valid until the call's coroutine ends.
//
// A call is cancelled as a TaskGroup cancels: what it is suspended in returns kCancelled, once.
// It then ends what it began, for which it may wait as usual, and returns.
class CallContext {
 public:
  virtual ~CallContext() = default;
  virtual const std::string& session() const = 0;
  // Whose session it is (Access::client_of); "" where the server tells nobody apart.
  virtual std::string client() const { return ""; }
  // never() unless the client or the environment sets one; cancelled with kTimedOut when it passes.
  virtual Deadline deadline() const = 0;
  virtual CancelReason cancelled() const = 0;
  // Tells whoever watches how far the call is. `progress` grows; `total`, if known, is its end.
  virtual void progress(double progress, std::optional<double> total, std::string message) = 0;
};

struct Observation {
  json::Object fields;  // what the client finds under "observation"
  json::Value reward;   // a number, or null
  bool done = false;
  json::Object metadata;  // goes into the fields as "metadata" if there is any
};

struct ToolResult {
  std::string text;
  // For a tool that returns an object. Without it the result is the text: {"result": text}.
  std::optional<json::Object> object;
};

struct Tool {
  std::string name;
  std::string title;  // may be empty
  std::string description;
  json::Object input_schema;  // of an object; validation.h says what is understood
  std::optional<json::Object> output_schema;
  json::Object meta;  // as it stands in tools/list; left out if empty
  // Of arguments that a client leaves out: whether call_tool() is given the schema's defaults, or
  // nothing, so that it can tell what was asked for.
  enum class Defaults : uint8_t { kFilledIn, kLeftOut } defaults = Defaults::kFilledIn;
};
using Tools = std::vector<Tool>;

// Names that no tool may have: they are the orchestration's (reset, step, state, close).
bool is_reserved_tool_name(std::string_view name);

// The output schema of a tool that returns text.
json::Object text_output_schema();

class Environment {
 public:
  virtual ~Environment() = default;

  // Begins a new episode. `arguments` are the client's ("seed", "episode_id" and whatever else),
  // not checked: take what is understood, ignore the rest.
  virtual awaitable<Result<Observation>> reset(json::Object arguments, CallContext* context) = 0;

  // An action that fits the action schema. For environments with actions of their own.
  virtual awaitable<Result<Observation>> step(json::Object action, CallContext* context);

  // A call of one of the factory's tools with arguments that fit its input schema (Tool::defaults
  // says what of those that were left out). An Error is told to the client with its message. Being
  // asked to step() counts as a step of the episode or not as the environment likes; MCP calls come
  // here too and are no steps.
  virtual awaitable<Result<ToolResult>> call_tool(std::string name, json::Object arguments,
                                                  CallContext* context);

  // "episode_id", "step_count" and what else there is.
  virtual Result<json::Object> state() = 0;

  // A step that lists tools or calls one is about to be taken.
  virtual void on_tool_step() {}

  // Ends the session. No call is under way and none follows.
  virtual awaitable<void> close();
};

// What is the same for all environments of a factory.
struct EnvironmentInfo {
  std::string name;         // "coding_agent_env"
  std::string class_name;   // "CodingAgentEnvironment", as /metadata names it
  std::string description;  // empty: "<class_name> environment"
  std::string version = "1.0.0";
  std::string author, documentation_url;  // may be empty

  enum class Actions : uint8_t { kTools, kOwn } actions = Actions::kTools;
  // JSON Schemas of the action, the observation and the state. Of an environment with tools, and
  // where one is empty, the server fills in OpenEnv's.
  json::Object action_schema, observation_schema, state_schema;

  // Whether several sessions may exist at a time. A server for more than one refuses to start
  // otherwise.
  enum class Sessions : uint8_t { kOne, kMany } sessions = Sessions::kOne;
  // Whether calls of one session may run at a time (MCP over HTTP can ask for it).
  enum class Calls : uint8_t { kInTurn, kOverlapping } calls = Calls::kInTurn;

  Duration step_timeout = std::chrono::seconds(30);  // unless the client names one
};

// A list on the server's page ("Agents": "opencode 1.18", ...).
struct Listing {
  std::string title;
  std::vector<std::string> rows;
};

// Outlives the server.
class EnvironmentFactory {
 public:
  virtual ~EnvironmentFactory() = default;
  virtual const EnvironmentInfo& info() const = 0;
  // Asked for each time, so that what was added while the server runs is seen. The same pointer
  // means the same tools.
  virtual std::shared_ptr<const Tools> tools();
  virtual awaitable<Result<std::unique_ptr<Environment>>> create(std::string session) = 0;
  virtual std::vector<Listing> listings();
  // What /metadata says besides, under names of its own ("agents", how to attach a trainer, ...).
  virtual json::Object extra_metadata();
};

// Makes an Environment of the type for each session, if nothing else has to be known for it.
template <class T>
class FactoryOf final : public EnvironmentFactory {
 public:
  explicit FactoryOf(EnvironmentInfo info) : info_(std::move(info)) {}
  const EnvironmentInfo& info() const override { return info_; }
  awaitable<Result<std::unique_ptr<Environment>>> create(std::string) override {
    std::unique_ptr<Environment> made = std::make_unique<T>();
    co_return made;
  }

 private:
  const EnvironmentInfo info_;
};

}  // namespace sluice::env
