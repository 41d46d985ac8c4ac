// `sluice gate serve`: the gate alone, for agents in sandboxes of others.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>

#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/wiring.h"
#include "sluice/net/signals.h"

namespace sluice::cli {
namespace {

Result<int> serve(const GateFlags& flags) {
  SLUICE_TRY_VOID(check_trainer_policy(flags.policy));
  raise_descriptor_limit();
  const Logger log = flags.log.empty() ? Logger::to_fd(2, LogLevel::kInfo)
                                       : Logger::to_file(flags.log, LogLevel::kInfo);
  WiringOptions options;
  const std::string traces = flags.out.empty() ? state_directory() + "/traces" : flags.out;
  options.traces = traces;
  set_limits(flags.limits, options.gate);
  TrainerSideOptions& trainer = options.trainer.emplace();
  trainer.listen = flags.trainer_listen;
  trainer.keys_file = flags.keys_file.empty() ? state_directory() + "/gate-keys" : flags.keys_file;
  trainer.agents = flags.listen;
  trainer.advertise = flags.advertise;
  trainer.max_rollouts = flags.max_rollouts;
  options.log = log;
  SLUICE_TRY(const auto wiring, Wiring::make(std::move(options)));
  const TrainerSide& side = *wiring->trainer();

  net::Shard shard;
  bool stopping = false;
  const net::Signals signals(shard, {SIGINT, SIGTERM}, [&](int) { stopping = true; });
  put(fmt::format("agents at {}\ntrainer API at http://{}\ntraces in {}\n", side.agents_url(),
                  side.address(), traces));
  if (!side.keys_file().empty()) put(fmt::format("keys in {}\n", side.keys_file()));
  std::fflush(stdout);
  shard.run_until([&] { return stopping; });
  return 0;
}

}  // namespace

int gate_serve_command(const GateFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  return report(serve(flags));
}

}  // namespace sluice::cli
