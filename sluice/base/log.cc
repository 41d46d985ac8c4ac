#include "sluice/base/log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/printable.h"

namespace sluice {
namespace {

constexpr std::string_view kRedacted = "[redacted]";

bool is_token_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.' || c == '+' || c == '/' || c == '=';
}

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// What tells that a key follows. At least `min` token characters must, and the marker must begin a
// word: "task-0123456789ab" is no "sk-" key.
struct Marker {
  std::string_view text;
  size_t min;
  enum class Keep : uint8_t { kYes, kNo } keep;
};
constexpr Marker kMarkers[] = {
    {"Bearer ", 8, Marker::Keep::kYes}, {"bearer ", 8, Marker::Keep::kYes},
    {"sk-", 12, Marker::Keep::kNo},     {"hf_", 16, Marker::Keep::kNo},
    {"e2b_", 16, Marker::Keep::kNo},
};

struct Range {
  size_t begin, end;
};

void find_marked(std::string_view text, const Marker& marker, std::vector<Range>& found) {
  for (size_t at = text.find(marker.text); at != std::string_view::npos;
       at = text.find(marker.text, at + 1)) {
    if (at > 0 && is_alphanumeric(text[at - 1])) continue;
    const size_t start = at + marker.text.size();
    size_t end = start;
    while (end < text.size() && is_token_char(text[end])) ++end;
    if (end - start < marker.min) continue;
    found.push_back({marker.keep == Marker::Keep::kYes ? start : at, end});
  }
}

void append_json_string(fmt::memory_buffer& out, std::string_view text) {
  out.push_back('"');
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.push_back('\\');
      out.push_back(c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    } else if (static_cast<unsigned char>(c) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<int>(c));
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
}

std::string_view name(LogLevel level) {
  constexpr std::string_view names[] = {"debug", "info", "warn", "error", "off"};
  return names[static_cast<size_t>(level)];
}

}  // namespace

struct Redactor::State {
  mutable std::shared_mutex mutex;
  std::vector<std::string> secrets;
};

Redactor::Redactor() : state_(std::make_unique<State>()) {}
Redactor::~Redactor() = default;

void Redactor::add_secret(std::string_view secret) {
  if (secret.size() < 6) return;
  fmt::memory_buffer quoted;
  append_json_string(quoted, secret);
  const std::string_view escaped(quoted.data() + 1, quoted.size() - 2);
  const std::unique_lock lock(state_->mutex);
  // Also as it looks inside JSON that is quoted in a message.
  for (const std::string_view form : {secret, escaped}) {
    if (std::find(state_->secrets.begin(), state_->secrets.end(), form) == state_->secrets.end()) {
      state_->secrets.emplace_back(form);
    }
  }
}

std::string Redactor::redact(std::string_view text) const {
  // Everything is found in the original text and then replaced, so that of two secrets that overlap
  // (or of which one begins with the other) nothing stays.
  std::vector<Range> found;
  {
    const std::shared_lock lock(state_->mutex);
    for (const std::string& secret : state_->secrets) {
      for (size_t at = text.find(secret); at != std::string_view::npos;
           at = text.find(secret, at + 1)) {
        found.push_back({at, at + secret.size()});
      }
    }
  }
  for (const Marker& marker : kMarkers) find_marked(text, marker, found);
  std::sort(found.begin(), found.end(), [](Range a, Range b) { return a.begin < b.begin; });

  std::string out;
  out.reserve(text.size());
  size_t kept = 0;  // `text` up to here is in `out` or was replaced
  for (size_t i = 0; i < found.size();) {
    const size_t begin = found[i].begin;
    size_t end = found[i].end;
    for (++i; i < found.size() && found[i].begin < end; ++i) end = std::max(end, found[i].end);
    out.append(text.substr(kept, begin - kept)).append(kRedacted);
    kept = end;
  }
  out.append(text.substr(kept));
  return out;
}

