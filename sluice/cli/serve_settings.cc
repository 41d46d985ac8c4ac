#include "sluice/cli/serve_settings.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <CLI/CLI.hpp>

#include "sluice/agent/registry.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/toml.h"
#include "sluice/cli/env_file.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/shared_flags.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMaxFile = 1 << 20;
constexpr double kMaxSeconds = 30.0 * 24 * 3600;

constexpr char kFooter[] =
    R"(Every setting may stand in the TOML file under its flag's name with underscores
(max_sessions = 8), and besides them: no_keys, web (true or false), calls (LLM calls a rollout may
make), setup_timeout_s, verify_timeout_s (per command) and a table [limits] of sandboxes (memory_mb,
swap_mb, disk_mb, pids, open_files, cpus, enforce). Flags come before variables, variables before the file. What
--env-file says of a variable counts as if it were set, where it is not. Tables [budget] and [gate] are
as in a task (docs/tasks.md); accept, delivery and max_version_lag stand in the latter.

Model endpoints that run_rollout may name (endpoint=...), and what configures them:
  vllm       VLLM_URL, VLLM_API_KEY, VLLM_MODEL
  openai     OPENAI_BASE_URL, OPENAI_API_KEY, OPENAI_MODEL
  hf_router  HF_ROUTER_BASE_URL, HF_ROUTER_API_KEY, HF_ROUTER_MODEL

Keys of clients: one on each line of --key-file, or separated by commas in SLUICE_KEYS. They are
sent as "Authorization: Bearer KEY", or as the password in ws://user:KEY@host. On loopback a server
without keys asks for none; elsewhere it does not start without keys unless --no-keys is given.
The trainer API's keys are SLUICE_TRAINER_KEY and SLUICE_OPERATOR_KEY; what is not set is made and
written to trainer-keys below --data (docs/trainer-api.md).
E2B_API_KEY is not read: this build has no remote backends.

Where things are kept that no flag names: bundles of agents and unpacked images in SLUICE_CACHE_DIR,
else in sluice below XDG_CACHE_HOME [~/.cache]; without --data and --agents-dir, traces in sluice below
XDG_STATE_HOME [~/.local/state] and agent specs in sluice/agents below XDG_CONFIG_HOME [~/.config].

SIGTERM stops it in order: no new sessions, what runs has --drain-s to end, then it is cancelled. A
second signal cancels at once. Documents: docs/openenv.md.)";

void load_variables(const std::string& path) {
  const auto loaded = load_env_file(path);
  if (!loaded) throw CLI::ValidationError("--env-file", loaded.error().message);
}

bool is_true(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text == "true" || text == "1" || text == "yes";
}

// A list of settings is gone through twice: first each call declares a flag and its variable to the
// command line, and after read_from() it reads what they say, else what the file does. What nothing
// is said of stays as it is.
class Settings {
 public:
  explicit Settings(CLI::App* command) : command_(command) {}

  void read_from(TomlReader file) { file_.emplace(std::move(file)); }
  bool declaring() const { return !file_; }
  TomlReader& file() { return *file_; }

  void text(const char* key, std::string& into, const char* help, const char* variable = "") {
    if (declares(key, help, variable)) return;
    take(into, given(key), file_->string(key));
  }

  void choice(const char* key, const std::vector<std::string_view>& allowed, std::string& into,
              const char* help, const char* variable = "") {
    if (CLI::Option* flag = declares(key, help, variable)) {
      flag->check(CLI::IsMember(std::vector<std::string>(allowed.begin(), allowed.end())));
      return;
    }
    take(into, given(key), file_->one_of(key, allowed));
  }

  template <class N>
  void number(const char* key, int64_t min, int64_t max, N& into, const char* help,
              const char* variable = "") {
    if (declares(key, help, variable)) return;
    auto value = file_->integer(key, min, max);
    if (const auto flag = given(key)) {
      value = parse_decimal(*flag);
      if (!value || *value < min || *value > max) {
        return fail(fmt::format("{}: must be from {} to {}", flag_name(key), min, max));
      }
    }
    if (value) into = static_cast<N>(*value);
  }

  template <class D>
  void seconds(const char* key, D& into, const char* help) {
    if (declares(key, help, "")) return;
    auto value = file_->seconds(key, 1ms, from_seconds(kMaxSeconds));
    if (const auto flag = given(key)) {
      double number = 0;
      const char* const end = flag->data() + flag->size();
      const auto [at, error] = std::from_chars(flag->data(), end, number);
      if (error != std::errc() || at != end || !(number >= 0.001 && number <= kMaxSeconds)) {
        return fail(fmt::format("{}: must be from 0.001 to {:.0f}", flag_name(key), kMaxSeconds));
      }
      value = from_seconds(number);
    }
    if (value) into = *value;
  }

