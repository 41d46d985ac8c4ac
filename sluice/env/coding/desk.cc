#include "sluice/env/coding/desk.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sluice/env/coding/modes.h"
#include "sluice/env/coding/result.h"
#include "sluice/env/coding/templates.h"
#include "sluice/env/python_text.h"
#include "sluice/rollout/engine.h"

namespace sluice::env::coding {
namespace {

using namespace std::chrono_literals;

constexpr Duration kTrainerPoll = 50ms;
constexpr std::string_view kCallCancelled = "the call was cancelled";

// The options by which agents' specs let thinking be switched off, and their values. By these names
// specs of users are understood, too (docs/agent-specs.md).
constexpr std::pair<std::string_view, std::string_view> kThinkingOff[] = {
    {"chat_template_kwargs", R"({"enable_thinking":false})"},
    {"thinking", "off"},
    {"reasoning_effort", "none"},
    {"disable_thinking", "1"}};

bool set_thinking_off(const agent::Spec& spec, std::map<std::string, std::string>* options) {
  for (const auto& [option, off] : kThinkingOff) {
    const auto found = spec.options.find(std::string(option));
    if (found == spec.options.end()) continue;
    (*options)[found->first] = off;
    return true;
  }
  return false;
}

// Model endpoints of black-box rollouts are OpenAI-compatible servers.
llm::Dialect dialect_for(const agent::Spec& spec, std::string_view mode) {
  const bool chat = mode == kBlackBox && spec.dialect(llm::Dialect::kChat) != nullptr;
  return chat ? llm::Dialect::kChat : spec.dialects.front().dialect;
}

}  // namespace

// One rollout that was asked for, as the engine has it. What is marked so belongs to the server's
// shard, the rest to that of the rollout, once the engine has the order.
class RolloutDesk::Ordered : public std::enable_shared_from_this<Ordered> {
 public:
  Ordered(const CodingParts& parts, const CodingOptions& options, RolloutRequest request,
          const std::string& episode, CallContext* context)
      : parts_(parts),
        options_(options),
        black_box_(request.mode == kBlackBox),
        context_(context),
        client_(context->client()),
        upstream_{request.endpoint.base_url, request.endpoint.key, request.disable_thinking,
                  request.max_tokens_cap, std::nullopt} {
    rollout_.model = request.endpoint.model.empty() ? "policy" : request.endpoint.model;
    rollout_.max_tokens_cap = request.max_tokens_cap;
    rollout_.dialect = dialect_for(request.spec, request.mode);
    rollout_.policy.mode = request.mode;
    rollout_.policy.name = black_box_ ? "passthrough" : "trainer";
    rollout_.task = std::make_shared<const rollout::Task>(task_for(request, episode));
    rollout_.spec = std::make_shared<const agent::Spec>(std::move(request.spec));
    summary_["task_id"] = rollout_.task->id;
    summary_["agent"] = rollout_.spec->title();
    summary_["mode"] = rollout_.policy.mode;
    summary_["model"] = rollout_.model;
    summary_["session"] = context->session();
    summary_["episode_id"] = episode;
  }

  // --- On the server's shard ---------------------------------------------------------------------

  rollout::Order order() {
    const auto self = shared_from_this();
    rollout::Order order;
    order.name = rollout_.task->id;
    order.waits = [self] {
      self->tell(0, "waiting for a free slot");
    };
    order.ready = [self](rollout::OrderId id) {
      return ready(self, id);
    };
    order.make = [self](net::Shard& shard) {
      return self->make(shard);
    };
    return order;
  }

  // What the client gets.
  json::Object give_result(Result<rollout::Finished> finished) {
    if (!finished || !finished->result) {
      Refusal why{"infrastructure", "RuntimeError: "};
      if (refusal_) {
        why = *refusal_;
      } else if (!finished) {
        why.text += finished.error().message;
      } else if (finished->why == kCallCancelled) {
        why = {"cancelled", "RuntimeError: the call ended while the rollout waited for a slot"};
      } else {
        why.text += finished->why;
      }
      end(begun_, refused_result(rollout_.task->id, rollout_.policy.mode, why.kind, why.text,
                                 rollout::rounded(Clock::now() - began_, 1e3)));
    }
    context_ = nullptr;
    return std::move(*result_);
  }

