// The `sluice` command: reads flags and hands them to a subcommand.

#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>

#include "sluice/agent/registry.h"
#include "sluice/base/core/error.h"
#include "sluice/base/heap.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/output.h"
#include "sluice/cli/serve_settings.h"
#include "sluice/cli/shared_flags.h"

namespace {

constexpr char kAbout[] =
    R"(Sluice runs command-line coding agents in sandboxes, holds every LLM call they make at a gate
until a policy answers it, verifies the work and reports a reward.)";

constexpr char kFooter[] = R"(First steps:
  sluice doctor                     what this machine can do, and how to get what is missing
  sluice agents list                the agents that can be run
  sluice agents install opencode    fetch one from npm, once
  sluice run examples/hello/task.toml --agent opencode \
      --policy script:examples/hello/script.toml

Each subcommand has its own --help. Documents: docs/ in the source, README.md first.)";

constexpr char kRunFooter[] = R"(Policies, who answers the agent's LLM calls:
  trainer             a training loop, over the API on --trainer-listen (docs/trainer-api.md); its
                      keys are SLUICE_TRAINER_KEY and SLUICE_OPERATOR_KEY, or made and written
                      to --out
  script:FILE         rules over the conversation (docs/script-policy.md)
  passthrough:URL     forwarded to one OpenAI-compatible server, as in
                      passthrough:https://api.example.com/v1; its key is read from the environment
                      variable that --key-env names and never enters the sandbox

A folder, --repeat and --group make a batch: many rollouts, --concurrency at once, their ends in
--out/results.jsonl as they happen, and --resume to go on after a crash (docs/engine.md).

The result, the trace and what the agent printed are kept in --out. Exit code: 0 the rollout ran to
its end, whatever the reward; 1 it did not, for the agent's or the task's sake; 2 what was asked for is
wrong or cannot be had; 69 we, the machine or whoever answers failed; 130 cancelled (docs/results.md). A
batch exits with the gravest of its rollouts'.)";

constexpr char kGateFooter[] =
    R"(Keys: SLUICE_TRAINER_KEY takes and answers calls, SLUICE_OPERATOR_KEY opens and closes
rollouts; what is not set is made and written to --keys-file (mode 0600). Each rollout's agent gets a
key of its own. Both addresses are loopback's unless told otherwise, and speak no TLS: put a proxy in
front of what leaves the machine. SIGTERM ends every rollout. Documents: docs/trainer-api.md.)";

void add_backend(CLI::App* command, std::string& name) {
  command->add_option("--backend", name, "where sandboxes come from")
      ->capture_default_str()
      ->check(CLI::IsMember({"local"}));
}

// What is said of a word where a subcommand is wanted; "" if that is not what is wrong.
std::string unknown_subcommand(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  const auto known = at->get_subcommands([](const CLI::App*) { return true; });
  const auto words = at->remaining();
  if (known.empty() || words.empty() || words.front().starts_with('-')) return "";
  std::string names;
  for (const CLI::App* one : known) names += (names.empty() ? "" : ", ") + one->get_name();
  return at->get_name() + " has no subcommand \"" + words.front() + "\"; it has: " + names;
}

