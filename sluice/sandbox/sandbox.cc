#include "sluice/sandbox/sandbox.h"

#include <fmt/format.h>

namespace sluice::sandbox {

std::string_view to_string(Exit::Reason reason) {
  switch (reason) {
    case Exit::Reason::kExited:
      return "exited";
    case Exit::Reason::kSignaled:
      return "signaled";
    case Exit::Reason::kTimedOut:
      return "timed_out";
    case Exit::Reason::kLost:
      return "lost";
  }
  return "?";
}

std::string describe(const Exit& exit) {
  std::string text;
  switch (exit.reason) {
    case Exit::Reason::kExited:
      text = fmt::format("exit code {}", exit.status);
      break;
    case Exit::Reason::kSignaled:
      text = fmt::format("killed by signal {}", exit.signal);
      break;
    case Exit::Reason::kTimedOut:
      text = "timed out";
      break;
    case Exit::Reason::kLost:
      text = "lost with its sandbox";
      break;
  }
  if (exit.oom) text += " (out of memory)";
  if (exit.truncated) text += " (output truncated)";
  return text;
}

std::string_view to_string(Network network) {
  switch (network) {
    case Network::kNone:
      return "none";
    case Network::kSetup:
      return "setup";
    case Network::kOpen:
      return "open";
  }
  return "?";
}

Command Command::shell(std::string script, const std::string& shell) {
  Command command;
  if (shell.ends_with("/sh")) {
    command.argv = {shell, "-c", std::move(script)};
  } else {
    command.argv = {shell, "--noprofile", "--norc", "-c", std::move(script)};
  }
  return command;
}

bool Command::is_shell() const {
  if (argv.size() == 3) return argv[0].ends_with("/sh") && argv[1] == "-c";
  return argv.size() == 5 && (argv[0] == "bash" || argv[0].ends_with("/bash")) &&
         argv[1] == "--noprofile" && argv[2] == "--norc" && argv[3] == "-c";
}

Limits Limits::defaults() {
  Limits limits;
  limits.memory_bytes = Limit{uint64_t{4} << 30};
  limits.swap_bytes = Limit{0};
  limits.pids = Limit{2048};  // threads count
  limits.disk_bytes = Limit{uint64_t{4} << 30};
  limits.disk_inodes = Limit{1'000'000};
  limits.open_files = Limit{16'384};
  return limits;
}

}  // namespace sluice::sandbox
