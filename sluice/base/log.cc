#include "sluice/base/log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"

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
  auto it = std::back_inserter(out);
  out.push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out.append(std::string_view("\\\""));
        break;
      case '\\':
        out.append(std::string_view("\\\\"));
        break;
      case '\n':
        out.append(std::string_view("\\n"));
        break;
      case '\r':
        out.append(std::string_view("\\r"));
        break;
      case '\t':
        out.append(std::string_view("\\t"));
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          fmt::format_to(it, "\\u{:04x}", static_cast<int>(c));
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

std::string_view name(LogLevel level) {
  constexpr std::string_view names[] = {"debug", "info", "warn", "error", "off"};
  return names[static_cast<size_t>(level)];
}

spdlog::level::level_enum spdlog_level(LogLevel level) {
  constexpr spdlog::level::level_enum levels[] = {spdlog::level::debug, spdlog::level::info,
                                                  spdlog::level::warn, spdlog::level::err,
                                                  spdlog::level::off};
  return levels[static_cast<size_t>(level)];
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

struct Logger::Sink {
  Sink() : logger("sluice") { logger.set_level(spdlog::level::off); }
  Sink(spdlog::sink_ptr sink, LogLevel level) : logger("sluice", std::move(sink)) {
    logger.set_pattern("%v");
    logger.set_level(spdlog_level(level));
    logger.flush_on(spdlog::level::warn);
  }
  spdlog::logger logger;
  Redactor redactor;
};

namespace {

// spdlog's own sinks know stdout, stderr and files that they open themselves; this one writes to
// any descriptor, with one write(2) per line wherever the kernel takes it whole, so that lines of
// several processes do not mix.
class FdSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FdSink(int fd) : fd_(fd) {}
  explicit FdSink(Fd owned) : owned_(std::move(owned)), fd_(owned_.get()) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // There is nowhere to report that the log cannot be written.
    [[maybe_unused]] const auto ignored = write_all(fd_, ByteView(line.data(), line.size()));
  }
  void flush_() override {}

  Fd owned_;
  int fd_;
};

}  // namespace

Logger::Logger() : sink_(std::make_shared<Sink>()) {}

Logger Logger::to_fd(int fd, LogLevel level) {
  Logger logger;
  logger.sink_ = std::make_shared<Sink>(std::make_shared<FdSink>(fd), level);
  return logger;
}

Logger Logger::to_file(const std::string& path, LogLevel level) {
  Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600));
  // A file that was there before may have had another mode.
  if (!file || ::fchmod(file.get(), 0600) != 0) {
    throw std::runtime_error(errno_error("cannot open the log file " + path, errno).message);
  }
  Logger logger;
  logger.sink_ = std::make_shared<Sink>(std::make_shared<FdSink>(std::move(file)), level);
  return logger;
}

Redactor& Logger::redactor() const {
  return sink_->redactor;
}

void Logger::write(LogLevel level, std::string_view room, std::string_view message,
                   Fields fields) const {
  if (!sink_->logger.should_log(spdlog_level(level))) return;
  fmt::memory_buffer line;
  auto it = std::back_inserter(line);
  const auto now = std::chrono::system_clock::now();
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  fmt::format_to(it, R"({{"time":"{:%FT%T}.{:03}Z","level":"{}","room":)",
                 fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms, name(level));
  append_json_string(line, room);
  line.append(std::string_view(",\"message\":"));
  // Redacted first: a secret need not be valid UTF-8.
  append_json_string(line, to_valid_utf8(sink_->redactor.redact(message)));
  for (const LogField& field : fields) {
    line.push_back(',');
    append_json_string(line, field.key);
    line.push_back(':');
    if (const auto* text = std::get_if<std::string_view>(&field.value)) {
      append_json_string(line, to_valid_utf8(sink_->redactor.redact(*text)));
    } else if (const auto* flag = std::get_if<bool>(&field.value)) {
      line.append(std::string_view(*flag ? "true" : "false"));
    } else if (const auto* whole = std::get_if<int64_t>(&field.value)) {
      fmt::format_to(it, "{}", *whole);
    } else if (const auto* natural = std::get_if<uint64_t>(&field.value)) {
      fmt::format_to(it, "{}", *natural);
    } else if (const double real = std::get<double>(field.value); std::isfinite(real)) {
      fmt::format_to(it, "{}", real);
    } else {
      line.append(std::string_view("null"));  // JSON has no NaN and no infinity
    }
  }
  line.push_back('}');
  sink_->logger.log(spdlog_level(level), std::string_view(line.data(), line.size()));
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
