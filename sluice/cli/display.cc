#include "sluice/cli/display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sluice/base/core/bytes.h"
#include "sluice/cli/paths.h"

namespace sluice::cli {
namespace {

constexpr size_t kShownTools = 6;

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
  if (style_ == Style::kTerminal) fmt::print(out_, "\r\x1b[K");
  fmt::print(out_, "[{:8.3f} s] {}\n", seconds(), text);
  std::fflush(out_);
}

void StatusLine::draw(std::string_view text) {
  if (style_ != Style::kTerminal) return;
  fmt::print(out_, "\r\x1b[K  {}", text);
  std::fflush(out_);
  drawn_ = true;
}

void StatusLine::finish() {
  if (!std::exchange(drawn_, false)) return;
  fmt::print(out_, "\n");
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
  tools_.push_back(event.tool);
  if (line_.style() == StatusLine::Style::kPlain) {
    line_.note(fmt::format("  tool {} {}", printable(event.tool), printable(event.status)));
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
    const size_t first = tools_.size() - std::min(tools_.size(), kShownTools);
    for (size_t i = first; i < tools_.size(); ++i) {
      text += (i == first ? ": " : ", ") + printable(tools_[i]);
    }
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

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : to_valid_utf8(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n' || (byte >= 0x20 && byte != 0x7F)) {
      out += c;
    } else if (c == '\t') {
      out += ' ';
    } else {
      out += fmt::format("\\x{:02x}", byte);
    }
  }
  // C1 controls are two bytes in UTF-8 (U+0080 to U+009F).
  for (size_t i = 0; (i = out.find('\xC2', i)) != std::string::npos; ++i) {
    if (i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xA0) {
      out.replace(i, 2, fmt::format("\\x{:02x}", static_cast<unsigned char>(out[i + 1])));
    }
  }
  return out;
}

int report(const Error& error) {
  fmt::print(stderr, "sluice: {}\n", printable(error.message));
  return exit_code(error.code);
}

int report(const Result<int>& code) {
  return code ? *code : report(code.error());
}

}  // namespace sluice::cli
