// Structured log: one JSON object per line, secrets replaced before a line is written.
//
//   Logger log = Logger::to_fd(2, LogLevel::kInfo);
//   log.redactor().add_secret(api_key);
//   log.info("gate", "call parked", {{"rollout", id.value}, {"bytes", body.size()}});
//
// A Logger is a handle to a shared sink: copy it to whoever needs to log; there is no global one.
// Any thread, and none waits for the disk: a line is made by whoever logs it and written by a
// thread of the sink. The end of the last handle waits until all is written; a process that is
// killed may lose its last lines.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

namespace sluice {

// Replaces known secrets (as they are and as JSON quotes them) and what looks like one (bearer
// tokens, "sk-..." keys) by "[redacted]". Any thread.
class Redactor {
 public:
  Redactor();
  ~Redactor();
  // Secrets shorter than 6 characters are ignored: replacing them would hide half of each line.
  void add_secret(std::string_view secret);
  std::string redact(std::string_view text) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// So much waits to be written; what comes beyond it is dropped, and a line says how many were.
inline constexpr size_t kMaxLogQueued = 1 << 20;

enum class LogLevel : uint8_t { kDebug, kInfo, kWarn, kError, kOff };

struct LogField {
  std::string_view key;
  std::variant<std::string_view, int64_t, uint64_t, double, bool> value;

  LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(std::string_view(v)) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string_view(v)) {}
  LogField(std::string_view k, std::same_as<bool> auto v) : key(k), value(v) {}
  template <class N>
    requires(std::integral<N> && !std::same_as<N, bool>)
  LogField(std::string_view k, N v)
      : key(k),
        value(static_cast<std::conditional_t<std::unsigned_integral<N>, uint64_t, int64_t>>(v)) {}
  LogField(std::string_view k, std::floating_point auto v)
      : key(k), value(static_cast<double>(v)) {}
};

class Logger {
 public:
  using Fields = std::initializer_list<LogField>;

  Logger();  // writes nothing
  static Logger to_fd(int fd, LogLevel level);
  // Appends to `path`, mode 0600. Throws std::runtime_error if it cannot be opened (start-up
  // configuration).
  static Logger to_file(const std::string& path, LogLevel level);

  void debug(std::string_view room, std::string_view message, Fields fields = {}) const;
  void info(std::string_view room, std::string_view message, Fields fields = {}) const;
  void warn(std::string_view room, std::string_view message, Fields fields = {}) const;
  void error(std::string_view room, std::string_view message, Fields fields = {}) const;

  // Returns when everything logged before is written.
  void flush() const;

  Redactor& redactor() const;

 private:
  class Sink;
  explicit Logger(std::shared_ptr<Sink> sink);
  void write(LogLevel level, std::string_view room, std::string_view message, Fields fields) const;

  std::shared_ptr<Sink> sink_;
};

}  // namespace sluice