 private:
  struct Refusal {
    std::string_view kind;  // as in rollout::to_string
    std::string text;
  };

  rollout::Task task_for(RolloutRequest& request, const std::string& episode) {
    rollout::Task task = options_.defaults;
    task.id = request.task_id;
    task.source = "run_rollout";
    task.instruction = std::move(request.instruction);
    task.setup = std::move(request.setup);
    task.verify.commands = std::move(request.verify);
    if (!request.image.empty()) task.sandbox.image = std::move(request.image);
    if (request.agent_timeout_s > 0) {
      constexpr double week = 7 * 24 * 3600;
      task.agent_timeout = from_seconds(std::min(request.agent_timeout_s, week));
    }
    json::Object metadata;
    metadata["episode_id"] = episode;
    metadata["session"] = context_->session();
    task.metadata = json::serialize(metadata);

    const agent::Spec& spec = request.spec;
    const auto cannot = [&](std::string_view parameter, std::string_view why) {
      warnings_.push_back(fmt::format("{} has no effect: {}", parameter, why));
    };
    // The agent is told what it can be. In black_box the upstream sees to the rest.
    const bool told = request.disable_thinking && set_thinking_off(spec, &task.options);
    if (black_box_) {
      if (request.top_logprobs == default_top_logprobs()) {
        cannot("top_logprobs", fmt::format("{}, its default, is not asked of the model, because "
                                           "endpoints may refuse it; another number is",
                                           *request.top_logprobs));
      } else if (request.top_logprobs && rollout_.dialect == llm::Dialect::kMessages) {
        cannot("top_logprobs", "the messages dialect has none");
      } else {
        upstream_.top_logprobs = request.top_logprobs;
      }
      return task;
    }
    if (request.disable_thinking && !told) {
      cannot("disable_thinking", spec.name + "'s spec has no option for it");
    }
    if (request.max_tokens_cap && !agent::uses(spec, "max_output", task.options)) {
      cannot("max_tokens_cap", spec.name + "'s spec does not use {max_output}");
    }
    if (request.top_logprobs) cannot("top_logprobs", "the trainer decides what it captures");
    return task;
  }

  void begin(const std::string& id, rollout::OrderId order) {
    begun_ = id;
    const auto cancel = [engine = &parts_.engine, order] {
      engine->cancel(order, "cancelled over /rollouts");
    };
    parts_.board.begin(id, summary_, cancel, client_);
  }

  void tell(double progress, std::string message) {
    if (context_ == nullptr) return;
    context_->progress(progress, static_cast<double>(phases_.size()), std::move(message));
  }

  void note_phase(const std::string& id, const std::string& name) {
    json::Object detail;
    detail["phase"] = name;
    parts_.board.event(id, "phase", std::move(detail));
    const auto found = std::find(phases_.begin(), phases_.end(), name);
    const double reached =
        found == phases_.end() ? 0 : static_cast<double>(found - phases_.begin() + 1);
    progress_ = std::max(progress_ + 0.001, reached);
    tell(progress_, name);
  }

  // It is over, if it ever began.
  void end(const std::string& id, json::Object result) {
    json::Object ended;
    for (const std::string_view name : {"reward", "error", "error_kind", "sandbox_id"}) {
      if (const json::Value* value = result.if_contains(name)) ended[name] = *value;
    }
    if (context_ != nullptr && context_->cancelled() != CancelReason::kNone) {
      ended["call_cancelled"] = to_string(context_->cancelled());
    }
    parts_.board.finish(id, std::move(ended), result);
    result_ = std::move(result);
  }

  // --- On the rollout's shard --------------------------------------------------------------------

  // For the server's shard, from another: `act` is called there, unless this is gone by then.
  template <class Act>
  void at_server(Act act) {
    parts_.server.post([weak = weak_from_this(), act = std::move(act)]() mutable {
      if (const auto self = weak.lock()) act(self.get());
    });
  }