  void list(const char* key, std::vector<std::string>& into, const char* help) {
    if (CLI::Option* flag = declares(key, help, "")) {
      flag->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
      return;
    }
    into = file_->strings(key);
    if (!given_[key].empty()) into = given_[key];
  }

  // For what the file says otherwise.
  void flag(const char* key, std::string& into, const char* help, const char* variable) {
    if (!declares(key, help, variable)) take(into, given(key), std::nullopt);
  }

  // Without a value; in the file true or false.
  void yes(const char* key, bool& into, const char* help) {
    if (declaring()) {
      command_->add_flag(flag_name(key), said_[key], help);
    } else {
      into = file_->boolean(key).value_or(false) || said_[key];
    }
  }

  void fail(std::string message) {
    if (!error_) {
      error_ = Error(ErrorCode::kInvalidArgument, std::move(message), ErrorOrigin::kCaller);
    }
  }
  // The first mistake of the file, else of the flags.
  Result<void> finish() {
    SLUICE_TRY_VOID(file_->finish());
    if (error_) return *error_;
    return {};
  }

  CLI::App* command() { return command_; }
  GateRuleFlags rules;
  GateLimitFlags limits;

 private:
  CLI::Option* declares(const char* key, const char* help, const char* variable) {
    if (!declaring()) return nullptr;
    CLI::Option* flag = command_->add_option(flag_name(key), given_[key], help);
    flag->expected(1)->allow_extra_args(false);
    return *variable == '\0' ? flag : flag->envname(variable);
  }
  std::optional<std::string> given(const std::string& key) {
    const auto& values = given_[key];
    return values.empty() ? std::nullopt : std::optional(values.back());
  }
  static void take(std::string& into, std::optional<std::string> flag,
                   std::optional<std::string> in_file) {
    if (flag || in_file) into = flag ? std::move(*flag) : std::move(*in_file);
  }

  CLI::App* const command_;
  std::optional<TomlReader> file_;
  std::map<std::string, std::vector<std::string>> given_;
  std::map<std::string, bool> said_;
  std::optional<Error> error_;
};

void read_addresses(Settings& in, ServeSettings& out) {
  std::string mode = "simulation", level = "info";
  out.data = state_directory() + "/serve";
  in.text("host", out.host, "the address to listen on [127.0.0.1]", "SLUICE_HOST");
  in.number("port", 0, 65535, out.port, "the port; 0 takes a free one [8000]", "PORT");
  in.text("mode", mode, "simulation, or production: no reset, step and state over HTTP");
  in.text("data", out.data, "where traces are kept [the state directory]", "SLUICE_DATA_DIR");
  in.text("log", out.log, "append the log to this file [stderr]");
  in.choice("log_level", {"debug", "info", "warn", "error"}, level,
            "debug, info, warn or error [info]");
  if (in.declaring()) return;
  auto parsed = env::parse_server_mode(mode);
  if (parsed) {
    out.server.mode = *parsed;
  } else {
    in.fail(parsed.error().message);
  }
  if (level == "debug") out.log_level = LogLevel::kDebug;
  if (level == "warn") out.log_level = LogLevel::kWarn;
  if (level == "error") out.log_level = LogLevel::kError;
}

void read_limits(Settings& in, ServeSettings& out) {
  env::ServerOptions& server = out.server;
  server.max_sessions = 4;
  size_t megabytes = 16;
  std::string gone;
  in.number("max_sessions", 1, 1'000'000, server.max_sessions, "sessions at a time [4]",
            "MAX_CONCURRENT_ENVS");
  in.number("max_rollouts", 1, 1'000'000, out.max_rollouts, "rollouts at a time; more wait [32]",
            "SLUICE_MAX_ROLLOUTS");
  in.number(
      "retries", 0, 100, out.retries,
      "further attempts after infrastructure failures, and up to 2 of them where whoever answers "
      "could not [0]");
  in.number("shards", 1, 64, out.shards, "threads that rollouts live on [cores, at most 4]");
  in.seconds("session_timeout_s", server.session_timeout, "ends sessions unused so long [never]");
  in.seconds("http_session_ttl_s", server.http_session_ttl,
             "the same for MCP sessions over HTTP, which have no connection [1800]");
  in.seconds("step_timeout_s", out.step_timeout, "a step's time, unless it names one [900]");
  in.seconds(
      "upstream_silence_s", out.upstream_silence,
      "an endpoint that says nothing for so long has failed [600 before an answer, 300 in it]");
  in.seconds("max_call_time_s", server.max_call_time, "no call takes longer [21600]");
  in.number("max_message_mb", 1, 1024, megabytes, "bodies and frames [16]");
  in.choice("on_client_gone", {"cancel", "finish"}, gone,
            "what of a client that left: cancel, or finish");
  in.seconds("drain_s", out.drain, "what calls have to end after SIGTERM [30]");
  server.http.body_bytes = server.websocket.message_bytes = megabytes << 20;
  server.http.bodies_bytes = std::max(server.http.bodies_bytes, 4 * server.http.body_bytes);
  if (gone == "finish") server.on_client_gone = env::OnClientGone::kFinish;
}

