#include "sluice/gate/toolbox.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/llm/wire.h"

namespace sluice::gate {
namespace {

constexpr size_t kMaxRunning = 16;  // of one rollout
constexpr std::string_view kFailed = "the tool failed";

// At most `max` bytes of it, and says what it left out.
std::string cut(std::string text, size_t max) {
  if (text.size() <= max) return is_valid_utf8(text) ? std::move(text) : to_valid_utf8(text);
  const size_t whole = text.size();
  text.resize(max);
  return fmt::format("{}\n[cut: {} of {} bytes]", to_valid_utf8(text), max, whole);
}

}  // namespace

struct ToolBox::Running {
  Running(net::Wheel& wheel, const Offered& o) : offered(o), timer(wheel) {}
  const Offered& offered;
  std::shared_ptr<const ToolRequest> request;
  Done done;
  ReadyQueue::Ticket ticket;
  net::Wheel::Timer timer;
  Clock::time_point began = Clock::now();
};

ToolBox::ToolBox(CallOwner& owner, const Registration& registration, Core& core, Ledger& ledger,
                 Allowance& allowance)
    : owner_(owner),
      rollout_(registration.id),
      core_(core),
      ledger_(ledger),
      allowance_(allowance) {
  for (const Tool& tool : registration.tools) {
    auto schema = json::Schema::parse(tool.parameters);
    if (schema) offered_.push_back({&tool, std::move(*schema)});
  }
}

ToolBox::~ToolBox() = default;

const ToolBox::Offered* ToolBox::find(std::string_view name) const {
  const auto it = std::find_if(offered_.begin(), offered_.end(),
                               [&](const Offered& offered) { return offered.tool->name == name; });
  return it == offered_.end() ? nullptr : &*it;
}

std::optional<Error> ToolBox::refuse(const Offered* offered, std::string_view arguments) {
  if (offered == nullptr) return Error(ErrorCode::kNotFound, "tool not found");
  if (running_.size() >= kMaxRunning) {
    return Error(ErrorCode::kExhausted,
                 fmt::format("{} tools run already: wait for one of them", kMaxRunning));
  }
  const size_t max = offered->tool->max_arguments;
  if (arguments.size() > max) {
    return Error(ErrorCode::kTooLarge, fmt::format("the arguments are over {} bytes", max));
  }
  json::ParseLimits limits;
  limits.bytes = max;
  const auto value = json::parse(arguments, limits);
  if (!value) return value.error();
  if (!value->is_object()) {
    return Error(ErrorCode::kInvalidArgument, "tool arguments must be a JSON object");
  }
  if (auto mismatch = offered->schema.mismatch(*value)) {
    return Error(ErrorCode::kInvalidArgument, std::move(*mismatch));
  }
  return std::nullopt;
}

std::optional<ToolCallId> ToolBox::call(std::string_view tool, std::string_view arguments,
                                        Done done) {
  if (const auto refused = allowance_.refuse_tool_call()) {
    ledger_.refused(*refused);
    done(Error(refused->kind, refused->message));
    return std::nullopt;
  }
  const Offered* offered = find(tool);
  if (auto refused = refuse(offered, arguments)) {
    done(std::move(*refused));
    return std::nullopt;
  }
  auto request = std::make_shared<ToolRequest>();
  request->id = core_.ids.fresh();
  request->rollout = rollout_;
  request->tool = tool;
  request->arguments = arguments;
  request->deadline = Deadline::in(offered->tool->timeout);
  ToolCallId id = request->id;
  const std::shared_ptr<const ToolRequest> shared = std::move(request);

  auto running = std::make_unique<Running>(owner_.shard().wheel(), *offered);
  running->request = shared;
  running->done = std::move(done);
  running->timer.arm(shared->deadline, [this, id] {
    end(id, Error(ErrorCode::kTimedOut, "the tool did not answer in time"), "timed out");
  });
  running_[id] = std::move(running);
  ledger_.tool_called();
  if (offered->tool->handler) {
    run_handler(*offered, shared);
  } else {
    core_.owners.add(id, owner_.weak_from_this());
    auto ticket = core_.ready.push(shared);
    // A trainer may have it already, but its answer comes by this shard.
    if (!ticket) {
      end(id, Error(ErrorCode::kInternal, std::string(kFailed)), "no trainer serves this rollout");
      return std::nullopt;
    }
    running_[id]->ticket = std::move(ticket);
  }
  if (!running_.contains(id)) return std::nullopt;
  return id;
}

void ToolBox::run_handler(const Offered& offered,
                          const std::shared_ptr<const ToolRequest>& request) {
  // Takes the answer to the rollout's shard, from wherever it is given. Later, for a handler that
  // throws drops its reply on its way out, and what it threw says more.
  auto give = [weak = owner_.weak_from_this(), id = request->id](Result<ToolResult> result) {
    const auto owner = weak.lock();
    if (!owner) return;
    owner->shard().post([owner, id, result = std::move(result)]() mutable {
      const auto late = owner->reply_tool(id, std::move(result));
    });
  };
  try {
    offered.tool->handler(request, ToolReply(std::move(give)));
  } catch (const std::exception& e) {
    const auto late = reply(request->id, Error(ErrorCode::kInternal, e.what()));
  }
}

Result<void> ToolBox::reply(const ToolCallId& id, Result<ToolResult> result) {
  const auto it = running_.find(id);
  if (it == running_.end()) {
    return Error(ErrorCode::kFailedPrecondition, "the tool call has ended");
  }
  if (!result) {
    end(id, Error(ErrorCode::kInternal, std::string(kFailed)), result.error().message);
    return {};
  }
  result->text = cut(std::move(result->text), it->second->offered.tool->max_result);
  end(id, std::move(result), "");
  return {};
}

void ToolBox::stop(const ToolCallId& id) {
  const auto it = running_.find(id);
  if (it == running_.end()) return;
  it->second->done = nullptr;
  end(id, Error(ErrorCode::kCancelled, "the agent hung up"), "the agent hung up");
}

void ToolBox::stop_all() {
  std::vector<ToolCallId> ids;
  for (const auto& [id, running] : running_) ids.push_back(id);
  for (const ToolCallId& id : ids) {
    end(id, Error(ErrorCode::kCancelled, "this rollout has ended"), "the rollout ended first");
  }
}

void ToolBox::end(const ToolCallId& id, Result<ToolResult> result, std::string_view why) {
  const auto it = running_.find(id);
  if (it == running_.end()) return;
  const std::unique_ptr<Running> running = std::move(it->second);
  running_.erase(it);
  core_.ready.remove(running->ticket);
  core_.owners.remove(id);
  record(*running, result, why);
  if (running->done) running->done(std::move(result));
}

void ToolBox::record(const Running& running, const Result<ToolResult>& result,
                     std::string_view why) {
  const std::chrono::duration<double, std::milli> ms = Clock::now() - running.began;
  ledger_.event("tool", llm::wire::object([&](llm::wire::Members& members) {
                  members.text("call", running.request->id.value);
                  members.text("tool", running.request->tool);
                  members.text("by", running.offered.tool->handler ? "handler" : "trainer");
                  members.raw("ms", fmt::format("{:.3f}", ms.count()));
                  members.raw("arguments", running.request->arguments);
                  if (result) {
                    if (result->failed) members.flag("failed", true);
                    members.text("result", result->text);
                  } else {
                    members.text("error", to_string(result.error().code));
                    members.text_if_any("why", why);
                  }
                }));
}

}  // namespace sluice::gate
