#include "sluice/env/coding/desk.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "sluice/env/coding/modes.h"
#include "sluice/env/coding/result.h"
#include "sluice/env/coding/templates.h"
#include "sluice/env/python_text.h"
#include "sluice/net/call_on.h"
#include "sluice/rollout/rollout.h"

namespace sluice::env::coding {
namespace {

using namespace std::chrono_literals;

// What a driver goes through, for the progress that MCP clients are told.
constexpr std::string_view kPhases[] = {"create",    "install", "upload", "setup",
                                        "configure", "start",   "agent",  "stop",
                                        "collect",   "verify",  "files",  "close"};
constexpr Duration kTrainerPoll = 50ms;

double seconds_since(Clock::time_point began) {
  const std::chrono::duration<double> passed = Clock::now() - began;
  return std::round(passed.count() * 1e3) / 1e3;
}

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

// One rollout under way. Made on the server's shard; what is marked so belongs to the rollout's.
struct RolloutDesk::Job {
  explicit Job(const CodingParts& p) : parts(p), turns(p.recorder) {}

  void note_phase(const std::string& name) {
    json::Object detail;
    detail["phase"] = name;
    parts.board.event(options.id.value, "phase", std::move(detail));
    if (context == nullptr) return;
    double reached = 0;
    for (size_t i = 0; i < std::size(kPhases); ++i) {
      if (kPhases[i] == name) reached = static_cast<double>(i + 1);
    }
    progress = std::max(progress + 0.001, reached);
    context->progress(progress, static_cast<double>(std::size(kPhases)), name);
  }

  void note_agent(json::Object detail) {
    parts.board.event(options.id.value, "agent", std::move(detail));
  }

  // On the rollout's shard.
  void cancel(const std::string& why) {
    if (cancelled) return;
    cancelled = why;
    if (rollout) rollout->cancel(why);
  }

  const CodingParts& parts;
  net::Shard* shard = nullptr;
  CallContext* context = nullptr;  // null when the call has ended
  double progress = 0;
  rollout::RolloutOptions options;
  Upstream upstream;
  MakeUpstream make_upstream;
  std::vector<std::string> warnings;

  // The rollout's shard's.
  TurnLog turns;
  rollout::Rollout* rollout = nullptr;  // while it runs
  std::optional<std::string> cancelled;
};

awaitable<json::Object> RolloutDesk::run(RolloutDesk* self, RolloutRequest request,
                                         std::string episode, CallContext* context) {
  const auto began = Clock::now();
  const std::string task_id = request.task_id;
  const std::string mode = request.mode;
  std::string refusal;
  if (mode == kProxyMode) {
    refusal =
        "ValueError: mode 'transparent_proxy' is deprecated and not served: use "
        "'interception_gate' with a trainer, or 'black_box'";
  } else if (mode != kBlackBox && mode != kGateMode) {
    refusal = "ValueError: Unknown mode: " + python::repr(json::Value(mode));
  } else if (!(request.agent_timeout_s >= 0)) {
    refusal = "ValueError: agent_timeout_s must not be negative";
  } else if (mode == kGateMode && !self->options_.trainer) {
    refusal = "RuntimeError: interception_gate needs a trainer, and this server has no trainer API";
  } else if (!request.template_name.empty()) {
    auto image = find_template(self->options_.templates_directory, request.template_name);
    if (image) {
      request.image = std::move(*image);
    } else {
      refusal = "ValueError: " + image.error().message;
    }
  }
  if (!refusal.empty()) {
    co_return refused_result(task_id, mode, "task", refusal, seconds_since(began));
  }
  while (self->running_ >= self->options_.max_rollouts) {
    context->progress(0, static_cast<double>(std::size(kPhases)), "waiting for a free slot");
    auto waited = co_await self->freed_.wait(context->deadline());
    if (!waited) {
      co_return refused_result(task_id, mode, "cancelled",
                               "RuntimeError: the call ended while the rollout waited for a slot",
                               seconds_since(began));
    }
  }
  ++self->running_;
  json::Object result;
  std::exception_ptr failure;
  try {
    result = co_await admitted(self, std::move(request), std::move(episode), context);
  } catch (...) {
    failure = std::current_exception();
  }
  --self->running_;
  self->freed_.notify_all();
  if (failure) std::rethrow_exception(failure);
  co_return result;
}

std::shared_ptr<RolloutDesk::Job> RolloutDesk::make_job(RolloutRequest request,
                                                        const std::string& episode,
                                                        CallContext* context) {
  auto job = std::make_shared<Job>(parts_);
  job->shard = parts_.shards[next_shard_++ % parts_.shards.size()];
  job->context = context;
  job->make_upstream = options_.upstream;
  job->upstream = {request.endpoint.base_url, request.endpoint.key, request.disable_thinking,
                   request.max_tokens_cap, std::nullopt};
  const agent::Spec& spec = request.spec;

  rollout::Task task = options_.defaults;
  task.id = request.task_id;
  task.source = "run_rollout";
  task.instruction = std::move(request.instruction);
  task.setup = std::move(request.setup);
  task.verify = std::move(request.verify);
  if (!request.image.empty()) task.sandbox.image = std::move(request.image);
  if (request.agent_timeout_s > 0) {
    constexpr double week = 7 * 24 * 3600;
    task.agent_timeout = std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(std::min(request.agent_timeout_s, week)));
  }
  json::Object metadata;
  metadata["episode_id"] = episode;
  metadata["session"] = context->session();
  task.metadata = json::serialize(metadata);

