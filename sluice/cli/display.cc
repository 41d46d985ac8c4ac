#include "sluice/cli/display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sluice/base/printable.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"

namespace sluice::cli {
namespace {

constexpr size_t kShownTools = 6;
constexpr size_t kShownName = 100;

}  // namespace

StatusLine::Style StatusLine::style_for(std::FILE* out) {
  return ::isatty(::fileno(out)) == 1 && environment("TERM") != "dumb" ? Style::kTerminal
                                                                       : Style::kPlain;
}

double StatusLine::seconds() const {
  return to_seconds(Clock::now() - began_);
}

void StatusLine::note(std::string_view text) {
  if (style_ == Style::kSilent) return;
  if (style_ == Style::kTerminal) write(out_, "\r\x1b[K");
  write(out_, fmt::format("[{:8.3f} s] {}\n", seconds(), printable(text)));
  std::fflush(out_);
}

void StatusLine::draw(std::string_view text) {
  if (style_ != Style::kTerminal) return;
  write(out_, fmt::format("\r\x1b[K  {}", printable(text)));
  std::fflush(out_);
  drawn_ = true;
}

void StatusLine::finish() {
  if (!std::exchange(drawn_, false)) return;
  write(out_, "\n");
  std::fflush(out_);
}

void Display::phase(std::string_view name) {
  finish();
  const std::lock_guard lock(mutex_);
  phase_ = name;
  phase_began_ = Clock::now();
  if (line_.style() == StatusLine::Style::kPlain) line_.note(name);
  draw();
}

void Display::event(const agent::AgentEvent& event) {
  const std::lock_guard lock(mutex_);
  if (event.kind == agent::EventKind::kStep) ++steps_;
  if (event.kind != agent::EventKind::kTool) return;
  tools_.push_back(event.tool.substr(0, kShownName));
  if (tools_.size() > kShownTools) tools_.erase(tools_.begin());
  if (line_.style() == StatusLine::Style::kPlain) {
    line_.note(fmt::format("  tool {} {}", tools_.back(), event.status.substr(0, kShownName)));
  }
}

void Display::tick() {
  const std::lock_guard lock(mutex_);
  draw();
}

void Display::draw() {
  if (phase_.empty()) return;
  std::string text =
      fmt::format("{:<10} {:>9}", phase_, duration_text(Clock::now() - phase_began_));
  if (phase_ == "agent") {
    if (steps_ > 0) text += fmt::format("  {} turns", steps_);
    for (size_t i = 0; i < tools_.size(); ++i) text += (i == 0 ? ": " : ", ") + tools_[i];
  }
  line_.draw(text);
}

void Display::finish() {
  const std::lock_guard lock(mutex_);
  draw();
  line_.finish();
  phase_.clear();
}

std::string duration_text(Duration duration) {
  const double seconds = to_seconds(duration);
  if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1000);
  if (seconds < 100) return fmt::format("{:.2f} s", seconds);
  return fmt::format("{} min {} s", static_cast<int>(seconds) / 60, static_cast<int>(seconds) % 60);
}

int report(const Error& error) {
  // Lines of its own stay lines, in such a way that none is taken for one of ours.
  std::string text;
  for (std::string_view rest = error.message; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    text += (text.empty() ? "sluice: " : "  ") + printable(rest.substr(0, end)) + "\n";
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  say(text);
  return exit_code(error.code);
}

int report(const Result<int>& code) {
  return code ? *code : report(code.error());
}

}  // namespace sluice::cli
