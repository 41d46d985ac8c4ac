// ResultsFile: the ends of a batch's rollouts in a file, one JSON line each (docs/engine.md),
// appended and synced as they happen, so that a batch can be resumed after a crash: what has a line
// that settles it is not run again, and nothing is told that did not happen.
//
// One thread. One process at a time: the file is locked while it is open.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/rollout/engine.h"

namespace sluice::rollout {

// One end, as far as tables and resuming need it.
struct ResultLine {
  std::string name;  // of the order
  std::string task;
  std::string group;  // "" if none
  bool has_result = false;
  std::string why;         // if it has none
  std::string error_kind;  // of the result; "" if none
  std::string error;
  std::optional<double> reward;
  bool reward_unusable = false, reward_clamped = false;
  double wall_s = 0;
  uint64_t turns = 0;
  std::map<std::string, size_t> failed_attempts;  // by their kind
  std::vector<std::string> rollouts;              // the ids of all its attempts

  // The attempt was made, however it went: running it again would be another attempt. What failed
  // for infrastructure reasons or the policy's, or was cancelled, says nothing and is run again.
  bool settled() const {
    return has_result && error_kind != "infrastructure" && error_kind != "policy" &&
           error_kind != "cancelled";
  }
};

// The line of an end, without the line's end; and what a line says.
std::string to_line(const Finished& finished, const std::string& task, const std::string& group);
Result<ResultLine> parse_line(std::string_view line);

class ResultsFile {
 public:
  // Makes the file, or continues it: what it holds is in `entries`. A last line that was cut short
  // by a crash is taken off. kFailedPrecondition if another process has it open, kProtocol (with
  // the line's number) if a whole line is not one of ours.
  static Result<ResultsFile> open(const std::string& path, std::vector<ResultLine>* entries);

  // One line, without its end. It is on the disk when this returns.
  Result<void> append(std::string line);

 private:
  ResultsFile(std::string path, Fd file) : path_(std::move(path)), file_(std::move(file)) {}
  std::string path_;
  Fd file_;
};

}  // namespace sluice::rollout
