// The subcommands. Each takes its parsed flags and returns the process's exit code; what it prints
// for people goes to stderr, what it prints for programs (--json) to stdout.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sluice/cli/gate_flags.h"

namespace sluice::cli {

struct RunFlags {
  std::string task;
  std::string agent;
  std::string agents_directory;
  std::string policy;
  std::string model = "policy";
  std::string dialect;
  std::string backend = "local";
  std::string approvals;
  std::vector<std::string> options;  // "name=value"
  std::string key_env = "OPENAI_API_KEY";
  std::string trainer_listen{kTrainerListen};  // for the policy `trainer`
  bool trainer_text = false;                   // its answers need no tokens
  double trainer_lease_s = 60;                 // see gate::GateOptions
  double upstream_patience_s = 65;
  GateLimitFlags limits;
  GateRuleFlags rules;
  // For the policy `passthrough`: what is asked of each call, whatever the agent asks for.
  bool disable_thinking = false;
  std::optional<int64_t> max_tokens_cap, top_logprobs;
  std::optional<int64_t> context_window, max_output;  // what agents are told
  std::optional<double> upstream_silence_s;
  std::string out;
  std::string log;
  bool json = false;
  bool keep = false;
  // For more than one rollout.
  int repeat = 1;
  int group = 1;
  int concurrency = 0;         // 0: the cores
  std::optional<int> retries;  // else 2 for many, and 0 for one
  int64_t memory_mb = 0;       // of all together; 0: no bound
  bool resume = false;
};
int run_command(const RunFlags& flags);

struct GateFlags {
  std::string policy{kTrainerPolicy};
  std::string listen = "127.0.0.1:8791";
  std::string trainer_listen{kTrainerListen};
  std::string advertise;
  std::string keys_file;
  std::string out;
  std::string log;
  size_t max_rollouts = 10'000;
  GateLimitFlags limits;
};
int gate_serve_command(const GateFlags& flags);

struct DoctorFlags {
  std::string agents_directory;
  bool json = false;
};
int doctor_command(const DoctorFlags& flags);

struct AgentsFlags {
  std::string agents_directory;
  std::string name;
  bool json = false;
};
int agents_list_command(const AgentsFlags& flags);
int agents_show_command(const AgentsFlags& flags);
int agents_install_command(const AgentsFlags& flags);

struct ShellFlags {
  std::string files;
  std::string user = "1000";
};
int sandboxes_shell_command(const ShellFlags& flags);

struct SandboxesTestFlags {
  std::string backend = "local";
  std::string matching;
  bool whole = false, json = false;
};
int sandboxes_test_command(const SandboxesTestFlags& flags);

struct SandboxesFlags {
  std::string backend = "local";
  bool json = false;
};
int sandboxes_list_command(const SandboxesFlags& flags);
int sandboxes_reap_command(const SandboxesFlags& flags);

}  // namespace sluice::cli