  Error refuse(std::string_view kind, std::string text) {
    refusal_ = Refusal{kind, text};
    return {ErrorCode::kFailedPrecondition, std::move(text)};
  }

  static awaitable<Result<void>> ready(std::shared_ptr<Ordered> self, rollout::OrderId order) {
    if (!self->black_box_) SLUICE_CO_TRY_VOID(co_await self->trainer_comes());
    SLUICE_CO_TRY_VOID(co_await self->check_upstream());
    SLUICE_CO_TRY_VOID(co_await self->check_image());
    SLUICE_CO_TRY_VOID(co_await self->find_bundle());
    self->rollout_.id = RolloutId::fresh();
    self->at_server([id = self->rollout_.id.value, order](Ordered* at) { at->begin(id, order); });
    co_return Result<void>();
  }

  awaitable<Result<void>> trainer_comes() {
    const TrainerAccess& trainer = *options_.trainer;
    const Deadline end = Deadline::in(trainer.patience);
    while (!trainer.attached()) {
      if (end.expired()) {
        co_return refuse(
            "infrastructure",
            fmt::format("RuntimeError: no trainer is attached, and none came within {:g} s: "
                        "attach one as /metadata says under \"trainer\"",
                        to_seconds(trainer.patience)));
      }
      at_server([](Ordered* at) { at->tell(0, "waiting for a trainer"); });
      const auto slept = co_await net::sleep_for(kTrainerPoll);
      if (!slept) {
        co_return refuse("cancelled",
                         "RuntimeError: the call ended while the rollout waited for a trainer");
      }
    }
    co_return Result<void>();
  }

  awaitable<Result<void>> check_upstream() {
    Result<void> fine;
    std::function<void()> work = [this, &fine] {
      fine = options_.check_upstream(upstream_.base_url);
    };
    if (black_box_ && options_.check_upstream) co_await parts_.pool.run(std::move(work));
    if (!fine) co_return refuse("task", "ValueError: base_url: " + fine.error().message);
    co_return Result<void>();
  }

  awaitable<Result<void>> check_image() {
    Result<void> fine;
    std::function<void()> work = [this, &fine] {
      fine = parts_.engine.parts().backend.check_image(rollout_.task->sandbox);
    };
    if (!rollout_.task->sandbox.image.empty()) co_await parts_.pool.run(std::move(work));
    if (!fine) co_return refuse("task", "ValueError: " + fine.error().message);
    co_return Result<void>();
  }

  awaitable<Result<void>> find_bundle() {
    if (!rollout_.spec->bundle || !options_.bundle) co_return Result<void>();
    std::optional<Result<std::string>> found;
    std::function<void()> work = [this, &found] {
      found.emplace(options_.bundle(*rollout_.spec));
    };
    co_await parts_.pool.run(std::move(work));
    if (!*found) {
      co_return refuse("infrastructure", "RuntimeError: " + found->error().message);
    }
    rollout_.bundle_path = std::move(**found);
    co_return Result<void>();
  }

  Result<rollout::RolloutOptions> make(net::Shard& shard) {
    // A copy: what is made here, the policy above all, lives and dies on this shard.
    rollout::RolloutOptions options = rollout_;
    if (black_box_) {
      auto policy = options_.upstream(&shard, upstream_);
      if (!policy) return refuse("task", "ValueError: base_url: " + policy.error().message);
      options.policy.policy = std::move(*policy);
    }
    turns_ = std::make_shared<TurnLog>(parts_.engine.parts().recorder);
    options.recorder = turns_;
    const auto self = shared_from_this();
    options.on_phase = [self](std::string_view phase) {
      self->at_server([id = self->rollout_.id.value, name = std::string(phase)](Ordered* at) {
        at->note_phase(id, name);
      });
    };
    options.on_agent_event = [self](const agent::AgentEvent& event) {
      json::Object detail;
      detail["kind"] = agent::to_string(event.kind);
      if (!event.text.empty()) detail["text"] = to_valid_utf8(ByteView(event.text).substr(0, 2000));
      if (!event.tool.empty()) detail["tool"] = event.tool;
      if (!event.status.empty()) detail["status"] = event.status;
      self->at_server(
          [id = self->rollout_.id.value, detail = std::move(detail)](Ordered* at) mutable {
            at->parts_.board.event(id, "agent", std::move(detail));
          });
    };
    options.on_end = [self](const rollout::RolloutResult& result) {
      self->at_server([id = result.rollout.value, shaped = self->shaped(result)](
                          Ordered* at) mutable { at->end(id, std::move(shaped)); });
    };
    return options;
  }

