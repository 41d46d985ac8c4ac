#include "sluice/rollout/rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "sluice/agent/fresh.h"
#include "sluice/base/id.h"
#include "sluice/json/text.h"
#include "sluice/json/value.h"
#include "sluice/rollout/verdict.h"

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;

// What the agent sends as its key where nobody else reaches its listener: that says which rollout a
// call belongs to, and the key is not checked and opens nothing.
constexpr char kPlaceholderKey[] = "sluice-no-key-needed";

// Longer than all the phases' own time-outs together would be; the sandbox ends itself then.
Duration sandbox_lifetime(const Task& task, const agent::Spec& spec) {
  const Duration agent = task.agent_timeout > Duration::zero() ? task.agent_timeout : spec.timeout;
  return 15min + agent + task.setup_timeout * (task.setup.size() + 1) +
         task.verify.timeout * (task.verify.start.size() + task.verify.commands.size() + 1);
}

std::string port_of(const std::string& address) {
  return address.substr(address.rfind(':') + 1);
}

// A preparation has no agent and so no endpoint.
class NoHooks final : public agent::Hooks {
  net::awaitable<Result<agent::Endpoint>> open_endpoint(sandbox::Sandbox*) override {
    co_return Error(ErrorCode::kInternal, "a preparation needs no endpoint");
  }
};

}  // namespace

class Rollout::Impl final : public agent::Hooks {
 public:
  Impl(Parts parts, RolloutOptions options) : parts_(parts), options_(std::move(options)) {}

  const RolloutId& id() const { return options_.id; }

  net::awaitable<RolloutResult> run() {
    const auto began = Clock::now();
    RolloutResult result;
    const Task& task = *options_.task;
    result.rollout = options_.id;
    result.task = task.id;
    result.group = options_.group ? options_.group->id() : options_.group_id;
    result.agent = options_.spec->title();
    result.backend = parts_.backend.name();
    result.mode = options_.policy.mode;
    result.policy = options_.policy.name;
    result.approvals = task.approvals;
    result.metadata = task.metadata;
    result.kept_files = options_.keep_files_in;

    trace::RolloutInfo info;
    info.task = task.id;
    info.name = options_.name;
    info.agent = result.agent;
    info.group = result.group;
    info.mode = result.mode;
    info.policy = result.policy;
    info.disk = disk_;
    parts_.recorder.opened(options_.id, info);
    parts_.log.info("rollout", "opened",
                    {{"rollout", options_.id.value}, {"task", task.id}, {"agent", result.agent}});

    gate::Answering answering;
    auto opened = open_at_gate(result.group);
    if (opened) {
      // What is open at the gate is closed there, whatever happens.
      try {
        co_await attempt(&result, began);
        auto looking = parts_.gate.answering(options_.id);
        if (!cancelled_) answering = co_await std::move(looking);
      } catch (const std::exception& e) {
        result.report.error =
            Error(ErrorCode::kInternal, fmt::format("a bug of Sluice's: {}", e.what()));
      }
      co_await parts_.gate.settled(options_.id);
      if (const auto counters = parts_.gate.counters(options_.id)) result.calls = *counters;
      if (disk_full_ && !std::exchange(result.calls.budget_exhausted, true)) {
        result.calls.budget_reason =
            fmt::format("the budget of {} bytes of this machine's disk is used up", host_disk());
      }
      co_await parts_.gate.close(options_.id);
    } else {
      result.report.error = std::move(opened).error();
    }
    finish_phase();

    judge(result, answering);
    result.wall = Clock::now() - began;
    result.trace = parts_.recorder.location(options_.id);
    trace::ResultSummary summary{result.reward, std::string(to_string(result.error_kind)),
                                 result.error};
    parts_.recorder.closed(options_.id, summary);
    const auto flushed = co_await trace::flushed(&parts_.recorder, &parts_.shard, options_.id);
    if (!flushed) {
      result.report.warnings.push_back("the trace is incomplete: " + flushed.error().message);
    }
    parts_.gate.closed(options_.id, std::move(summary));
    parts_.log.info("rollout", "closed",
                    {{"rollout", options_.id.value},
                     {"error_kind", to_string(result.error_kind)},
                     {"calls", result.calls.calls}});
    if (options_.on_end) options_.on_end(result);
    co_return result;
  }

  void cancel(std::string why) {
    if (cancelled_) return;
    cancelled_ = std::move(why);
    if (turn_) turn_->cancel();
    if (driver_) driver_->cancel(*cancelled_);
    parts_.gate.stop_asking(options_.id);
  }

  // agent::Hooks
  void on_phase(std::string_view name) override {
    finish_phase();
    phase_ = name;
    phase_began_ = Clock::now();
    if (options_.on_phase) options_.on_phase(name);
  }

  void on_agent_event(const agent::AgentEvent& event) override {
    json::Object detail;
    detail["kind"] = agent::to_string(event.kind);
    if (!event.text.empty()) detail["text"] = event.text;
    if (!event.tool.empty()) detail["tool"] = event.tool;
    if (!event.id.empty()) detail["id"] = event.id;
    if (!event.status.empty()) detail["status"] = event.status;
    if (has_disk(event.text.size())) record("agent", std::move(detail));
    if (options_.on_agent_event) options_.on_agent_event(event);
  }

