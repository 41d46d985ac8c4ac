// `sluice run` for more than one rollout: a folder of tasks, --repeat, --group (docs/engine.md).
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "sluice/base/core/fd.h"
#include "sluice/base/id.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/progress.h"
#include "sluice/cli/run_report.h"
#include "sluice/json/value.h"
#include "sluice/rollout/results_file.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using rollout::ResultLine;

constexpr size_t kMaxManifest = 64 << 20;
constexpr Duration kMetricsEvery = 5s;

class Batch final : public RunReport {
 public:
  Batch(const RunFlags& flags, const RunInput& input, const Metrics& metrics)
      : flags_(flags), input_(input), metrics_(metrics) {}

  Result<void> open() {
    SLUICE_TRY_VOID(open_directory());
    plan();
    progress_.emplace(stderr, status_style(flags_), total_, total_ - wanted_.size());
    return {};
  }

  std::string traces() const override { return directory_ + "/traces"; }
  std::string place_of(const std::string& name) const override {
    return directory_ + "/rollouts/" + name;
  }

  void begin() override {
    if (flags_.resume) tell_what_was();
  }

  Result<void> ended(const rollout::Finished& finished, const rollout::Engine& engine) override {
    // One that never began leaves no line: there is nothing to tell, and it is still to be run.
    if (!finished.result &&
        (finished.why == kInterrupted || finished.why == engine.status().gave_up)) {
      return {};
    }
    const Wanted& wanted = *by_name_.at(finished.name);
    auto line = keep(wanted, finished);
    if (!line) {
      progress_->finish();
      return std::move(line).error();
    }
    progress_->ended(*line);
    ends_[wanted.name] = std::move(*line);
    return {};
  }

  void interrupted(rollout::Engine& engine, int times) override {
    interrupted_ = true;
    if (times > 1) {
      progress_->note("cancelling what runs: cleaning up");
      engine.cancel_all(kInterrupted);
      return;
    }
    progress_->note(fmt::format("no more are started; waiting for {} that run (once more: cancel)",
                                engine.status().running));
    engine.drain_now(kInterrupted);
  }

  void tick(const rollout::Engine& engine) override {
    progress_->tick(engine.status());
    if (!metrics_due_.is_never() && !metrics_due_.expired()) return;
    metrics_due_ = Deadline::in(kMetricsEvery);
    write_metrics();
  }

  Result<int> conclude(const rollout::Engine& engine) override {
    progress_->finish();
    if (const std::string why = engine.status().gave_up; !why.empty()) progress_->note(why);
    write_metrics();
    std::vector<ResultLine> lines;
    size_t missing = 0, settled = 0;  // could not be run; are not run again
    size_t unusable = 0, clamped = 0;
    std::map<std::string, size_t> kinds, failed_attempts;
    for (const auto& [name, line] : ends_) {
      if (!line.has_result) ++missing;
      if (line.settled()) ++settled;
      if (line.reward_unusable) ++unusable;
      if (line.reward_clamped) ++clamped;
      if (line.has_result && !line.error_kind.empty()) ++kinds[line.error_kind];
      for (const auto& [kind, count] : line.failed_attempts) failed_attempts[kind] += count;
      lines.push_back(line);
    }
    json::Object summary;
    summary["batch"] = batch_;
    summary["rollouts"] = total_;
    summary["ended"] = settled;
    summary["not_run"] = total_ - settled;
    summary["errors"] = json::Object(kinds.begin(), kinds.end());
    summary["failed_attempts"] = json::Object(failed_attempts.begin(), failed_attempts.end());
    summary["rewards_unusable"] = unusable;
    summary["rewards_clamped"] = clamped;
    summary["interrupted"] = interrupted_;
    summary["abandoned"] = json::Array(abandoned_.begin(), abandoned_.end());
    SLUICE_TRY_VOID(
        write_file_atomically(directory_ + "/summary.json", json::serialize(summary) + "\n", 0600));
    if (!flags_.json) {
      put(fmt::format("{}results  {}/results.jsonl\n", batch_table(lines), directory_));
      if (settled < total_) {
        put(fmt::format(
            "open     {} of {} are not run, or are to be run again\ngo on    the same command with "
            "--resume --out {}\n",
            total_ - settled, total_, directory_));
      }
    }
    if (interrupted_) return exit_code(ErrorCode::kCancelled);
    if (missing > 0 || lines.size() < total_ || kinds.contains("infrastructure") ||
        kinds.contains("policy")) {
      return exit_code(ErrorCode::kUnavailable);
    }
    return kinds.empty() ? 0 : 1;
  }

 private:
  // What makes two runs the same batch.
  json::Object manifest() const {
    json::Object out;
    out["agent"] = input_.agent.spec->title();
    out["policy"] = flags_.policy;
    out["model"] = flags_.model;
    out["dialect"] = llm::to_string(input_.agent.dialect);
    out["backend"] = flags_.backend;
    out["repeat"] = flags_.repeat;
    out["group"] = flags_.group;
    const auto given = [](const auto& value) {
      return value ? json::Value(*value) : json::Value();
    };
    out["approvals"] = flags_.approvals;
    out["options"] = json::Array(flags_.options.begin(), flags_.options.end());
    out["accept"] = given(flags_.rules.accept);
    out["delivery"] = given(flags_.rules.delivery);
    out["max_version_lag"] = given(flags_.rules.max_version_lag);
    out["trainer_text"] = flags_.trainer_text;
    out["disable_thinking"] = flags_.disable_thinking;
    out["max_tokens_cap"] = given(flags_.max_tokens_cap);
    out["top_logprobs"] = given(flags_.top_logprobs);
    out["context_window"] = given(flags_.context_window);
    out["max_output"] = given(flags_.max_output);
    out["contents"] = input_.contents;
    return out;
  }