  json::Object shaped(rollout::RolloutResult result) const {
    auto& warnings = result.report.warnings;
    warnings.insert(warnings.begin(), warnings_.begin(), warnings_.end());
    if (upstream_.top_logprobs && turns_->lacks_logprobs()) {
      warnings.emplace_back(
          "proxy_turns: an answer's logprobs were not captured: the model endpoint gave none, or "
          "the answer was too long");
    }
    return result_json(result, rollout_.task->workdir, *turns_);
  }

  const CodingParts& parts_;
  const CodingOptions& options_;
  const Clock::time_point began_ = Clock::now();
  const bool black_box_;

  // The server's shard's.
  CallContext* context_;  // null when the call has ended
  const std::string client_;
  const std::vector<std::string_view> phases_ = agent::Driver::phases();
  double progress_ = 0;
  json::Object summary_;  // for the board
  std::string begun_;     // the id of the attempt that the board was told of last
  std::optional<json::Object> result_;

  rollout::RolloutOptions rollout_;  // each attempt gets a copy
  Upstream upstream_;
  std::vector<std::string> warnings_;
  std::shared_ptr<TurnLog> turns_;  // of the attempt that runs
  std::optional<Refusal> refusal_;
};

Result<void> RolloutDesk::check(RolloutRequest* request) const {
  const auto refused = [](std::string text) {
    return Error(ErrorCode::kInvalidArgument, std::move(text), ErrorOrigin::kCaller);
  };
  if (request->mode == kProxyMode) {
    return refused(
        "ValueError: mode 'transparent_proxy' is deprecated and not served: use "
        "'interception_gate' with a trainer, or 'black_box'");
  }
  if (request->mode != kBlackBox && request->mode != kGateMode) {
    return refused("ValueError: Unknown mode: " + python::repr(json::Value(request->mode)));
  }
  if (!(request->agent_timeout_s >= 0)) {
    return refused("ValueError: agent_timeout_s must not be negative");
  }
  for (const auto* commands : {&request->setup, &request->verify}) {
    if (const auto problem = rollout::problem_of(*commands)) {
      return refused(
          (commands == &request->setup ? "ValueError: setup: " : "ValueError: verify: ") +
          *problem);
    }
  }
  if (request->mode == kGateMode && !options_.trainer) {
    return refused(
        "RuntimeError: interception_gate needs a trainer, and this server has no trainer API");
  }
  const auto& told = options_.defaults.max_output;
  if (told && request->max_tokens_cap == default_max_tokens_cap()) request->max_tokens_cap = told;
  if (request->template_name.empty()) return {};
  auto image = find_template(options_.templates_directory, request->template_name);
  if (!image) return refused("ValueError: " + image.error().message);
  request->image = std::move(*image);
  return {};
}

awaitable<json::Object> RolloutDesk::run(RolloutDesk* self, RolloutRequest request,
                                         std::string episode, CallContext* context) {
  const auto began = Clock::now();
  if (const auto fine = self->check(&request); !fine) {
    co_return refused_result(request.task_id, request.mode, "task", fine.error().message,
                             rollout::rounded(Clock::now() - began, 1e3));
  }
  const auto ordered =
      std::make_shared<Ordered>(self->parts_, self->options_, std::move(request), episode, context);
  rollout::Order order = ordered->order();
  std::string why(kCallCancelled);
  auto finished =
      co_await self->parts_.engine.run(&self->parts_.server, std::move(order), std::move(why));
  co_return ordered->give_result(std::move(finished));
}

}  // namespace sluice::env::coding
