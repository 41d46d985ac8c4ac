// `sluice run` for more than one rollout: a folder of tasks, --repeat, --group (docs/engine.md).
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/digest.h"
#include "sluice/base/metrics.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/display.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/progress.h"
#include "sluice/cli/run_parts.h"
#include "sluice/gate/gate.h"
#include "sluice/json/value.h"
#include "sluice/net/loop_lag.h"
#include "sluice/net/signals.h"
#include "sluice/rollout/engine.h"
#include "sluice/rollout/journal.h"
#include "sluice/trace/jsonl.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using rollout::JournalEntry;

constexpr size_t kMaxTasks = 100'000;
constexpr size_t kMaxRollouts = 1'000'000;
constexpr size_t kMaxTaskFile = 1 << 20;
constexpr size_t kMaxManifest = 64 << 20;
constexpr Duration kMetricsEvery = 5s;
constexpr char kInterrupted[] = "interrupted";

bool is_task_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return name == "task.toml" || name.ends_with(".task.toml");
}

// The tasks below `place`: every task.toml and *.task.toml, else every *.toml directly in it.
Result<std::vector<std::string>> find_tasks(const std::string& place) {
  std::error_code error;
  if (!fs::is_directory(place, error)) return std::vector<std::string>{place};
  std::vector<std::string> found, flat;
  for (auto it = fs::recursive_directory_iterator(place, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (!it->is_regular_file(error) || it->path().extension() != ".toml") continue;
    if (is_task_file(it->path())) found.push_back(it->path().string());
    if (it.depth() == 0) flat.push_back(it->path().string());
    if (found.size() > kMaxTasks || flat.size() > kMaxTasks) {
      return Error(ErrorCode::kTooLarge, fmt::format("{}: more than {} tasks", place, kMaxTasks));
    }
  }
  if (error) return errno_error(place, error.value());
  if (found.empty()) found = std::move(flat);
  if (found.empty()) {
    return Error(ErrorCode::kNotFound,
                 place + " holds no tasks: a task.toml in a folder of its own, or NAME.task.toml");
  }
  std::sort(found.begin(), found.end());
  return found;
}

struct TaskFile {
  std::shared_ptr<const rollout::Task> task;
  std::string digest;  // of the file
};

// One rollout that is wanted.
struct Wanted {
  std::string name;  // "task@3", in groups "task@3.1"
  std::shared_ptr<const rollout::Task> task;
  std::string group;
};

class RunMany {
 public:
  explicit RunMany(const RunFlags& flags) : flags_(flags) {}
  ~RunMany() {
    for (const auto& shard : shards_) shard->stop();
    control_.stop();
  }
  RunMany(const RunMany&) = delete;
  RunMany& operator=(const RunMany&) = delete;

  Result<int> go() {
    SLUICE_TRY_VOID(read_input());
    SLUICE_TRY_VOID(open_directory());
    plan();
    const Logger log = Logger::to_file(flags_.log.empty() ? directory_ + "/engine.log" : flags_.log,
                                       LogLevel::kInfo);
    raise_descriptor_limit();
    SLUICE_TRY_VOID(make_shards(log));
    SLUICE_TRY(const auto backend, make_backend(flags_.backend, log));
    trace::JsonlRecorder recorder(directory_ + "/traces", log);
    SLUICE_TRY(gate::GateOptions options, gate_options(flags_, log));
    gate::Handles gate = gate::make_gate(std::move(options));
    SLUICE_TRY(const auto trainer, start_trainer_side(flags_, gate, directory_, log));
    std::vector<net::Shard*> shards;
    for (const auto& shard : shards_) shards.push_back(shard.get());
    rollout::Engine engine(
        {std::move(shards), *backend, gate.for_operator, recorder, log, &metrics_},
        engine_options());
    SLUICE_TRY_VOID(run(engine));
    return conclude();
  }

 private:
  Result<void> read_input() {
    SLUICE_TRY(const auto paths, find_tasks(flags_.task));
    std::map<std::string, std::string> ids;
    for (const std::string& path : paths) {
      SLUICE_TRY(rollout::Task task, read_task(flags_, path));
      SLUICE_TRY(const Bytes content, read_file(path, kMaxTaskFile));
      const auto [other, fresh] = ids.emplace(task.id, path);
      if (!fresh) {
        return Error(ErrorCode::kInvalidArgument,
                     fmt::format("{} and {} are both called \"{}\": give one another id",
                                 other->second, path, task.id));
      }
      tasks_.push_back(
          {std::make_shared<const rollout::Task>(std::move(task)), xxh3_128(content).hex()});
    }
    std::vector<const rollout::Task*> tasks;
    for (const TaskFile& file : tasks_) tasks.push_back(file.task.get());
    SLUICE_TRY(agent_, choose_agent(flags_, tasks));
    const size_t each = static_cast<size_t>(flags_.repeat) * static_cast<size_t>(flags_.group);
    if (tasks_.size() * each > kMaxRollouts) {
      return Error(ErrorCode::kTooLarge,
                   fmt::format("{} rollouts are more than {}", tasks_.size() * each, kMaxRollouts));
    }
    return {};
  }

  // What makes two runs the same batch.
  json::Object manifest() const {
    json::Object out;
    out["agent"] = agent_.spec->title();
    out["policy"] = flags_.policy;
    out["model"] = flags_.model;
    out["dialect"] = llm::to_string(agent_.dialect);
    out["backend"] = flags_.backend;
    out["repeat"] = flags_.repeat;
    out["group"] = flags_.group;
    json::Object tasks;
    for (const TaskFile& file : tasks_) tasks[file.task->id] = file.digest;
    out["tasks"] = std::move(tasks);
    return out;
  }

  Result<void> open_directory() {
    if (flags_.resume) {
      SLUICE_TRY_VOID(resume_directory());
    } else {
      std::string wanted = flags_.out;
      if (wanted.empty()) {
        wanted = fmt::format("{}/rollouts/{:%Y%m%d-%H%M%S}-batch-{}", state_directory(),
                             fmt::localtime(std::time(nullptr)), batch_);
      }
      SLUICE_TRY(directory_, make_output_directory(wanted));
      json::Object out = manifest();
      out["batch"] = batch_;
      SLUICE_TRY_VOID(write_file_atomically(
          directory_ + "/batch.json", json::serialize(json::Value(std::move(out))) + "\n", 0600));
    }
    std::vector<JournalEntry> entries;
    SLUICE_TRY(rollout::Journal journal,
               rollout::Journal::open(directory_ + "/results.jsonl", &entries));
    journal_.emplace(std::move(journal));
    for (JournalEntry& entry : entries) {
      for (const std::string& id : entry.rollouts) told_.insert(id);
      ends_[entry.name] = std::move(entry);
    }
    return {};
  }

  Result<void> resume_directory() {
    if (flags_.out.empty()) {
      return Error(ErrorCode::kInvalidArgument, "--resume: name the batch's directory by --out");
    }
    std::error_code error;
    directory_ = fs::absolute(flags_.out, error).lexically_normal().string();
    auto text = read_file(directory_ + "/batch.json", kMaxManifest);
    if (!text) return std::move(text).error().within("--resume: there is no batch to resume");
    SLUICE_TRY(const json::Value value, json::parse(*text, {.bytes = kMaxManifest, .depth = 8}));
    const json::Object* was = value.if_object();
    const auto batch = was != nullptr ? json::get_string(*was, "batch") : std::nullopt;
    if (!batch) return Error(ErrorCode::kProtocol, directory_ + "/batch.json is not a batch's");
    batch_ = *batch;
    for (const auto& [key, is] : manifest()) {
      const json::Value* before = was->if_contains(key);
      if (before != nullptr && *before == is) continue;
      return Error(ErrorCode::kFailedPrecondition,
                   fmt::format("--resume: this is another batch than {}: its {} was {}, not {}",
                               directory_, std::string_view(key),
                               before != nullptr ? json::serialize(*before) : "absent",
                               json::serialize(is)));
    }
    return {};
  }

  void plan() {
    // All first attempts before the second ones: the engine's lanes are then in step from the
    // start.
    for (int i = 1; i <= flags_.repeat; ++i) {
      for (const TaskFile& file : tasks_) {
        const std::string name = fmt::format("{}@{}", file.task->id, i);
        if (flags_.group == 1) {
          add({name, file.task, ""});
          continue;
        }
        for (int member = 1; member <= flags_.group; ++member) {
          add({fmt::format("{}.{}", name, member), file.task, fmt::format("{}/{}", batch_, name)});
        }
      }
    }
  }

  void add(Wanted wanted) {
    ++total_;
    const auto end = ends_.find(wanted.name);
    if (end != ends_.end() && end->second.settled()) return;
    wanted_.push_back(std::move(wanted));
  }

  static void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }

  Result<void> make_shards(const Logger& log) {
    const unsigned count = std::clamp(std::thread::hardware_concurrency(), 1u, 4u);
    for (unsigned i = 0; i < count; ++i) {
      auto& shard = shards_.emplace_back(std::make_unique<net::Shard>(static_cast<int>(i)));
      lags_.push_back(std::make_unique<net::LoopLag>(
          *shard, metrics_.gauge("sluice_loop_lag_seconds", "How late a shard's loop runs",
                                 {{"shard", std::to_string(i)}})));
      SLUICE_TRY(auto policy, choose_policy(flags_, *shard, names_, log));
      policies_.push_back(std::move(policy));
    }
    for (const auto& shard : shards_) shard->start();
    return {};
  }

  rollout::EngineOptions engine_options() const {
    rollout::EngineOptions options;
    const size_t cores = std::max(1u, std::thread::hardware_concurrency());
    options.limits.concurrency =
        flags_.concurrency > 0 ? static_cast<size_t>(flags_.concurrency) : cores;
    options.limits.starting = std::max<size_t>(2, cores);
    options.limits.memory_bytes = static_cast<uint64_t>(flags_.memory_mb) << 20;
    options.limits.queued = kMaxRollouts;
    options.retries = flags_.retries;
    return options;
  }

  rollout::Order order_for(const Wanted& wanted, std::shared_ptr<rollout::Group> group) {
    rollout::Order order;
    order.name = wanted.name;
    order.lane = wanted.task->id;
    order.batch = wanted.group;
    const auto& memory = wanted.task->sandbox.limits.memory_bytes;
    order.memory_bytes = memory ? memory->value : 0;
    order.make = [this, wanted, group = std::move(group)](net::Shard& shard) {
      return make(wanted, group, shard);
    };
    return order;
  }

  // On the shard of the rollout; reads only what does not change any more.
  Result<rollout::RolloutOptions> make(const Wanted& wanted,
                                       const std::shared_ptr<rollout::Group>& group,
                                       net::Shard& shard) const {
    rollout::RolloutOptions options;
    options.task = wanted.task;
    options.group = group;
    options.spec = agent_.spec;
    options.bundle_path = agent_.bundle_path;
    options.dialect = agent_.dialect;
    options.model = flags_.model;
    options.max_output = flags_.max_tokens_cap;
    options.policy = policies_[static_cast<size_t>(shard.index())];
    if (flags_.keep) {
      const std::string directory = rollout_directory(wanted.name);
      std::error_code error;
      fs::create_directories(directory, error);
      if (error) return errno_error("create " + directory, error.value());
      options.keep_files_in = directory + "/files";
    }
    return options;
  }

  std::string rollout_directory(const std::string& name) const {
    return directory_ + "/rollouts/" + name;
  }

  Result<void> run(rollout::Engine& engine) {
    const auto style = Display::style_for(stderr);
    const bool silent = flags_.json && style != Display::Style::kTerminal;
    Progress progress(stderr, silent ? Display::Style::kSilent : style, total_,
                      total_ - wanted_.size());
    if (flags_.resume) tell_what_was(progress);
    std::map<std::string, const Wanted*> by_name;
    // Only its orders hold a group: with the last of them goes what was prepared.
    std::shared_ptr<rollout::Group> group;
    for (const Wanted& wanted : wanted_) {
      by_name.emplace(wanted.name, &wanted);
      if (wanted.group.empty()) {
        group.reset();
      } else if (!group || group->id() != wanted.group) {
        group = std::make_shared<rollout::Group>(wanted.group);
      }
      SLUICE_TRY_VOID(engine.submit(order_for(wanted, group)));
    }
    group.reset();
    engine.drain();

    std::atomic<int> interrupts = 0;
    const net::Signals signals(control_, {SIGINT, SIGTERM},
                               [&](int number) { interrupts += number == SIGTERM ? 2 : 1; });
    control_.start();
    // Before the signals' end: it belongs to that thread.
    const Defer stop_control([&] { control_.stop(); });
    Deadline metrics_due;
    for (int heard = 0; !engine.done();) {
      if (auto finished = engine.next(100ms)) {
        // One that never began leaves no line: there is nothing to tell, and it is still to be run.
        const std::string gave_up = engine.status().gave_up;
        if (!finished->result && (finished->why == kInterrupted || finished->why == gave_up)) {
          continue;
        }
        const Wanted& wanted = *by_name.at(finished->name);
        JournalEntry entry = rollout::entry_of(*finished, wanted.task->id, wanted.group);
        auto kept = keep(entry, *finished);
        // A result that cannot be kept is one that did not happen: better to stop.
        if (!kept) {
          progress.finish();
          return kept;
        }
        progress.ended(entry);
        ends_[entry.name] = std::move(entry);
      }
      if (heard < interrupts) {
        heard = interrupts;
        heed(engine, progress, heard);
      }
      progress.tick(engine.status());
      if (metrics_due.is_never() || metrics_due.expired()) {
        metrics_due = Deadline::in(kMetricsEvery);
        write_metrics();
      }
    }
    progress.finish();
    if (const std::string why = engine.status().gave_up; !why.empty()) progress.note(why);
    interrupted_ = interrupts > 0;
    write_metrics();
    return {};
  }

  void heed(rollout::Engine& engine, Progress& progress, int interrupts) {
    if (interrupts > 1) {
      progress.note("cancelling what runs: cleaning up");
      engine.cancel_all(kInterrupted);
      return;
    }
    progress.note(fmt::format("no more are started; waiting for {} that run (once more: cancel)",
                              engine.status().running));
    engine.drain_now(kInterrupted);
  }

  // Files first: a line in the journal says that all is there.
  Result<void> keep(const JournalEntry& entry, const rollout::Finished& finished) {
    if (finished.result) {
      const std::string directory = rollout_directory(entry.name);
      std::error_code error;
      fs::create_directories(directory, error);
      if (error) return errno_error("create " + directory, error.value());
      SLUICE_TRY_VOID(store_result(directory, *finished.result));
    }
    std::string line = rollout::to_json(entry, finished);
    if (flags_.json) {
      fmt::print("{}\n", line);
      std::fflush(stdout);
    }
    return journal_->append(std::move(line));
  }

  // What the process before us left: its unfinished rollouts have a trace and no end.
  void tell_what_was(Progress& progress) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(directory_ + "/traces", error)) {
      if (entry.path().extension() != ".jsonl") continue;
      const std::string id = entry.path().stem().string();
      if (!told_.contains(id)) abandoned_.push_back(id);
    }
    std::sort(abandoned_.begin(), abandoned_.end());
    progress.note(fmt::format("resuming: {} of {} had ended, {} had begun and were lost",
                              total_ - wanted_.size(), total_, abandoned_.size()));
  }

  void write_metrics() {
    // For whoever watches from outside; a batch does not fail for it.
    const auto ignored = write_file_atomically(directory_ + "/metrics.prom", metrics_.text(), 0600);
    static_cast<void>(ignored);
  }

  Result<int> conclude() {
    std::vector<JournalEntry> entries;
    size_t missing = 0;  // that could not be run
    std::map<std::string, size_t> kinds;
    for (const auto& [name, entry] : ends_) {
      if (!entry.has_result) ++missing;
      if (entry.has_result && !entry.error_kind.empty()) ++kinds[entry.error_kind];
      entries.push_back(entry);
    }
    json::Object summary;
    summary["batch"] = batch_;
    summary["rollouts"] = total_;
    summary["ended"] = entries.size() - missing;
    summary["not_run"] = missing + (total_ - entries.size());
    json::Object errors;
    for (const auto& [kind, count] : kinds) errors[kind] = count;
    summary["errors"] = std::move(errors);
    summary["interrupted"] = interrupted_;
    json::Array abandoned;
    for (const std::string& id : abandoned_) abandoned.emplace_back(id);
    summary["abandoned"] = std::move(abandoned);
    SLUICE_TRY_VOID(write_file_atomically(directory_ + "/summary.json",
                                          json::serialize(json::Value(std::move(summary))) + "\n",
                                          0600));
    if (!flags_.json) {
      fmt::print("{}results  {}/results.jsonl\n", batch_table(entries), directory_);
      if (entries.size() < total_) {
        fmt::print("not run  {} of {}\n", total_ - entries.size(), total_);
      }
      if (missing > 0 || entries.size() < total_) {
        fmt::print("go on    the same command with --resume --out {}\n", directory_);
      }
    }
    if (interrupted_) return exit_code(ErrorCode::kCancelled);
    if (missing > 0 || entries.size() < total_ || kinds.contains("infrastructure"))
      return exit_code(ErrorCode::kUnavailable);
    return kinds.empty() ? 0 : 1;
  }

  const RunFlags& flags_;
  std::string batch_ = random_hex(4);
  std::string directory_;
  std::vector<TaskFile> tasks_;
  AgentChoice agent_;
  size_t total_ = 0;
  std::vector<Wanted> wanted_;
  std::optional<rollout::Journal> journal_;
  std::map<std::string, JournalEntry> ends_;  // the last of each name
  std::set<std::string> told_;                // attempts that the journal knew when it was opened
  std::vector<std::string> abandoned_;
  bool interrupted_ = false;

  Metrics metrics_;
  net::BlockingPool names_{1};
  net::Shard control_{-1};  // hears signals
  std::vector<std::unique_ptr<net::Shard>> shards_;
  std::vector<std::unique_ptr<net::LoopLag>> lags_;
  std::vector<rollout::PolicyChoice> policies_;  // by shard
};

}  // namespace

int run_many_command(const RunFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  auto code = RunMany(flags).go();
  if (code) return *code;
  fmt::print(stderr, "sluice: {}\n", printable(code.error().message));
  return exit_code(code.error().code);
}

bool is_for_many(const RunFlags& flags) {
  std::error_code error;
  return flags.repeat > 1 || flags.group > 1 || flags.resume || fs::is_directory(flags.task, error);
}

}  // namespace sluice::cli