  // What of a batch is not as it was, for people; "" if nothing.
  static std::string difference(const json::Object& was, const json::Object& is) {
    for (const auto& [key, now] : is) {
      const json::Value* before = was.if_contains(key);
      if (before != nullptr && *before == now) continue;
      if (before == nullptr || !before->is_object() || !now.is_object()) {
        return fmt::format("its {} was {}, not {}", std::string_view(key),
                           before != nullptr ? json::serialize(*before) : "absent",
                           json::serialize(now));
      }
      for (const auto& [name, content] : now.as_object()) {
        const json::Value* old = before->as_object().if_contains(name);
        if (old != nullptr && *old == content) continue;
        return fmt::format("{} {}", std::string_view(name), old ? "has changed" : "is new");
      }
      for (const auto& [name, content] : before->as_object()) {
        if (!now.as_object().contains(name)) return std::string(name) + " is gone";
      }
    }
    return "";
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
      SLUICE_TRY_VOID(
          write_file_atomically(directory_ + "/batch.json", json::serialize(out) + "\n", 0600));
    }
    std::vector<ResultLine> lines;
    SLUICE_TRY(rollout::ResultsFile file,
               rollout::ResultsFile::open(directory_ + "/results.jsonl", &lines));
    file_.emplace(std::move(file));
    for (ResultLine& line : lines) {
      for (const std::string& id : line.rollouts) told_.insert(id);
      ends_[line.name] = std::move(line);
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
    const std::string other = difference(*was, manifest());
    if (other.empty()) return {};
    return Error(ErrorCode::kFailedPrecondition,
                 fmt::format("--resume: this is another batch than {}: {}", directory_, other));
  }

  void plan() {
    // All first attempts before the second ones: the engine's lanes are then in step from the
    // start.
    for (int i = 1; i <= flags_.repeat; ++i) {
      for (const auto& task : input_.tasks) {
        const std::string name = fmt::format("{}@{}", task->id, i);
        if (flags_.group == 1) {
          add({name, task, flags_.repeat > 1 ? fmt::format("{}/{}", batch_, task->id) : ""});
          continue;
        }
        for (int member = 1; member <= flags_.group; ++member) {
          add({fmt::format("{}.{}", name, member), task, fmt::format("{}/{}", batch_, name)});
        }
      }
    }
    for (const Wanted& wanted : wanted_) by_name_.emplace(wanted.name, &wanted);
  }

  void add(Wanted wanted) {
    ++total_;
    const auto end = ends_.find(wanted.name);
    if (end != ends_.end() && end->second.settled()) return;
    wanted_.push_back(std::move(wanted));
  }

  // Files first: a line in the results says that all is there.
  Result<ResultLine> keep(const Wanted& wanted, const rollout::Finished& finished) {
    if (finished.result) {
      const std::string directory = place_of(wanted.name);
      std::error_code error;
      fs::create_directories(directory, error);
      if (error) return errno_error("create " + directory, error.value());
      SLUICE_TRY_VOID(store_result(directory, *finished.result));
    }
    const std::string text = rollout::to_line(finished, wanted.task->id, wanted.group);
    if (flags_.json) put_json(text);
    SLUICE_TRY_VOID(file_->append(text));
    return rollout::parse_line(text);
  }

  // What the process before us left: its unfinished rollouts have a trace and no end.
  void tell_what_was() {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(directory_ + "/traces", error)) {
      if (entry.path().extension() != ".jsonl") continue;
      const std::string id = entry.path().stem().string();
      if (!told_.contains(id)) abandoned_.push_back(id);
    }
    std::sort(abandoned_.begin(), abandoned_.end());
    progress_->note(fmt::format("resuming: {} of {} had ended, {} had begun and were lost",
                                total_ - wanted_.size(), total_, abandoned_.size()));
  }

  void write_metrics() {
    // For whoever watches from outside; a batch does not fail for it.
    const auto ignored = write_file_atomically(directory_ + "/metrics.prom", metrics_.text(), 0600);
    static_cast<void>(ignored);
  }

  const RunFlags& flags_;
  const RunInput& input_;
  const Metrics& metrics_;
  std::string batch_ = random_hex(4);
  size_t total_ = 0;
  std::map<std::string, const Wanted*> by_name_;
  std::optional<rollout::ResultsFile> file_;
  std::map<std::string, ResultLine> ends_;  // the last of each name
  std::set<std::string> told_;              // attempts that the file knew when it was opened
  std::vector<std::string> abandoned_;
  std::optional<Progress> progress_;
  Deadline metrics_due_;
  bool interrupted_ = false;
};

}  // namespace

Result<std::unique_ptr<RunReport>> report_batch(const RunFlags& flags, const RunInput& input,
                                                const Metrics& metrics) {
  auto batch = std::make_unique<Batch>(flags, input, metrics);
  SLUICE_TRY_VOID(batch->open());
  return std::unique_ptr<RunReport>(std::move(batch));
}

}  // namespace sluice::cli
