// Display: a rollout as it happens. On a terminal the running phase has a line that moves;
// elsewhere each phase is a plain line when it begins. One thread.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/agent/events.h"
#include "sluice/base/core/deadline.h"

namespace sluice::cli {

class Display {
 public:
  enum class Style : uint8_t { kTerminal, kPlain, kSilent };

  // kTerminal if `out` is a terminal and not a dumb one.
  static Style style_for(std::FILE* out);

  Display(std::FILE* out, Style style) : out_(out), style_(style) {}

  void phase(std::string_view name);
  void event(const agent::AgentEvent& event);
  // Redraws the moving line; call it a few times a second.
  void tick();
  void finish();

 private:
  std::string status() const;

  std::FILE* out_;
  Style style_;
  std::string phase_;
  Clock::time_point began_{Clock::now()};
  Clock::time_point phase_began_{};
  int steps_ = 0;
  std::vector<std::string> tools_;
};

// "1.8 ms", "2.41 s", "3 min 20 s".
std::string duration_text(Duration duration);

// Text that may be anything, made safe for a terminal: control characters and escapes are shown as
// such. Line breaks stay.
std::string printable(std::string_view text);

}  // namespace sluice::cli