  net::awaitable<Result<agent::Endpoint>> open_endpoint(sandbox::Sandbox* sandbox) override {
    SLUICE_CO_TRY(auto listener, co_await sandbox->listen(0));
    agent::Endpoint endpoint;
    endpoint.url = fmt::format("http://127.0.0.1:{}/rollout/{}", port_of(listener->address()),
                               options_.id.value);
    endpoint.key = key_.empty() ? kPlaceholderKey : key_;
    SLUICE_CO_TRY_VOID(parts_.gate.serve(options_.id, std::move(listener)));
    co_return endpoint;
  }

  void agent_starts() override { parts_.gate.admit(options_.id); }
  void agent_ended() override { parts_.gate.stop_admitting(options_.id); }

  net::awaitable<Result<std::optional<double>>> verify(sandbox::Sandbox* sandbox) override {
    if (!options_.verifier) co_return std::optional<double>();
    co_return co_await options_.verifier(sandbox, options_.task.get());
  }

 private:
  // For the trainer.
  static std::string about(const Task& task) {
    std::string out = R"({"id":)";
    json::append_string(out, task.id);
    if (!task.metadata.empty()) out.append(R"(,"metadata":)").append(task.metadata);
    out.push_back('}');
    return out;
  }

  // An agent that cannot be offered the task's tools is refused before there is a sandbox.
  Result<void> open_at_gate(const std::string& group) {
    SLUICE_TRY_VOID(agent::check_host_tools(*options_.spec, host_tools()));
    SLUICE_TRY_VOID(agent::check_options(*options_.spec, options_.task->options));
    SLUICE_TRY_VOID(agent::check_verify(*options_.task, parts_.backend.capabilities()));
    gate::Registration registration = this->registration();
    registration.about = {std::make_shared<const std::string>(about(*options_.task)), options_.name,
                          group};
    return parts_.gate.open(std::move(registration));
  }

  agent::HostTools host_tools() const {
    return options_.task->tools.empty() ? agent::HostTools::kNone : agent::HostTools::kOffered;
  }

  gate::Registration registration() {
    const agent::Spec& spec = *options_.spec;
    gate::Registration registration;
    registration.id = options_.id;
    registration.shard = &parts_.shard;
    registration.dialects = {options_.dialect};
    registration.budget = options_.task->budget;
    registration.resend = spec.resend;
    registration.session_headers = spec.session_headers;
    registration.purposes = spec.purposes;
    registration.key = key_;
    registration.models = {options_.model};
    registration.policy = options_.policy.policy;
    registration.tools = options_.task->tools;
    const GateRules& rules = options_.task->gate;
    registration.origins.accept = rules.accept;
    registration.delivery = rules.delivery;
    registration.cut_calls = rules.cut_calls;
    registration.max_version_lag = rules.max_version_lag;
    registration.tools_in_requests = rules.tools_in_requests;
    registration.recorder = &parts_.recorder;
    registration.disk = disk_;
    return registration;
  }

  net::awaitable<void> attempt(RolloutResult* result, Clock::time_point began) {
    agent::Plan plan = make_plan();
    if (!options_.group) {
      result->report = co_await drive(std::move(plan));
      co_return;
    }
    on_phase("prepare");
    plan.prepared = co_await prepared();
    const Duration took = Clock::now() - began;
    if (plan.prepared) result->preparation = total(plan.prepared->phases);
    result->report = co_await drive(std::move(plan));
    auto& phases = result->report.phases;
    for (agent::PhaseTime& phase : phases) phase.began += took;
    phases.insert(phases.begin(), {"prepare", Duration{}, took});
  }

  uint64_t host_disk() const { return options_.task->budget.host_disk; }

  // Whether the rollout may write so much more to this machine's disk. From the first no on its
  // budget is used up.
  bool has_disk(uint64_t bytes) {
    if (host_disk() == 0 || disk_->bytes + bytes <= host_disk()) return true;
    disk_full_ = true;
    return false;
  }

  agent::Plan make_plan() {
    const Task& task = *options_.task;
    agent::Plan plan;
    static_cast<agent::Work&>(plan) = task;
    plan.spec = options_.spec;
    plan.bundle_path = options_.bundle_path;
    plan.sandbox.labels["rollout"] = options_.id.value;
    plan.sandbox.deadline = Deadline::in(sandbox_lifetime(task, *options_.spec));
    plan.sandbox.keep_files_in = options_.keep_files_in;
    plan.own_verifier = static_cast<bool>(options_.verifier);
    plan.model = options_.model;
    if (const auto& cap = options_.max_tokens_cap) {
      plan.max_output = std::min(plan.max_output.value_or(*cap), *cap);
    }
    plan.dialect = options_.dialect;
    plan.host_tools = host_tools();
    plan.outputs.files = options_.output_files;
    plan.outputs.take = [this](uint64_t bytes) {
      if (!has_disk(bytes)) return false;
      disk_->bytes += bytes;
      return true;
    };
    return plan;
  }

