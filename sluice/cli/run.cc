// `sluice run`: rollouts by an engine, whether one or many.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include "sluice/agent/fresh.h"
#include "sluice/base/core/defer.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/run_report.h"
#include "sluice/cli/wiring.h"
#include "sluice/net/signals.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

class Run {
 public:
  explicit Run(const RunFlags& flags) : flags_(flags) {
    std::error_code error;
    many_ = flags.repeat > 1 || flags.group > 1 || flags.resume ||
            std::filesystem::is_directory(flags.task, error);
  }

  Result<int> go() {
    SLUICE_TRY(input_, read_input(flags_));
    SLUICE_TRY(report_,
               many_ ? report_batch(flags_, input_, metrics_) : report_one(flags_, input_));
    if (many_) raise_descriptor_limit();
    SLUICE_TRY(wiring_, Wiring::make(wiring_options()));
    for (const auto& task : input_.tasks) {
      auto fits = agent::check_verify(*task, wiring_->engine().parts().backend.capabilities());
      if (!fits) return std::move(fits).error().within(task->source);
    }
    if (const TrainerSide* trainer = wiring_->trainer()) {
      say(fmt::format("trainer API at http://{}\n", trainer->address()));
      if (!trainer->keys_file().empty()) say(fmt::format("keys in {}\n", trainer->keys_file()));
    }
    report_->begin();
    SLUICE_TRY_VOID(submit());
    SLUICE_TRY_VOID(take());
    return report_->conclude(wiring_->engine());
  }

 private:
  WiringOptions wiring_options() {
    WiringOptions options;
    options.shards = many_ ? 0 : 1;
    options.backend = flags_.backend;
    options.traces = report_->traces();
    if (flags_.trainer_text) options.gate.tokens = gate::OriginRule::Tokens::kWaived;
    set_limits(flags_.limits, options.gate);
    options.gate.trainer_lease = from_seconds(flags_.trainer_lease_s);
    options.gate.upstream_patience = from_seconds(flags_.upstream_patience_s);
    if (flags_.policy == kTrainerPolicy) {
      options.trainer.emplace();
      options.trainer->listen = flags_.trainer_listen;
      options.trainer->keys_file = report_->directory() + "/trainer-keys";
    }
    const size_t cores = std::max(1u, std::thread::hardware_concurrency());
    options.engine.limits.concurrency =
        flags_.concurrency > 0 ? static_cast<size_t>(flags_.concurrency) : cores;
    options.engine.limits.starting = std::max<size_t>(2, cores);
    options.engine.limits.memory_bytes = static_cast<uint64_t>(flags_.memory_mb) << 20;
    options.engine.limits.queued = kMaxRollouts;
    options.engine.retries = flags_.retries.value_or(many_ ? 2 : 0);
    options.engine.policy_retries = std::min(options.engine.retries, kPolicyRetries);
    options.metrics = &metrics_;
    options.log = Logger::to_file(
        flags_.log.empty() ? report_->directory() + "/engine.log" : flags_.log, LogLevel::kInfo);
    options.policy = [this, log = options.log](net::Shard& shard) {
      return choose_policy(flags_, shard, names_, log);
    };
    return options;
  }

  Result<void> submit() {
    // Only its orders hold a group: with the last of them goes what was prepared.
    std::shared_ptr<rollout::Group> group;
    for (const Wanted& wanted : report_->wanted()) {
      const bool shares = flags_.group > 1;
      if (shares && (!group || group->id() != wanted.group)) {
        group = std::make_shared<rollout::Group>(wanted.group);
      }
      rollout::Order order;
      order.name = wanted.name;
      order.lane = wanted.task->id;
      if (shares) order.batch = wanted.group;
      const auto& memory = wanted.task->sandbox.limits.memory_bytes;
      order.memory_bytes = memory ? memory->value : 0;
      order.make = [this, &wanted, group](net::Shard& shard) {
        return make(wanted, group, shard);
      };
      SLUICE_TRY_VOID(wiring_->engine().submit(std::move(order)));
    }
    wiring_->engine().drain();
    return {};
  }

  // On the shard of the rollout; reads only what does not change any more.
  Result<rollout::RolloutOptions> make(const Wanted& wanted, std::shared_ptr<rollout::Group> group,
                                       net::Shard& shard) const {
    rollout::RolloutOptions options;
    options.task = wanted.task;
    options.group_id = wanted.group;
    options.group = std::move(group);
    options.spec = input_.agent.spec;
    options.bundle_path = input_.agent.bundle_path;
    options.dialect = input_.agent.dialect;
    options.model = flags_.model;
    options.max_tokens_cap = flags_.max_tokens_cap;
    options.policy = wiring_->policy(shard);
    options.output_files = output_files_;
    if (flags_.keep) {
      const std::string place = report_->place_of(wanted.name);
      std::error_code error;
      std::filesystem::create_directories(place, error);
      if (error) return errno_error("create " + place, error.value());
      options.keep_files_in = place + "/files";
    }
    report_->watch(options);
    return options;
  }

  // The ends, as they happen.
  Result<void> take() {
    rollout::Engine& engine = wiring_->engine();
    std::atomic<int> interrupts = 0;
    const net::Signals signals(control_, {SIGINT, SIGTERM},
                               [&](int number) { interrupts += number == SIGTERM ? 2 : 1; });
    control_.start();
    // Before the signals' end: it belongs to that thread.
    const Defer stop_control([&] { control_.stop(); });
    for (int heard = 0; !engine.done();) {
      // A result that cannot be kept is one that did not happen: better to stop.
      if (auto finished = engine.next(100ms)) {
        SLUICE_TRY_VOID(report_->ended(*finished, engine));
      }
      if (heard < interrupts) {
        heard = interrupts;
        report_->interrupted(engine, heard);
      }
      report_->tick(engine);
    }
    return {};
  }

  const RunFlags& flags_;
  bool many_ = false;
  RunInput input_;
  Metrics metrics_;
  net::BlockingPool names_{1};
  const std::shared_ptr<net::BlockingPool> output_files_ = std::make_shared<net::BlockingPool>(2);
  net::Shard control_{-1};  // hears signals
  std::unique_ptr<RunReport> report_;
  std::unique_ptr<Wiring> wiring_;  // first to go
};

}  // namespace

int run_command(const RunFlags& flags) {
  // Whoever reads our output may go first; rollouts still end in order.
  std::signal(SIGPIPE, SIG_IGN);
  const auto code = Run(flags).go();
  return report(code);
}

}  // namespace sluice::cli
