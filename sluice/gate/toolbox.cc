#include "sluice/gate/toolbox.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "sluice/gate/open_rollout.h"
#include "sluice/json/text.h"

namespace sluice::gate {
namespace {

constexpr size_t kMaxName = 64;
constexpr size_t kMaxRunning = 16;  // of one rollout
constexpr std::string_view kFailed = "the tool failed";

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
         });
}

// The environment's own verbs: a tool by such a name would look like control over the episode.
bool is_reserved(std::string_view name) {
  constexpr std::array<std::string_view, 4> kReserved{"reset", "step", "state", "close"};
  return std::any_of(kReserved.begin(), kReserved.end(), [&](std::string_view reserved) {
    return net::equal_ignoring_case(name, reserved);
  });
}

Error wrong(const Tool& tool, std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, fmt::format("tool \"{}\": {}", tool.name, what),
               ErrorOrigin::kCaller);
}

// At most `max` bytes of it, and says what it left out.
std::string cut(std::string text, size_t max) {
  if (text.size() <= max) return is_valid_utf8(text) ? std::move(text) : to_valid_utf8(text);
  const size_t whole = text.size();
  text.resize(max);
  return fmt::format("{}\n[cut: {} of {} bytes]", to_valid_utf8(text), max, whole);
}

}  // namespace

Result<void> check_tool(const Tool& tool) {
  if (!is_name(tool.name)) return wrong(tool, "a name is 1 to 64 of letters, digits, '_' and '-'");
  if (is_reserved(tool.name)) return wrong(tool, "this name is the environment's own");
  auto schema = Schema::parse(tool.parameters);
  if (!schema) return std::move(schema).error().within("tool \"" + tool.name + "\"");
  const json::Object* object = schema->value().if_object();
  if (object == nullptr || json::get_string(*object, "type") != "object") {
    return wrong(tool, "its parameters must be a schema of type \"object\"");
  }
  if (tool.timeout <= Duration::zero()) return wrong(tool, "its timeout must be more than nothing");
  return {};
}

struct ToolBox::Running {
  Running(net::Wheel& wheel, const Offered& o) : offered(o), timer(wheel) {}
  const Offered& offered;
  std::shared_ptr<const ToolRequest> request;
  Done done;
  ReadyQueue::Ticket ticket;
  net::Wheel::Timer timer;
  Clock::time_point began = Clock::now();
};

// Takes a handler's answer to the rollout's shard, from wherever it is given.
class ToolBox::HandlerTarget final : public ToolReply::Target {
 public:
  HandlerTarget(std::weak_ptr<OpenRollout> rollout, net::Shard& shard, ToolCallId id)
      : rollout_(std::move(rollout)), shard_(shard), id_(std::move(id)) {}

  void answer(ToolResult result) override {
    run([result = std::move(result)](ToolBox& tools, const ToolCallId& id) mutable {
      const auto late = tools.reply(id, std::move(result));
    });
  }
  // Later, for a handler that throws drops it on its way out, and what it threw says more.
  void dropped() override {
    const auto rollout = rollout_.lock();
    if (!rollout) return;
    shard_.post([rollout, id = id_] {
      rollout->tools().end(id, Error(ErrorCode::kInternal, std::string(kFailed)),
                           "its handler gave no answer");
    });
  }

 private:
  template <class Work>
  void run(Work work) {
    const auto rollout = rollout_.lock();
    if (!rollout) return;
    if (shard_.on_thread()) {
      work(rollout->tools(), id_);
      return;
    }
    shard_.post(
        [rollout, id = id_, work = std::move(work)]() mutable { work(rollout->tools(), id); });
  }

  std::weak_ptr<OpenRollout> rollout_;
  net::Shard& shard_;
  ToolCallId id_;
};

ToolBox::ToolBox(OpenRollout& rollout, const std::vector<Tool>& tools)
    : rollout_(rollout), core_(rollout.core()) {
  for (const Tool& tool : tools) {
    auto schema = Schema::parse(tool.parameters);
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
  const Offered* offered = find(tool);
  if (auto refused = refuse(offered, arguments)) {
    done(std::move(*refused));
    return std::nullopt;
  }
  auto request = std::make_shared<ToolRequest>();
  request->id = core_.ids.fresh();
  request->rollout = rollout_.registration().id;
  request->tool = tool;
  request->arguments = arguments;
  request->deadline = Deadline::in(offered->tool->timeout);
  ToolCallId id = request->id;
  const std::shared_ptr<const ToolRequest> shared = std::move(request);

  auto running = std::make_unique<Running>(rollout_.shard().wheel(), *offered);
  running->request = shared;
  running->done = std::move(done);
  running->timer.arm(shared->deadline, [this, id] {
    end(id, Error(ErrorCode::kTimedOut, "the tool did not answer in time"), "timed out");
  });
  running_[id] = std::move(running);
  rollout_.count_tool_call();
  if (offered->tool->handler) {
    run_handler(*offered, shared);
  } else {
    core_.owners.add(id, rollout_.weak_from_this());
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
  auto target =
      std::make_shared<HandlerTarget>(rollout_.weak_from_this(), rollout_.shard(), request->id);
  try {
    offered.tool->handler(request, ToolReply(std::move(target)));
  } catch (const std::exception& e) {
    end(request->id, Error(ErrorCode::kInternal, std::string(kFailed)), e.what());
  }
}

Result<void> ToolBox::reply(const ToolCallId& id, ToolResult result) {
  if (!running_.contains(id)) {
    return Error(ErrorCode::kFailedPrecondition, "the tool call has ended");
  }
  result.text = cut(std::move(result.text), running_[id]->offered.tool->max_result);
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
  Bytes detail = fmt::format(R"({{"call":"{}","tool":"{}","by":"{}","ms":{:.3f},"arguments":)",
                             running.request->id.value, running.request->tool,
                             running.offered.tool->handler ? "handler" : "trainer", ms.count());
  detail.append(running.request->arguments);
  if (result) {
    detail.append(result->failed ? R"(,"failed":true,"result":)" : R"(,"result":)");
    json::append_string(detail, result->text);
  } else {
    detail.append(",\"error\":");
    json::append_string(detail, to_string(result.error().code));
    if (!why.empty()) {
      detail.append(",\"why\":");
      json::append_string(detail, why);
    }
  }
  detail.append("}");
  rollout_.event("tool", detail);
}

}  // namespace sluice::gate