  const bool black_box = request.mode == kBlackBox;
  const auto cannot = [&](std::string_view parameter, std::string_view why) {
    job->warnings.push_back(fmt::format("{} has no effect: {}", parameter, why));
  };
  // The agent is told what it can be. In black_box the upstream sees to the rest.
  const llm::Dialect dialect = dialect_for(spec, request.mode);
  const bool told = request.disable_thinking && set_thinking_off(spec, &task.options);
  if (black_box) {
    if (request.top_logprobs == default_top_logprobs()) {
      cannot("top_logprobs", fmt::format("{}, its default, is not asked of the model, because "
                                         "endpoints may refuse it; another number is",
                                         *request.top_logprobs));
    } else if (request.top_logprobs && dialect == llm::Dialect::kMessages) {
      cannot("top_logprobs", "the messages dialect has none");
    } else {
      job->upstream.top_logprobs = request.top_logprobs;
    }
  } else {
    if (request.disable_thinking && !told) {
      cannot("disable_thinking", spec.name + "'s spec has no option for it");
    }
    if (request.max_tokens_cap && !agent::uses(spec, "max_output", task.options)) {
      cannot("max_tokens_cap", spec.name + "'s spec does not use {max_output}");
    }
    if (request.top_logprobs) {
      cannot("top_logprobs", "the trainer decides what it captures");
    }
  }