  net::awaitable<agent::Report> drive(agent::Plan plan) {
    driver_ = std::make_unique<agent::Driver>(parts_.shard, parts_.backend, std::move(plan), *this);
    if (cancelled_) driver_->cancel(*cancelled_);
    co_return co_await driver_->run();
  }

  // What the group shares: made here, or waited for.
  net::awaitable<Group::Prepared> prepared() {
    turn_ = std::make_shared<Group::Turn>(parts_.shard);
    if (cancelled_) turn_->cancel();
    std::function<net::awaitable<agent::Report>()> prepare = [this] {
      return prepare_here();
    };
    auto prepared = co_await options_.group->prepared(turn_, std::move(prepare));
    turn_.reset();
    driver_.reset();
    co_return prepared;
  }

  net::awaitable<agent::Report> prepare_here() {
    agent::Plan plan = make_plan();
    plan.sandbox.keep_files_in.clear();
    driver_ =
        std::make_unique<agent::Driver>(parts_.shard, parts_.backend, std::move(plan), no_hooks_);
    if (cancelled_) driver_->cancel(*cancelled_);
    co_return co_await driver_->prepare();
  }

  static Duration total(const std::vector<agent::PhaseTime>& phases) {
    return phases.empty() ? Duration{} : phases.back().began + phases.back().took;
  }

  // Decides what the rollout reports, from what happened.
  void judge(RolloutResult& result, const gate::Answering& answering) const {
    agent::Report& report = result.report;
    Blame blamed = blame(report, result.calls, answering.outage, result.agent);
    result.error_kind = blamed.kind;
    result.error = std::move(blamed.error);
    if (counts(result.error_kind) || result.error_kind == ErrorKind::kPolicy) give_verdict(result);
    warn_of_what_has_no_effect(report);
    for (const std::string* told : {&answering.outage, &answering.doubt}) {
      if (!told->empty()) report.warnings.push_back(*told);
    }
    if (const uint64_t rewrites = result.calls.rewrites; rewrites > 0) {
      report.warnings.push_back(fmt::format(
          "the agent rewrote its history in {} call{}: what was sampled before is not what these "
          "were answered behind (events `rewritten` of the trace)",
          rewrites, rewrites == 1 ? "" : "s"));
    }
    for (const std::string& why : result.calls.rejections) {
      report.warnings.push_back("a reply of the trainer was rejected: " + why);
    }
  }

  void warn_of_what_has_no_effect(agent::Report& report) const {
    const Task& task = *options_.task;
    const agent::Spec& spec = *options_.spec;
    for (const auto& [name, value] : {std::pair("context_window", task.context_window),
                                      std::pair("max_output", task.max_output)}) {
      if (!value || agent::uses(spec, name, task.options)) continue;
      report.warnings.push_back(
          fmt::format("{0} has no effect: {1}'s spec does not use {{{0}}}", name, spec.name));
    }
  }

  void give_verdict(RolloutResult& result) const {
    const agent::Verify& how = options_.task->verify;
    Verdict verdict = verdict_of(result.report, how);
    // What an agent left that cannot be judged earns what work that fails does.
    if (!verdict.reward && options_.verifier && result.report.agent && !result.report.verified) {
      verdict = {how.reward_min, "verify did not come to its end", ""};
    }
    result.reward_error = std::move(verdict.error);
    result.reward_clamped = std::move(verdict.clamped);
    if (result.error_kind == ErrorKind::kPolicy) {
      result.reward_if_counted = verdict.reward;
    } else {
      result.reward = verdict.reward;
    }
  }

  void record(std::string_view kind, json::Object detail) {
    parts_.recorder.event(options_.id,
                          {std::string(kind), json::serialize(json::Value(std::move(detail)))});
  }

  void finish_phase() {
    if (phase_.empty()) return;
    json::Object detail;
    detail["phase"] = phase_;
    detail["took_s"] = to_seconds(Clock::now() - phase_began_);
    record("phase", std::move(detail));
    phase_.clear();
  }

  Parts parts_;
  RolloutOptions options_;
  NoHooks no_hooks_;
  std::shared_ptr<Group::Turn> turn_;  // while it asks for the group's preparation
  std::unique_ptr<agent::Driver> driver_;
  std::optional<std::string> cancelled_;
  // Where sandboxes share the machine's network, whoever is on it reaches the listener.
  const std::string key_ = options_.task->sandbox.network == sandbox::Network::kOpen
                               ? "rollout." + random_hex(24)
                               : std::string();
  const std::shared_ptr<trace::DiskUse> disk_ = std::make_shared<trace::DiskUse>();
  bool disk_full_ = false;
  std::string phase_;
  Clock::time_point phase_began_;
};

Rollout::Rollout(Parts parts, RolloutOptions options)
    : impl_(std::make_unique<Impl>(parts, std::move(options))) {}
Rollout::~Rollout() = default;

const RolloutId& Rollout::id() const {
  return impl_->id();
}
net::awaitable<RolloutResult> Rollout::run() {
  return impl_->run();
}
void Rollout::cancel(std::string why) {
  impl_->cancel(std::move(why));
}

}  // namespace sluice::rollout