void read_access(Settings& in, ServeSettings& out) {
  env::AccessOptions& access = out.server.access;
  std::string key_file, web, readme;
  bool no_keys = false;
  in.text("key_file", key_file, "keys of clients, one on each line", "SLUICE_KEY_FILE");
  in.yes("no_keys", no_keys, "ask for no key, wherever it listens");
  in.list("allow_origins", access.allowed_origins, "pages of other origins that may talk to it");
  in.list("allow_hosts", access.allowed_hosts, "names of a loopback server besides localhost");
  in.list(
      "allow_upstreams", out.allow_upstreams,
      "hosts, as in 10.0.0.5:8000, that clients may name in a base_url although their addresses "
      "are private or link-local; those of the variables below they may");
  in.flag("web", web, "true: the page's routes below /web", "ENABLE_WEB_INTERFACE");
  in.text("readme", readme, "what /web/metadata shows [/app/README.md]", "ENV_README_PATH");
  if (in.declaring()) return;
  if (!key_file.empty()) {
    auto keys = read_file(key_file, kMaxFile);
    if (keys) {
      access.keys = lines_of(*keys, '\n');
      if (access.keys.empty()) in.fail(key_file + ": holds no key; one on each line");
    } else {
      in.fail("key file: " + keys.error().message);
    }
  }
  for (std::string& key : lines_of(out.variables("SLUICE_KEYS"), ',')) {
    access.keys.push_back(std::move(key));
  }
  if (no_keys) access.policy = env::KeyPolicy::kOff;
  const auto web_in_file = in.file().boolean("web");
  if (web.empty() ? web_in_file.value_or(false) : is_true(web)) {
    out.server.web = env::WebInterface::kOn;
  }
  // Where images of OpenEnv's environments have it.
  constexpr char kUsual[] = "/app/README.md";
  if (readme.empty() && ::access(kUsual, R_OK) == 0) readme = kUsual;
  if (readme.empty()) return;
  auto content = read_file(readme, kMaxFile);
  if (content) {
    out.server.readme = to_valid_utf8(*content);
  } else {
    in.fail("readme: " + content.error().message);
  }
}

void read_sandboxes(Settings& in, ServeSettings& out) {
  rollout::Task& task = out.defaults;
  std::string network, approvals;
  out.agents_directory = agent::default_agents_directory();
  in.text("backend", out.backend, "where sandboxes come from [local]", "SLUICE_BACKEND");
  in.choice("network", {"none", "setup", "open"}, network,
            "what sandboxes reach: none, setup or open [none]", "SLUICE_NETWORK");
  in.list("setup_hosts", task.sandbox.setup_hosts,
          "with --network setup: what setup commands may reach");
  in.choice("approvals", {"default", "bypass"}, approvals,
            "what agents would ask about: default, or bypass");
  in.number("context_window", 1, agent::kMostTokens, task.context_window,
            "the model's window in tokens, as agents are told [131072]");
  in.number("max_output", 1, agent::kMostTokens, task.max_output,
            "the most tokens of one answer, as agents are told; stands in for max_tokens_cap where "
            "a client leaves that at its default [8192]");
  in.text("agents_dir", out.agents_directory, "where your agent specs are");
  in.text("templates_dir", out.templates_directory,
          "images that clients may name: NAME, a root directory, or NAME.tar [none]",
          "SLUICE_TEMPLATES_DIR");
  if (in.declaring()) return;
  task.sandbox.network = rollout::network_named(network);
  task.approvals = rollout::approvals_named(approvals);
  if (const auto fits = agent::check_tokens(task); !fits) in.fail(fits.error().message);
  TomlReader& file = in.file();
  task.setup_timeout = file.seconds("setup_timeout_s", 1ms, 24h).value_or(task.setup_timeout);
  task.verify.timeout = file.seconds("verify_timeout_s", 1ms, 24h).value_or(task.verify.timeout);
  if (auto limits = file.table("limits")) rollout::read_limits(*limits, task.sandbox.limits);
  const env::AccessOptions& access = out.server.access;
  if (out.backend == "local" && task.sandbox.network == sandbox::Network::kOpen &&
      (access.keys.empty() || access.policy == env::KeyPolicy::kOff)) {
    in.fail(
        "--network open: local sandboxes then share this machine's network, and an agent could "
        "reset the environment it runs in; give the server keys (--key-file)");
  }
}

