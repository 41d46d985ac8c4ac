#include "sluice/cli/serve_flags.h"

#include <CLI/CLI.hpp>

#include "sluice/cli/env_file.h"
#include "sluice/cli/shared_flags.h"

namespace sluice::cli {
namespace {

constexpr char kFooter[] =
    R"(Every setting may stand in the TOML file under its flag's name with underscores
(max_sessions = 8), and besides them: no_keys, web (true or false), calls (LLM calls a rollout may
make), setup_timeout_s, verify_timeout_s (per command) and a table [limits] of sandboxes (memory_mb,
disk_mb, pids, open_files, cpus, enforce). Flags come before variables, variables before the file. What
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

}  // namespace

void add_serve(CLI::App& app, int* code) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* serve = app.add_subcommand("serve", "serve the OpenEnv coding environment");
  serve->footer(kFooter);
  const auto option = [&](const char* name, auto& value, const char* help) {
    return serve->add_option(name, value, help);
  };
  option("--config", flags->config, "a TOML file with settings")->envname("SLUICE_CONFIG");
  // Read where it stands: the options that have a variable look for it when all is parsed.
  serve
      ->add_option_function<std::string>("--env-file", load_variables,
                                         "a file of NAME=VALUE lines; the environment comes "
                                         "before it")
      ->trigger_on_parse();
  option("--host", flags->host, "the address to listen on [127.0.0.1]")->envname("SLUICE_HOST");
  option("--port", flags->port, "the port; 0 takes a free one [8000]")->envname("PORT");
  option("--mode", flags->mode, "simulation, or production: no reset, step and state over HTTP");
  option("--max-sessions", flags->max_sessions, "sessions at a time [4]")
      ->envname("MAX_CONCURRENT_ENVS");
  option("--max-rollouts", flags->max_rollouts, "rollouts at a time; more wait [32]")
      ->envname("SLUICE_MAX_ROLLOUTS");
  option("--shards", flags->shards, "threads that rollouts live on [cores, at most 4]");
  option("--session-timeout-s", flags->session_timeout_s, "ends sessions unused so long [never]");
  option("--http-session-ttl-s", flags->http_session_ttl_s,
         "the same for MCP sessions over HTTP, which have no connection [1800]");
  option("--step-timeout-s", flags->step_timeout_s, "a step's time, unless it names one [900]");
  option("--max-call-time-s", flags->max_call_time_s, "no call takes longer [21600]");
  option("--max-message-mb", flags->max_message_mb, "bodies and frames [16]");
  option("--on-client-gone", flags->on_client_gone, "what of a client that left: cancel, or finish")
      ->check(CLI::IsMember({"cancel", "finish"}));
  option("--drain-s", flags->drain_s, "what calls have to end after SIGTERM [30]");
  option("--key-file", flags->key_file, "keys of clients, one on each line")
      ->envname("SLUICE_KEY_FILE");
  serve->add_flag("--no-keys", flags->no_keys, "ask for no key, wherever it listens");
  option("--allow-origins", flags->allow_origins, "pages of other origins that may talk to it");
  option("--allow-hosts", flags->allow_hosts, "names of a loopback server besides localhost");
  option("--web", flags->web, "true: the page's routes below /web")
      ->envname("ENABLE_WEB_INTERFACE");
  option("--readme", flags->readme, "what /web/metadata shows [/app/README.md]")
      ->envname("ENV_README_PATH");
  option("--backend", flags->backend, "where sandboxes come from [local]")
      ->envname("SLUICE_BACKEND")
      ->check(CLI::IsMember({"local"}));
  option("--network", flags->network, "what sandboxes reach: none, setup or open [none]")
      ->envname("SLUICE_NETWORK")
      ->check(CLI::IsMember({"none", "setup", "open"}));
  option("--setup-hosts", flags->setup_hosts,
         "with --network setup: what setup commands may reach");
  option("--approvals", flags->approvals, "what agents would ask about: default, or bypass")
      ->check(CLI::IsMember({"default", "bypass"}));
  option("--agents-dir", flags->agents_directory, "where your agent specs are");
  option("--templates-dir", flags->templates_directory,
         "images that clients may name: NAME, a root directory, or NAME.tar [none]")
      ->envname("SLUICE_TEMPLATES_DIR");
  option("--data", flags->data, "where traces are kept [the state directory]")
      ->envname("SLUICE_DATA_DIR");
  option("--policy", flags->policy,
         "who answers those of the mode interception_gate: trainer, the only one here");
  option("--trainer-listen", flags->trainer_listen,
         "the address of the trainer API, for rollouts of the mode interception_gate [none; "
         "with --policy trainer 127.0.0.1:8790]")
      ->envname("SLUICE_TRAINER_LISTEN");
  serve->add_flag("--trainer-text", flags->trainer_text,
                  "take its sampled answers without token ids and logprobs, too");
  option("--trainer-wait-s", flags->trainer_wait_s, "what such a rollout waits for a trainer [30]");
  add_rule_flags(*serve, flags->rules);
  add_limit_flags(*serve, flags->limits);
  option("--log", flags->log, "append the log to this file [stderr]");
  option("--log-level", flags->log_level, "debug, info, warn or error [info]")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  serve->callback([flags, code] { *code = serve_command(*flags); });
}

}  // namespace sluice::cli
