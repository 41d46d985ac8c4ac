// `sluice gate serve`: the gate alone, for agents in sandboxes of others.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>

#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/trainer_side.h"
#include "sluice/gate/gate.h"
#include "sluice/net/signals.h"
#include "sluice/trace/jsonl.h"

namespace sluice::cli {
namespace {

Result<int> serve(const GateFlags& flags) {
  SLUICE_TRY_VOID(check_trainer_policy(flags.policy));
  const Logger log = flags.log.empty() ? Logger::to_fd(2, LogLevel::kInfo)
                                       : Logger::to_file(flags.log, LogLevel::kInfo);
  const std::string traces = flags.out.empty() ? state_directory() + "/traces" : flags.out;
  trace::JsonlRecorder recorder(traces, log);
  gate::GateOptions gate_options;
  SLUICE_TRY_VOID(set_limits(flags.limits, gate_options));
  gate_options.log = log;
  const gate::Handles gate = gate::make_gate(gate_options);
  TrainerSideOptions options;
  options.listen = flags.trainer_listen;
  options.keys_file = flags.keys_file.empty() ? state_directory() + "/gate-keys" : flags.keys_file;
  options.agents = flags.listen;
  options.advertise = flags.advertise;
  options.recorder = &recorder;
  options.max_rollouts = flags.max_rollouts;
  options.log = log;
  SLUICE_TRY(const auto side, TrainerSide::start(gate, options));

  net::Shard shard;
  bool stopping = false;
  const net::Signals signals(shard, {SIGINT, SIGTERM}, [&](int) { stopping = true; });
  fmt::print("agents at {}\ntrainer API at http://{}\n", side->agents_url(), side->address());
  if (!side->keys_file().empty()) fmt::print("keys in {}\n", side->keys_file());
  std::fflush(stdout);
  shard.run_until([&] { return stopping; });
  return 0;
}

}  // namespace

int gate_serve_command(const GateFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  auto code = serve(flags);
  if (code) return *code;
  fmt::print(stderr, "sluice: {}\n", printable(code.error().message));
  return exit_code(code.error().code);
}

}  // namespace sluice::cli
