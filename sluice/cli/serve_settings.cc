#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sluice/agent/registry.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/toml.h"
#include "sluice/cli/lines.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/serve.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMaxFile = 1 << 20;
constexpr double kMaxSeconds = 30.0 * 24 * 3600;
constexpr int64_t kMiB = 1 << 20;

Duration to_duration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// "max_sessions" is --max-sessions.
std::string flag_name(std::string_view key) {
  std::string name = "--" + std::string(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

bool is_true(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text == "true" || text == "1" || text == "yes";
}

// Reads each setting from the flags if they have it, else from the file.
class Reader {
 public:
  Reader(const ServeFlags& flags, TomlReader file) : flags_(flags), file_(std::move(file)) {}

  Result<void> read(ServeSettings& out) {
    read_addresses(out);
    read_limits(out);
    read_access(out);
    read_rollouts(out);
    SLUICE_TRY_VOID(file_.finish());
    const env::AccessOptions& access = out.server.access;
    if (out.backend == "local" && out.defaults.sandbox.network == sandbox::Network::kOpen &&
        (access.keys.empty() || access.policy == env::KeyPolicy::kOff)) {
      fail(
          "--network open: local sandboxes then share this machine's network, and an agent could "
          "reset the environment it runs in; give the server keys (--key-file)");
    }
    if (error_) return *error_;
    return {};
  }

 private:
  void fail(std::string message) {
    if (!error_) {
      error_ = Error(ErrorCode::kInvalidArgument, std::move(message), ErrorOrigin::kCaller);
    }
  }

  std::optional<std::string> text(const std::optional<std::string>& flag, std::string_view key) {
    auto in_file = file_.string(key);
    return flag ? flag : in_file;
  }

  std::optional<std::string> one_of(const std::optional<std::string>& flag, std::string_view key,
                                    const std::vector<std::string_view>& allowed) {
    auto in_file = file_.one_of(key, allowed);
    return flag ? flag : in_file;
  }

  template <class N>
  void number(const std::optional<N>& flag, std::string_view key, int64_t min, int64_t max,
              N& into) {
    const auto in_file = file_.integer(key, min, max);
    if (flag) {
      if (static_cast<int64_t>(*flag) < min || static_cast<int64_t>(*flag) > max) {
        fail(fmt::format("{}: must be from {} to {}", flag_name(key), min, max));
      }
      into = *flag;
    } else if (in_file) {
      into = static_cast<N>(*in_file);
    }
  }

  std::optional<Duration> seconds(const std::optional<double>& flag, std::string_view key) {
    const auto in_file = file_.seconds(key, 1ms, to_duration(kMaxSeconds));
    if (!flag) return in_file;
    if (!(*flag >= 0.001 && *flag <= kMaxSeconds)) {
      fail(fmt::format("{}: must be from 0.001 to {:.0f}", flag_name(key), kMaxSeconds));
      return std::nullopt;
    }
    return to_duration(*flag);
  }

  double decimal(const std::optional<double>& flag, std::string_view key, double max) {
    const auto in_file = file_.number(key, 0, max);
    if (!flag) return in_file.value_or(0);
    if (*flag >= 0 && *flag <= max) return *flag;
    fail(fmt::format("{}: must be from 0 to {:.0f}", flag_name(key), max));
    return 0;
  }

  std::vector<std::string> list(const std::vector<std::string>& flag, std::string_view key) {
    auto in_file = file_.strings(key);
    return flag.empty() ? in_file : flag;
  }

  void read_addresses(ServeSettings& out) {
    out.host = text(flags_.host, "host").value_or(out.host);
    number<uint16_t>(flags_.port, "port", 0, 65535, out.port);
    if (auto mode = text(flags_.mode, "mode")) {
      auto parsed = env::parse_server_mode(*mode);
      if (parsed) {
        out.server.mode = *parsed;
      } else {
        fail(parsed.error().message);
      }
    }
    out.log = text(flags_.log, "log").value_or("");
    const auto level = one_of(flags_.log_level, "log_level", {"debug", "info", "warn", "error"});
    if (level == "debug") out.log_level = LogLevel::kDebug;
    if (level == "warn") out.log_level = LogLevel::kWarn;
    if (level == "error") out.log_level = LogLevel::kError;
    out.data = text(flags_.data, "data").value_or(state_directory() + "/serve");
  }

  void read_limits(ServeSettings& out) {
    env::ServerOptions& server = out.server;
    server.max_sessions = 4;
    number<size_t>(flags_.max_sessions, "max_sessions", 1, 1'000'000, server.max_sessions);
    number<size_t>(flags_.max_rollouts, "max_rollouts", 1, 1'000'000, out.max_rollouts);
    number<size_t>(flags_.shards, "shards", 1, 64, out.shards);
    server.session_timeout = seconds(flags_.session_timeout_s, "session_timeout_s");
    server.http_session_ttl =
        seconds(flags_.http_session_ttl_s, "http_session_ttl_s").value_or(server.http_session_ttl);
    server.max_call_time =
        seconds(flags_.max_call_time_s, "max_call_time_s").value_or(server.max_call_time);
    out.step_timeout = seconds(flags_.step_timeout_s, "step_timeout_s").value_or(out.step_timeout);
    out.drain = seconds(flags_.drain_s, "drain_s").value_or(out.drain);
    size_t megabytes = 16;
    number<size_t>(flags_.max_message_mb, "max_message_mb", 1, 1024, megabytes);
    server.http.body_bytes = server.websocket.message_bytes = megabytes << 20;
    server.http.bodies_bytes = std::max(server.http.bodies_bytes, 4 * server.http.body_bytes);
    const auto gone = one_of(flags_.on_client_gone, "on_client_gone", {"cancel", "finish"});
    if (gone == "finish") server.on_client_gone = env::OnClientGone::kFinish;
  }

  void read_access(ServeSettings& out) {
    env::AccessOptions& access = out.server.access;
    if (const auto path = text(flags_.key_file, "key_file")) {
      auto keys = read_file(*path, kMaxFile);
      if (keys) {
        access.keys = lines_of(*keys, '\n');
        if (access.keys.empty()) fail(*path + ": holds no key; one on each line");
      } else {
        fail("key file: " + keys.error().message);
      }
    }
    for (std::string& key : lines_of(out.variables("SLUICE_KEYS"), ',')) {
      access.keys.push_back(std::move(key));
    }
    const bool file_says_none = file_.boolean("no_keys").value_or(false);
    if (flags_.no_keys || file_says_none) access.policy = env::KeyPolicy::kOff;
    access.allowed_origins = list(flags_.allow_origins, "allow_origins");
    access.allowed_hosts = list(flags_.allow_hosts, "allow_hosts");
    const auto web = file_.boolean("web");
    std::string asked = flags_.web.value_or("");
    if (asked.empty()) asked = out.variables("ENABLE_WEB_INTERFACE");
    if (asked.empty() ? web.value_or(false) : is_true(asked)) {
      out.server.web = env::WebInterface::kOn;
    }
    std::string readme = text(flags_.readme, "readme").value_or("");
    if (readme.empty()) readme = out.variables("ENV_README_PATH");
    // Where images of OpenEnv's environments have it.
    constexpr char kUsual[] = "/app/README.md";
    if (readme.empty() && ::access(kUsual, R_OK) == 0) readme = kUsual;
    if (!readme.empty()) {
      auto content = read_file(readme, kMaxFile);
      if (content) {
        out.server.readme = to_valid_utf8(*content);
      } else {
        fail("readme: " + content.error().message);
      }
    }
  }

  void read_rollouts(ServeSettings& out) {
    out.backend = text(flags_.backend, "backend").value_or(out.backend);
    out.trainer_listen = text(flags_.trainer_listen, "trainer_listen").value_or("");
    if (const auto policy = text(flags_.policy, "policy")) {
      if (const auto fine = check_trainer_policy(*policy); !fine) fail(fine.error().message);
      if (out.trainer_listen.empty()) out.trainer_listen = kTrainerListen;
    }
    out.trainer_text = flags_.trainer_text || file_.boolean("trainer_text").value_or(false);
    out.trainer_wait = seconds(flags_.trainer_wait_s, "trainer_wait_s").value_or(out.trainer_wait);
    out.agents_directory =
        text(flags_.agents_directory, "agents_dir").value_or(agent::default_agents_directory());
    out.templates_directory = text(flags_.templates_directory, "templates_dir").value_or("");
    rollout::Task& task = out.defaults;
    const auto network = one_of(flags_.network, "network", {"none", "setup", "open"});
    if (network == "setup") task.sandbox.network = sandbox::Network::kSetup;
    if (network == "open") task.sandbox.network = sandbox::Network::kOpen;
    task.sandbox.setup_hosts = list(flags_.setup_hosts, "setup_hosts");
    const auto approvals = one_of(flags_.approvals, "approvals", {"default", "bypass"});
    if (approvals == "bypass") task.approvals = agent::Approvals::kBypass;
    task.setup_timeout = file_.seconds("setup_timeout_s", 1ms, 24h).value_or(task.setup_timeout);
    task.verify_timeout = file_.seconds("verify_timeout_s", 1ms, 24h).value_or(task.verify_timeout);
    // Under its older name.
    if (const auto calls = file_.integer("calls", 1, 1'000'000)) {
      task.budget.calls = static_cast<uint64_t>(*calls);
    }
    rollout::read_budget(file_, task.budget);
    rollout::read_gate(file_, task.gate);
    set_rules(flags_.rules, task.gate);
    read_totals(out);
    auto in = file_.table("limits");
    if (!in) return;
    const auto strictness = in->one_of("enforce", {"require", "prefer"}) == "prefer"
                                ? sandbox::Strictness::kPrefer
                                : sandbox::Strictness::kRequire;
    const auto limit = [&](std::string_view key, int64_t max, int64_t unit,
                           std::optional<sandbox::Limit>& into) {
      if (const auto value = in->integer(key, 1, max)) {
        into = sandbox::Limit{static_cast<uint64_t>(*value * unit), strictness};
      }
    };
    sandbox::Limits& limits = task.sandbox.limits;
    limit("memory_mb", 1 << 24, kMiB, limits.memory_bytes);
    limit("disk_mb", 1 << 24, kMiB, limits.disk_bytes);
    limit("pids", 1 << 22, 1, limits.pids);
    limit("open_files", 1 << 20, 1, limits.open_files);
    if (const auto cpus = in->number("cpus", 0.01, 4096)) {
      limits.cpu_millis = sandbox::Limit{static_cast<uint64_t>(*cpus * 1000), strictness};
    }
  }

  void read_totals(ServeSettings& out) {
    constexpr int64_t kMost = int64_t{1} << 50;
    const GateLimitFlags& flags = flags_.limits;
    gate::TotalBudget& total = out.total;
    number<uint64_t>(flags.total_calls, "total_calls", 0, kMost, total.calls);
    number<uint32_t>(flags.total_open_calls, "total_open_calls", 0, UINT32_MAX, total.open_calls);
    number<uint64_t>(flags.total_tokens, "total_tokens", 0, kMost, total.tokens);
    number<uint64_t>(flags.total_bytes, "total_bytes", 0, kMost, total.bytes);
    total.calls_per_second =
        decimal(flags.total_calls_per_second, "total_calls_per_second", kMaxTotalRate);
    total.time = to_duration(decimal(flags.total_time_s, "total_time_s", kMaxTotalSeconds));
    const auto names = list(flags.tool_names, "tool_names");
    out.tool_names = {names.begin(), names.end()};
  }

  const ServeFlags& flags_;
  TomlReader file_;
  std::optional<Error> error_;
};

}  // namespace

Result<ServeSettings> make_settings(const ServeFlags& flags,
                                    const env::coding::Variables& variables) {
  ServeSettings settings;
  settings.variables = variables;
  std::string text;
  if (!flags.config.empty()) {
    auto read = read_file(flags.config, kMaxFile);
    if (!read) return std::move(read).error().within("--config").from(ErrorOrigin::kCaller);
    text = std::move(*read);
  }
  SLUICE_TRY(TomlReader file, TomlReader::parse(text, flags.config));
  SLUICE_TRY_VOID(Reader(flags, std::move(file)).read(settings));
  return settings;
}

}  // namespace sluice::cli
