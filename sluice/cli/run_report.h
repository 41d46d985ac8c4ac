// RunReport: what `sluice run` keeps and tells of its rollouts. One rollout has the directory for
// itself and is shown phase by phase; a batch has a line and a folder for each, and can be resumed
// (docs/engine.md).
//
// On the command's thread, but for what watch() adds, which is called on the rollouts' shards.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sluice/base/metrics.h"
#include "sluice/cli/run_parts.h"
#include "sluice/rollout/engine.h"

namespace sluice::cli {

inline constexpr char kInterrupted[] = "interrupted";

// One rollout that is to be run.
struct Wanted {
  std::string name;  // in a batch "task@3", in groups "task@3.1"
  std::shared_ptr<const rollout::Task> task;
  std::string group;  // of the attempts at this task that belong together; "" if it is the only one
};

class RunReport {
 public:
  virtual ~RunReport() = default;
  // Absolute; the engine's log and the trainer's keys go there.
  const std::string& directory() const { return directory_; }
  // What has not ended yet, in the order in which it is submitted.
  const std::vector<Wanted>& wanted() const { return wanted_; }

  virtual std::string traces() const { return directory_; }
  // Where the files of one rollout go.
  virtual std::string place_of(const std::string&) const { return directory_; }

  virtual void watch(rollout::RolloutOptions&) {}
  // Nothing is submitted yet.
  virtual void begin() {}
  virtual Result<void> ended(const rollout::Finished& finished, const rollout::Engine& engine) = 0;
  // How often somebody asked for the end: once more, or, with SIGTERM, twice.
  virtual void interrupted(rollout::Engine& engine, int times) = 0;
  // Several times a second.
  virtual void tick(const rollout::Engine& engine) = 0;
  // The process's exit code.
  virtual Result<int> conclude(const rollout::Engine& engine) = 0;

 protected:
  std::string directory_;
  std::vector<Wanted> wanted_;
};

// Both make the output directory, or take up what is in it.
Result<std::unique_ptr<RunReport>> report_one(const RunFlags& flags, const RunInput& input);
Result<std::unique_ptr<RunReport>> report_batch(const RunFlags& flags, const RunInput& input,
                                                const Metrics& metrics);

}  // namespace sluice::cli