int run_command_line(int argc, char** argv) {
  CLI::App app{kAbout, "sluice"};
  app.require_subcommand(1);
  app.set_version_flag("--version", SLUICE_VERSION);
  int code = 0;

  const std::string agents_directory = sluice::agent::default_agents_directory();
  sluice::cli::RunFlags run;
  run.agents_directory = agents_directory;
  auto* run_app = app.add_subcommand("run", "run an agent on a task, or on many");
  run_app->footer(kRunFooter);
  const auto option = [run_app](const char* name, auto& value, const char* help) {
    return run_app->add_option(name, value, help);
  };
  option("task", run.task, "the task's TOML file (docs/tasks.md), or a folder of such")->required();
  option("--agent", run.agent, "an agent's name (sluice agents list), or a spec's path")
      ->required();
  option("--policy", run.policy, "who answers: trainer, script:FILE or passthrough:URL")
      ->required();
  option("--model", run.model, "the model's name as the agent sees it")->capture_default_str();
  option("--dialect", run.dialect, "the agent's wire format, if it has several");
  add_backend(run_app, run.backend);
  option("--approvals", run.approvals, "what the agent would ask about")
      ->check(CLI::IsMember({"default", "bypass"}));
  option("--option", run.options, "an option of the agent, as in temperature=0.7")->take_all();
  option("--key-env", run.key_env, "the variable that holds the upstream's key")
      ->capture_default_str();
  run_app->add_flag("--disable-thinking", run.disable_thinking,
                    "passthrough: ask for no thinking, in the words of the agent's dialect");
  option("--max-tokens-cap", run.max_tokens_cap,
         "passthrough: the most tokens that one answer may be asked for")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  option("--context-window", run.context_window,
         "the model's window in tokens, as the agent is told [131072]")
      ->check(CLI::Range(int64_t{1}, sluice::agent::kMostTokens));
  option("--max-output", run.max_output,
         "the most tokens of one answer, as the agent is told [8192]")
      ->check(CLI::Range(int64_t{1}, sluice::agent::kMostTokens));
  option("--top-logprobs", run.top_logprobs,
         "passthrough: ask for so many logprobs, where the dialect has them")
      ->check(CLI::Range(0, 100));
  option("--upstream-silence-s", run.upstream_silence_s,
         "passthrough: an endpoint that says nothing for so long has failed [600 before an answer, "
         "300 in it]")
      ->check(CLI::Range(0.01, 86400.0));
  option("--trainer-listen", run.trainer_listen, "where the trainer API listens")
      ->capture_default_str();
  run_app->add_flag("--trainer-text", run.trainer_text,
                    "take the trainer's sampled answers without token ids and logprobs, too");
  option("--trainer-lease-s", run.trainer_lease_s,
         "a trainer who says nothing for so long while a call waits could not answer")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 86400.0));
  option("--upstream-patience-s", run.upstream_patience_s,
         "an upstream that answers the gate itself so long behind the agent's end could answer")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  option("--out", run.out, "a new directory for the result, trace and logs");
  option("--log", run.log, "append the engine's log to this file");
  option("--agents-dir", run.agents_directory, "where your agent specs are")->capture_default_str();
  run_app->add_flag("--json", run.json, "print results on stdout, a JSON object a line");
  run_app->add_flag("--keep", run.keep, "keep the sandbox's files and print where they are");
  option("--repeat", run.repeat, "how often each task is attempted, or its group")
      ->check(CLI::Range(1, 1'000'000));
  option("--group", run.group, "attempts that share one preparation of the task")
      ->check(CLI::Range(1, 10'000));
  option("--concurrency", run.concurrency, "rollouts at once; default: the cores")
      ->check(CLI::Range(1, 10'000));
  option("--memory-mb", run.memory_mb,
         "the memory limits of those that run together may add up to this")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  option(
      "--retries", run.retries,
      "further attempts after infrastructure failures, and up to 2 of them where whoever answers "
      "could not [one rollout: 0, a batch: 2]")
      ->check(CLI::Range(0, 100));
  run_app->add_flag("--resume", run.resume,
                    "go on with the batch in --out: run what has not ended");
  sluice::cli::add_rule_flags(*run_app, run.rules);
  sluice::cli::add_limit_flags(*run_app, run.limits);
  run_app->callback([&] { code = sluice::cli::run_command(run); });

  sluice::cli::add_serve(app, &code);

  sluice::cli::GateFlags gate;
  auto* gate_app = app.add_subcommand("gate", "the gate alone, for sandboxes of your own");
  gate_app->require_subcommand(1);
  auto* gate_serve = gate_app->add_subcommand(
      "serve", "serve agents of rollouts that are registered over the trainer API");
  gate_serve->footer(kGateFooter);
  gate_serve->add_option("--policy", gate.policy, "who answers: trainer, the only one here")
      ->capture_default_str();
  gate_serve->add_option("--listen", gate.listen, "where agents ask")->capture_default_str();
  gate_serve->add_option("--trainer-listen", gate.trainer_listen, "where the trainer API listens")
      ->capture_default_str();
  gate_serve->add_option("--advertise", gate.advertise,
                         "the URL by which agents reach --listen, if it is another");
  gate_serve->add_option("--keys-file", gate.keys_file, "where keys are written that are made");
  gate_serve->add_option("--max-rollouts", gate.max_rollouts, "open at a time")
      ->capture_default_str();
  gate_serve->add_option("--out", gate.out,
                         "the traces' directory [traces in the state directory; it is printed]");
  gate_serve->add_option("--log", gate.log, "append the log to this file");
  sluice::cli::add_limit_flags(*gate_serve, gate.limits);
  gate_serve->callback([&] { code = sluice::cli::gate_serve_command(gate); });

  sluice::cli::DoctorFlags doctor;
  doctor.agents_directory = agents_directory;
  auto* doctor_app =
      app.add_subcommand("doctor", "what this machine can do, and how to get what is missing");
  doctor_app->add_flag("--json", doctor.json, "for programs");
  doctor_app->callback([&] { code = sluice::cli::doctor_command(doctor); });

  sluice::cli::AgentsFlags agents;
  agents.agents_directory = agents_directory;
  auto* agents_app = app.add_subcommand("agents", "list, show and install agents");
  agents_app->require_subcommand(1);
  agents_app->add_option("--agents-dir", agents.agents_directory, "where your agent specs are")
      ->capture_default_str();
  auto* list = agents_app->add_subcommand("list", "the agents that can be run");
  list->add_flag("--json", agents.json, "for programs");
  list->callback([&] { code = sluice::cli::agents_list_command(agents); });
  auto* show = agents_app->add_subcommand("show", "what an agent's spec comes to");
  show->add_option("name", agents.name, "a name, or a spec's path")->required();
  show->callback([&] { code = sluice::cli::agents_show_command(agents); });
  auto* install = agents_app->add_subcommand("install", "fetch an agent's packages from npm, once");
  install->add_option("name", agents.name, "a name, or a spec's path")->required();
  install->callback([&] { code = sluice::cli::agents_install_command(agents); });

  sluice::cli::ShellFlags shell;
  auto* sandboxes_app = app.add_subcommand("sandboxes", "list, reap, test and look into sandboxes");
  sandboxes_app->require_subcommand(1);
  auto* shell_app = sandboxes_app->add_subcommand(
      "shell", "a shell in a fresh sandbox over files that run --keep kept");
  shell_app->add_option("files", shell.files, "the directory that run --keep printed")->required();
  shell_app->add_option("--user", shell.user, "who to be: 1000 the agent, 1001 the verifier, 0")
      ->capture_default_str();
  shell_app->callback([&] { code = sluice::cli::sandboxes_shell_command(shell); });
  sluice::cli::SandboxesFlags sandboxes;
  auto* sandboxes_list =
      sandboxes_app->add_subcommand("list", "the sandboxes there are, and whose they are");
  sandboxes_list->add_flag("--json", sandboxes.json, "for programs");
  sandboxes_list->callback([&] { code = sluice::cli::sandboxes_list_command(sandboxes); });
  auto* reap = sandboxes_app->add_subcommand("reap", "remove what dead engines left");
  add_backend(reap, sandboxes.backend);
  reap->callback([&] { code = sluice::cli::sandboxes_reap_command(sandboxes); });
  sluice::cli::SandboxesTestFlags conformance;
  auto* test = sandboxes_app->add_subcommand(
      "test", "try on this machine what every sandbox must do and must stop");
  test->add_option("matching", conformance.matching, "only cases whose area.name holds this");
  add_backend(test, conformance.backend);
  test->add_flag("--whole", conformance.whole, "also what takes long or much room");
  test->add_flag("--json", conformance.json, "for programs");
  test->callback([&] { code = sluice::cli::sandboxes_test_command(conformance); });

  app.footer(kFooter);  // last: subcommands that are made later would have it, too

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (const std::string unknown = unknown_subcommand(app); !unknown.empty()) {
      std::fprintf(stderr, "sluice: %s\n", unknown.c_str());
      return sluice::exit_code(sluice::ErrorCode::kInvalidArgument);
    }
    // --help and --version come here too, with code 0.
    return app.exit(e) == 0 ? 0 : sluice::exit_code(sluice::ErrorCode::kInvalidArgument);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sluice: %s\n", e.what());
    return sluice::exit_code(sluice::ErrorCode::kInternal);
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  sluice::cli::hold_standard_descriptors();
  sluice::keep_heap();
  return sluice::cli::finish_output(run_command_line(argc, argv));
}
