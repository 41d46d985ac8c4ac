// Tools of the host: functions that a rollout's agent may call through the gate (MCP, or the plain
// route of docs/gate.md), run by a handler in this process or answered by the trainer. What they
// may do is their maker's affair; the gate checks names, arguments, sizes and time.
//
// Plain values; any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/base/id.h"

namespace sluice::gate {

using ToolCallId = CallId;

// What a tool gave. Text, which is what models read; JSON is text too.
struct ToolResult {
  std::string text;
  bool failed = false;  // the tool could not do it, and `text` tells the agent why
};

// One call of a tool, as its handler or the trainer gets it.
struct ToolRequest {
  ToolCallId id;
  RolloutId rollout;
  std::string tool;
  std::string arguments;  // a JSON object that fits the tool's parameters
  Deadline deadline;      // what comes later is dropped
};

// The one chance to answer. Move-only; dropping it unanswered tells the agent that the tool failed.
// May be used from any thread, also after the rollout or the gate is gone (then it does nothing).
class ToolReply {
 public:
  using Give = std::function<void(Result<ToolResult>)>;

  explicit ToolReply(Give give) : give_(std::move(give)) {}
  ~ToolReply() {
    if (give_) give_(Error(ErrorCode::kInternal, "its handler gave no answer"));
  }
  ToolReply(ToolReply&& other) noexcept : give_(std::exchange(other.give_, nullptr)) {}
  ToolReply& operator=(ToolReply&&) = delete;

  // REQUIRES: it is the first.
  void answer(ToolResult result) { std::exchange(give_, nullptr)(std::move(result)); }

 private:
  Give give_;
};

// Called on the rollout's shard; must not block it. May answer at once. What it throws is logged,
// and told to nobody.
using ToolHandler =
    std::function<void(std::shared_ptr<const ToolRequest> request, ToolReply reply)>;

struct Tool {
  std::string name;  // 1 to 64 of [A-Za-z0-9_-]; not reset, step, state, close, in any case
  std::string description;
  // A JSON schema of type "object"; what of JSON Schema is understood is in docs/gate.md, and a
  // schema that needs more is refused.
  std::string parameters = R"({"type":"object"})";
  ToolHandler handler;  // none: the trainer answers
  Duration timeout = std::chrono::seconds(60);
  size_t max_arguments = 256 * 1024;  // bytes
  size_t max_result = 1024 * 1024;    // bytes; what is longer is cut, and the agent told so
};

// Why a tool cannot be offered, or nothing.
Result<void> check_tool(const Tool& tool);

}  // namespace sluice::gate