void read_gate(Settings& in, ServeSettings& out) {
  std::string policy;
  bool text = false;
  in.text("policy", policy,
          "who answers those of the mode interception_gate: trainer, the only one here");
  in.text("trainer_listen", out.trainer_listen,
          "the address of the trainer API, for rollouts of the mode interception_gate [none; "
          "with --policy trainer 127.0.0.1:8790]",
          "SLUICE_TRAINER_LISTEN");
  in.yes("trainer_text", text, "take its sampled answers without token ids and logprobs, too");
  in.seconds("trainer_wait_s", out.trainer_wait, "what such a rollout waits for a trainer [30]");
  in.seconds("trainer_lease_s", out.gate.trainer_lease,
             "a trainer who says nothing for so long while a call waits could not answer [60]");
  in.seconds("upstream_patience_s", out.gate.upstream_patience,
             "an upstream that answers the gate itself so long behind the agent's end could "
             "answer [65]");
  if (in.declaring()) {
    add_rule_flags(*in.command(), in.rules);
    add_limit_flags(*in.command(), in.limits);
    return;
  }
  if (!policy.empty()) {
    if (const auto fine = check_trainer_policy(policy); !fine) in.fail(fine.error().message);
    if (out.trainer_listen.empty()) out.trainer_listen = kTrainerListen;
  }
  if (text) out.gate.tokens = gate::OriginRule::Tokens::kWaived;
  TomlReader& file = in.file();
  // Under its older name.
  if (const auto calls = file.integer("calls", 1, 1'000'000)) {
    out.defaults.budget.calls = static_cast<uint64_t>(*calls);
  }
  rollout::read_budget(file, out.defaults.budget);
  rollout::read_gate(file, out.defaults.gate);
  set_rules(in.rules, out.defaults.gate);
  GateLimitFlags limits = in.limits;
  each_limit(limits, [&](const char* key, double most, auto& into, const char*) {
    using Number = std::remove_reference_t<decltype(into)>;
    std::optional<Number> in_file;
    if constexpr (std::is_floating_point_v<Number>) {
      in_file = file.number(key, 0, most);
    } else if (const auto whole = file.integer(key, 0, static_cast<int64_t>(most))) {
      in_file = static_cast<Number>(*whole);
    }
    if (in_file && in.command()->count(flag_name(key)) == 0) into = *in_file;
  });
  const auto body_mb = file.integer("max_body_mb", 1, kMostBodyMb);
  if (body_mb && in.command()->count("--max-body-mb") == 0) {
    limits.max_body_mb = static_cast<uint32_t>(*body_mb);
  }
  const auto names = file.strings("tool_names");
  if (limits.tool_names.empty()) limits.tool_names = names;
  set_limits(limits, out.gate);
}

void read_all(Settings& in, ServeSettings& out) {
  read_addresses(in, out);
  read_limits(in, out);
  read_access(in, out);
  read_sandboxes(in, out);
  read_gate(in, out);
}

Result<ServeSettings> read(Settings* in, const std::string& config) {
  std::string text;
  if (!config.empty()) {
    auto read = read_file(config, kMaxFile);
    if (!read) return std::move(read).error().within("--config").from(ErrorOrigin::kCaller);
    text = std::move(*read);
  }
  SLUICE_TRY(TomlReader file, TomlReader::parse(text, config));
  in->read_from(std::move(file));
  ServeSettings settings;
  settings.variables = [](const std::string& name) {
    return environment(name.c_str());
  };
  read_all(*in, settings);
  SLUICE_TRY_VOID(in->finish());
  return settings;
}

}  // namespace

void add_serve(CLI::App& app, int* code) {
  CLI::App* serve = app.add_subcommand("serve", "serve the OpenEnv coding environment");
  serve->footer(kFooter);
  const auto config = std::make_shared<std::string>();
  serve->add_option("--config", *config, "a TOML file with settings")->envname("SLUICE_CONFIG");
  // Read where it stands: the options that have a variable look for it when all is parsed.
  serve
      ->add_option_function<std::string>("--env-file", load_variables,
                                         "a file of NAME=VALUE lines; the environment comes "
                                         "before it")
      ->trigger_on_parse();
  const auto settings = std::make_shared<Settings>(serve);
  ServeSettings none;
  read_all(*settings, none);
  serve->callback(
      [settings, config, code] { *code = serve_command(read(settings.get(), *config)); });
}

}  // namespace sluice::cli
