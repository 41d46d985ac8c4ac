#include "sluice/base/log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <sys/stat.h>

#include <chrono>
#include <iterator>
#include <shared_mutex>
#include <vector>

#include "sluice/base/core/bytes.h"

namespace sluice {
namespace {

constexpr std::string_view kRedacted = "[redacted]";

bool is_token_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.' || c == '+' || c == '/' || c == '=';
}

// Replaces the run of token characters after each `marker`, if it is at least `min` long.
void redact_after(std::string& text, std::string_view marker, size_t min, bool keep_marker) {
  size_t from = 0;
  while ((from = text.find(marker, from)) != std::string::npos) {
    const size_t start = from + marker.size();
    size_t end = start;
    while (end < text.size() && is_token_char(text[end])) ++end;
    if (end - start < min) {
      from = start;
      continue;
    }
    const size_t cut = keep_marker ? start : from;
    text.replace(cut, end - cut, kRedacted);
    from = cut + kRedacted.size();
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
  const std::unique_lock lock(state_->mutex);
  state_->secrets.emplace_back(secret);
}

std::string Redactor::redact(std::string_view text) const {
  std::string out(text);
  {
    const std::shared_lock lock(state_->mutex);
    for (const std::string& secret : state_->secrets) {
      size_t from = 0;
      while ((from = out.find(secret, from)) != std::string::npos) {
        out.replace(from, secret.size(), kRedacted);
        from += kRedacted.size();
      }
    }
  }
  redact_after(out, "Bearer ", 8, /*keep_marker=*/true);
  redact_after(out, "sk-", 12, /*keep_marker=*/false);
  redact_after(out, "hf_", 16, /*keep_marker=*/false);
  redact_after(out, "e2b_", 16, /*keep_marker=*/false);
  return out;
}

struct Logger::Sink {
  explicit Sink(spdlog::sink_ptr sink, LogLevel level) : logger("sluice", std::move(sink)) {
    logger.set_pattern("%v");
    logger.set_level(spdlog_level(level));
    logger.flush_on(spdlog::level::warn);
  }
  spdlog::logger logger;
  Redactor redactor;
};

namespace {

// spdlog's own sinks know stdout and stderr; a FILE of our own serves any descriptor.
class FdSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FdSink(int fd) : fd_(fd) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // One write per line, so that lines of several processes do not mix.
    [[maybe_unused]] const auto ignored = ::write(fd_, line.data(), line.size());
  }
  void flush_() override {}

  int fd_;
};

}  // namespace

Logger::Logger() : sink_(std::make_shared<Sink>(nullptr, LogLevel::kOff)) {
  sink_->logger.sinks().clear();
}

Logger Logger::to_fd(int fd, LogLevel level) {
  Logger logger;
  logger.sink_ = std::make_shared<Sink>(std::make_shared<FdSink>(fd), level);
  return logger;
}

Logger Logger::to_file(const std::string& path, LogLevel level) {
  Logger logger;
  try {
    logger.sink_ =
        std::make_shared<Sink>(std::make_shared<spdlog::sinks::basic_file_sink_mt>(path), level);
  } catch (const spdlog::spdlog_ex& e) {
    throw std::runtime_error("cannot open the log file " + path + ": " + e.what());
  }
  ::chmod(path.c_str(), 0600);
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
  append_json_string(line, sink_->redactor.redact(to_valid_utf8(message)));
  for (const LogField& field : fields) {
    line.push_back(',');
    append_json_string(line, field.key);
    line.push_back(':');
    if (const auto* text = std::get_if<std::string_view>(&field.value)) {
      append_json_string(line, sink_->redactor.redact(to_valid_utf8(*text)));
    } else if (const auto* flag = std::get_if<bool>(&field.value)) {
      line.append(std::string_view(*flag ? "true" : "false"));
    } else if (const auto* whole = std::get_if<int64_t>(&field.value)) {
      fmt::format_to(it, "{}", *whole);
    } else {
      fmt::format_to(it, "{}", std::get<double>(field.value));
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
