#include "sluice/cli/display.h"

#include <fmt/format.h>
#include <unistd.h>

#include "sluice/base/core/bytes.h"
#include "sluice/cli/paths.h"

namespace sluice::cli {
namespace {

constexpr size_t kShownTools = 6;

}  // namespace

Display::Style Display::style_for(std::FILE* out) {
  return ::isatty(::fileno(out)) == 1 && environment("TERM") != "dumb" ? Style::kTerminal
                                                                       : Style::kPlain;
}

std::string Display::status() const {
  std::string text;
  if (phase_ == "agent" && steps_ > 0) text += fmt::format("  {} turns", steps_);
  for (size_t i = tools_.size() > kShownTools ? tools_.size() - kShownTools : 0;
       phase_ == "agent" && i < tools_.size(); ++i) {
    text += fmt::format("{}{}", text.find(": ") == std::string::npos ? ": " : ", ",
                        printable(tools_[i]));
  }
  return text;
}

void Display::phase(std::string_view name) {
  finish();
  phase_ = name;
  phase_began_ = Clock::now();
  if (style_ == Style::kPlain) {
    fmt::print(out_, "[{:8.3f} s] {}\n",
               std::chrono::duration<double>(phase_began_ - began_).count(), name);
    std::fflush(out_);
  } else {
    tick();
  }
}

void Display::event(const agent::AgentEvent& event) {
  if (event.kind == agent::EventKind::kStep) ++steps_;
  if (event.kind == agent::EventKind::kTool) tools_.push_back(event.tool);
  if (style_ == Style::kPlain && event.kind == agent::EventKind::kTool) {
    fmt::print(out_, "[{:8.3f} s]   tool {} {}\n",
               std::chrono::duration<double>(Clock::now() - began_).count(), printable(event.tool),
               printable(event.status));
    std::fflush(out_);
  }
}

void Display::tick() {
  if (style_ != Style::kTerminal || phase_.empty()) return;
  fmt::print(out_, "\r\x1b[K  {:<10} {:>9}{}", phase_, duration_text(Clock::now() - phase_began_),
             status());
  std::fflush(out_);
}

void Display::finish() {
  if (phase_.empty()) return;
  if (style_ == Style::kTerminal) {
    tick();
    fmt::print(out_, "\n");
    std::fflush(out_);
  }
  phase_.clear();
}

std::string duration_text(Duration duration) {
  const double seconds = std::chrono::duration<double>(duration).count();
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

}  // namespace sluice::cli
