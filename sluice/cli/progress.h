// Progress: many rollouts as they end. On a terminal one line that moves, elsewhere a plain line
// for each end. And the table of a batch. One thread.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "sluice/base/core/deadline.h"
#include "sluice/cli/display.h"
#include "sluice/rollout/engine.h"
#include "sluice/rollout/results_file.h"

namespace sluice::cli {

class Progress {
 public:
  // `total` ends are to come, of which `before` are there already.
  Progress(std::FILE* out, StatusLine::Style style, size_t total, size_t before)
      : line_(out, style), total_(total), before_(before), ended_(before) {}

  void ended(const rollout::ResultLine& entry);
  // Redraws the moving line; call it a few times a second.
  void tick(const rollout::Engine::Status& status);
  // A line for people that stays.
  void note(std::string_view text) { line_.note(text); }
  void finish() { line_.finish(); }

 private:
  StatusLine line_;
  size_t total_, before_, ended_;
  size_t errors_ = 0;
  size_t rewards_ = 0;
  double reward_sum_ = 0;
};

// "reward 1.00, 3 turns, 2.41 s", "timed_out, ...", "not run: interrupted".
std::string describe(const rollout::ResultLine& entry);

// A row for each task and one for all.
std::string batch_table(const std::vector<rollout::ResultLine>& entries);

}  // namespace sluice::cli