  rollout::RolloutOptions& options = job->options;
  options.task = std::make_shared<const rollout::Task>(std::move(task));
  options.model = request.endpoint.model.empty() ? "policy" : request.endpoint.model;
  options.max_output = request.max_tokens_cap;
  options.dialect = dialect;
  options.policy.mode = request.mode;
  options.policy.name = black_box ? "passthrough" : "trainer";
  options.spec = std::make_shared<const agent::Spec>(std::move(request.spec));
  return job;
}

awaitable<json::Object> RolloutDesk::admitted(RolloutDesk* self, RolloutRequest request,
                                              std::string episode, CallContext* context) {
  const auto began = Clock::now();
  const std::shared_ptr<Job> job = self->make_job(std::move(request), episode, context);
  const rollout::RolloutOptions& options = job->options;
  const std::string task_id = options.task->id;
  const std::string mode = options.policy.mode;
  if (mode == kGateMode) {
    auto came = co_await self->trainer_comes(context);
    if (!came || !*came) {
      const double patience =
          std::chrono::duration<double>(self->options_.trainer->patience).count();
      co_return refused_result(
          task_id, mode, came ? "infrastructure" : "cancelled",
          came ? fmt::format("RuntimeError: no trainer is attached, and none came within {:g} s: "
                             "attach one as /metadata says under \"trainer\"",
                             patience)
               : "RuntimeError: the call ended while the rollout waited for a trainer",
          seconds_since(began));
    }
  }
  auto bundled = co_await find_bundle(self, job);
  if (!bundled) {
    co_return refused_result(task_id, mode, "infrastructure",
                             "RuntimeError: " + bundled.error().message, seconds_since(began));
  }

  json::Object summary;
  summary["task_id"] = task_id;
  summary["agent"] = options.spec->title();
  summary["mode"] = mode;
  summary["model"] = options.model;
  summary["session"] = context->session();
  summary["episode_id"] = episode;
  // Held by the board for long: not the job, which has a rollout's worth of memory.
  std::weak_ptr<Job> weak = job;
  net::Shard* const shard = job->shard;
  self->parts_.board.begin(options.id.value, std::move(summary), [weak, shard] {
    shard->post([weak] {
      if (const auto held = weak.lock()) held->cancel("cancelled over /rollouts");
    });
  });
  json::Object result;
  std::exception_ptr failure;
  try {
    result = co_await begun(self, job);
  } catch (...) {
    failure = std::current_exception();
  }
  job->context = nullptr;
  json::Object ended;
  for (const std::string_view name : {"reward", "error", "error_kind", "sandbox_id"}) {
    if (const json::Value* value = result.if_contains(name)) ended[name] = *value;
  }
  if (failure) {
    ended["error"] = "internal error";
    ended["error_kind"] = "infrastructure";
  }
  if (context->cancelled() != CancelReason::kNone) {
    ended["call_cancelled"] = to_string(context->cancelled());
  }
  self->parts_.board.finish(options.id.value, std::move(ended), result);
  if (failure) std::rethrow_exception(failure);
  co_return result;
}

awaitable<json::Object> RolloutDesk::begun(RolloutDesk* self, std::shared_ptr<Job> job) {
  std::function<awaitable<json::Object>()> make = [job] {
    return run_on_shard(job);
  };
  std::function<void()> cancel = [job] {
    job->cancel("the call was cancelled");
  };
  co_return co_await net::call_on<json::Object>(job->shard, &self->parts_.server, std::move(make),
                                                std::move(cancel));
}

awaitable<json::Object> RolloutDesk::run_on_shard(std::shared_ptr<Job> job) {
  // A copy: what is made here, the policy above all, lives and dies on this shard.
  rollout::RolloutOptions options = job->options;
  if (options.policy.mode == kBlackBox) {
    auto policy = job->make_upstream(job->shard, job->upstream);
    if (!policy) {
      co_return refused_result(options.task->id, options.policy.mode, "task",
                               "ValueError: base_url: " + policy.error().message, 0);
    }
    options.policy.policy = std::move(*policy);
  }
  net::Shard* const server = &job->parts.server;
  const std::weak_ptr<Job> weak = job;
  options.on_phase = [weak, server](std::string_view phase) {
    server->post([weak, name = std::string(phase)] {
      if (const auto held = weak.lock()) held->note_phase(name);
    });
  };
  options.on_agent_event = [weak, server](const agent::AgentEvent& event) {
    json::Object detail;
    detail["kind"] = agent::to_string(event.kind);
    if (!event.text.empty()) detail["text"] = to_valid_utf8(ByteView(event.text).substr(0, 2000));
    if (!event.tool.empty()) detail["tool"] = event.tool;
    if (!event.status.empty()) detail["status"] = event.status;
    server->post([weak, detail = std::move(detail)]() mutable {
      if (const auto held = weak.lock()) held->note_agent(std::move(detail));
    });
  };
  rollout::Rollout rollout(
      {*job->shard, job->parts.backend, job->parts.gate, job->turns, job->parts.log}, options);
  if (job->cancelled) rollout.cancel(*job->cancelled);
  job->rollout = &rollout;
  rollout::RolloutResult result;
  std::exception_ptr failure;
  try {
    result = co_await rollout.run();
  } catch (...) {
    failure = std::current_exception();
  }
  job->rollout = nullptr;
  if (failure) std::rethrow_exception(failure);
  result.report.warnings.insert(result.report.warnings.begin(), job->warnings.begin(),
                                job->warnings.end());
  if (job->upstream.top_logprobs && job->turns.lacks_logprobs()) {
    result.report.warnings.emplace_back(
        "proxy_turns: an answer's logprobs were not captured: the model endpoint gave none, or the "
        "answer was too long");
  }
  co_return result_json(result, options.task->workdir, job->turns);
}

awaitable<Result<void>> RolloutDesk::find_bundle(RolloutDesk* self, std::shared_ptr<Job> job) {
  if (!job->options.spec->bundle || !self->options_.bundle) co_return Result<void>();
  auto found = std::make_shared<std::optional<Result<std::string>>>();
  const auto spec = job->options.spec;
  const auto find = self->options_.bundle;
  std::function<void()> work = [found, spec, find] {
    found->emplace(find(*spec));
  };
  co_await self->parts_.pool.run(std::move(work));
  if (!**found) co_return std::move(**found).error();
  job->options.bundle_path = std::move(***found);
  co_return Result<void>();
}

awaitable<Result<bool>> RolloutDesk::trainer_comes(CallContext* context) {
  const TrainerDesk& desk = *options_.trainer;
  const Deadline end = Deadline::in(desk.patience);
  while (!desk.attached()) {
    if (end.expired()) co_return false;
    context->progress(0, static_cast<double>(std::size(kPhases)), "waiting for a trainer");
    SLUICE_CO_TRY_VOID(co_await net::sleep_for(kTrainerPoll));
  }
  co_return true;
}

}  // namespace sluice::env::coding
