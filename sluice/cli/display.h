// What people see while rollouts run: StatusLine, a line that moves on a terminal and is plain
// lines elsewhere; Display, one rollout on it. Both show text from anywhere as printable() does.
#pragma once

#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/agent/events.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"

namespace sluice::cli {

// One thread.
class StatusLine {
 public:
  enum class Style : uint8_t { kTerminal, kPlain, kSilent };

  // kTerminal if `out` is a terminal and not a dumb one.
  static Style style_for(std::FILE* out);

  StatusLine(std::FILE* out, Style style) : out_(out), style_(style) {}

  Style style() const { return style_; }
  double seconds() const;  // since it was made
  // A line that stays, with that time before it.
  void note(std::string_view text);
  // The moving line, again; nothing but on a terminal.
  void draw(std::string_view text);
  // The moving line stays as it is.
  void finish();

 private:
  std::FILE* out_;
  Style style_;
  Clock::time_point began_{Clock::now()};
  bool drawn_ = false;
};

// The running phase is the moving line, with the agent's turns and tools. Any thread.
class Display {
 public:
  Display(std::FILE* out, StatusLine::Style style) : line_(out, style) {}

  void phase(std::string_view name);
  void event(const agent::AgentEvent& event);
  // Redraws the moving line; call it a few times a second.
  void tick();
  void finish();

 private:
  void draw();

  std::mutex mutex_;  // of all below
  StatusLine line_;
  std::string phase_;
  Clock::time_point phase_began_{};
  int steps_ = 0;
  std::vector<std::string> tools_;  // the last ones
};

// "1.8 ms", "2.41 s", "3 min 20 s".
std::string duration_text(Duration duration);

// Tells the error on stderr; the process's exit code for it.
int report(const Error& error);
// The same for what a command came to.
int report(const Result<int>& code);

}  // namespace sluice::cli