namespace {

void append_line(fmt::memory_buffer& out, const Redactor& redactor, LogLevel level,
                 std::string_view room, std::string_view message, Logger::Fields fields) {
  auto it = std::back_inserter(out);
  const auto now = std::chrono::system_clock::now();
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  fmt::format_to(it, R"({{"time":"{:%FT%T}.{:03}Z","level":"{}","room":)",
                 fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms, name(level));
  append_json_string(out, room);
  out.append(std::string_view(",\"message\":"));
  // Redacted first: a secret need not be valid UTF-8.
  append_json_string(out, to_valid_utf8(redactor.redact(message)));
  for (const LogField& field : fields) {
    out.push_back(',');
    append_json_string(out, field.key);
    out.push_back(':');
    if (const auto* text = std::get_if<std::string_view>(&field.value)) {
      append_json_string(out, to_valid_utf8(redactor.redact(*text)));
    } else if (const auto* flag = std::get_if<bool>(&field.value)) {
      out.append(std::string_view(*flag ? "true" : "false"));
    } else if (const auto* whole = std::get_if<int64_t>(&field.value)) {
      fmt::format_to(it, "{}", *whole);
    } else if (const auto* natural = std::get_if<uint64_t>(&field.value)) {
      fmt::format_to(it, "{}", *natural);
    } else if (const double real = std::get<double>(field.value); std::isfinite(real)) {
      fmt::format_to(it, "{}", real);
    } else {
      out.append(std::string_view("null"));  // JSON has no NaN and no infinity
    }
  }
  out.append(std::string_view("}\n"));
}

// One write(2) per line wherever the kernel takes it whole, so that lines of several processes do
// not mix.
void write_each_line(int fd, std::string_view lines) {
  while (!lines.empty()) {
    const size_t size = lines.find('\n') + 1;
    // There is nowhere to report that the log cannot be written.
    [[maybe_unused]] const auto ignored = write_all(fd, ByteView(lines.data(), size));
    lines.remove_prefix(size);
  }
}

}  // namespace

// The lines on their way to a descriptor, and the thread that writes them.
class Logger::Sink {
 public:
  Sink() = default;  // takes no line
  Sink(int fd, Fd owned, LogLevel level)
      : level_(level), owned_(std::move(owned)), fd_(fd), writer_([this] { write_lines(); }) {}
  ~Sink() {
    if (!writer_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    writer_.join();
  }

  LogLevel level() const { return level_; }
  Redactor& redactor() { return redactor_; }

  void put(std::string_view line) {
    const std::lock_guard lock(mutex_);
    if (queued_.size() >= kMaxLogQueued) {
      ++dropped_;
      return;
    }
    // While the writer has lines it looks for more by itself.
    if (queued_.empty() && !writing_) changed_.notify_all();
    queued_ += line;
  }

  void flush() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return queued_.empty() && !writing_; });
  }

 private:
  void write_lines() {
    std::string lines;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !queued_.empty() || ending_; });
      if (queued_.empty()) return;
      lines.swap(queued_);
      const uint64_t dropped = std::exchange(dropped_, 0);
      writing_ = true;
      lock.unlock();
      if (dropped > 0) {
        fmt::memory_buffer note;
        append_line(note, redactor_, LogLevel::kWarn, "base",
                    "lines are missing here: the log is written too slowly", {{"lines", dropped}});
        lines.append(note.data(), note.size());
      }
      escape_unprintable(lines);
      write_each_line(fd_, lines);
      lines.clear();
      lock.lock();
      writing_ = false;
      if (queued_.empty()) changed_.notify_all();  // for flush()
    }
  }

  const LogLevel level_ = LogLevel::kOff;
  const Fd owned_;
  const int fd_ = -1;
  Redactor redactor_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string queued_;    // whole lines
  uint64_t dropped_ = 0;  // lines that came when `queued_` was full
  bool writing_ = false;
  bool ending_ = false;
  std::thread writer_;
};

Logger::Logger() : sink_(std::make_shared<Sink>()) {}
Logger::Logger(std::shared_ptr<Sink> sink) : sink_(std::move(sink)) {}

Logger Logger::to_fd(int fd, LogLevel level) {
  return Logger(std::make_shared<Sink>(fd, Fd(), level));
}

Logger Logger::to_file(const std::string& path, LogLevel level) {
  Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600));
  // A file that was there before may have had another mode.
  if (!file || ::fchmod(file.get(), 0600) != 0) {
    throw std::runtime_error(errno_error("cannot open the log file " + path, errno).message);
  }
  const int fd = file.get();
  return Logger(std::make_shared<Sink>(fd, std::move(file), level));
}

Redactor& Logger::redactor() const {
  return sink_->redactor();
}

void Logger::flush() const {
  sink_->flush();
}

void Logger::write(LogLevel level, std::string_view room, std::string_view message,
                   Fields fields) const {
  if (level < sink_->level()) return;
  fmt::memory_buffer line;
  append_line(line, sink_->redactor(), level, room, message, fields);
  sink_->put({line.data(), line.size()});
}

void Logger::debug(std::string_view r, std::string_view m, Fields f) const {
  write(LogLevel::kDebug, r, m, f);
}
void Logger::info(std::string_view r, std::string_view m, Fields f) const {
  write(LogLevel::kInfo, r, m, f);
}
void Logger::warn(std::string_view r, std::string_view m, Fields f) const {
  write(LogLevel::kWarn, r, m, f);
}
void Logger::error(std::string_view r, std::string_view m, Fields f) const {
  write(LogLevel::kError, r, m, f);
}

}  // namespace sluice
