#include "sluice/sandbox/conformance/conformance.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "sluice/base/printable.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/json/value.h"

namespace sluice::cli {
namespace {

using sandbox::conformance::Outcome;

std::string_view to_string(Outcome::State state) {
  constexpr std::string_view names[] = {"ok", "FAILED", "skipped"};
  return names[static_cast<size_t>(state)];
}

double milliseconds(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

void show(const Outcome& outcome) {
  put(fmt::format("{:<8} {:>6.0f} ms  {}.{}{}{}\n", to_string(outcome.state),
                  milliseconds(outcome.took), outcome.area, outcome.name,
                  outcome.why.empty() ? "" : ": ", printable(outcome.why)));
  std::fflush(stdout);
}

}  // namespace

int sandboxes_test_command(const SandboxesTestFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto backend = make_backend(flags.backend, Logger());
  if (!backend) return report(backend.error());
  const auto carrying = make_backend(flags.backend, Logger(), Carry::kConnections);
  if (!carrying) return report(carrying.error());
  sandbox::conformance::Options options;
  options.backend = backend->get();
  options.carrying = carrying->get();
  options.matching = flags.matching;
  if (flags.whole) options.size = sandbox::conformance::Options::Size::kWhole;
  const auto outcomes = sandbox::conformance::run(options, [&](const Outcome& outcome) {
    if (!flags.json) show(outcome);
  });
  int counts[3] = {};
  json::Array rows;
  for (const Outcome& outcome : outcomes) {
    ++counts[static_cast<size_t>(outcome.state)];
    json::Object row;
    row["area"] = outcome.area;
    row["name"] = outcome.name;
    row["state"] = to_string(outcome.state);
    row["why"] = to_valid_utf8(outcome.why);
    row["ms"] = milliseconds(outcome.took);
    rows.push_back(std::move(row));
  }
  if (flags.json) {
    put_json(json::serialize(rows));
  } else {
    put(fmt::format("\n{} passed, {} failed, {} skipped\n", counts[0], counts[1], counts[2]));
  }
  if (outcomes.empty()) {
    say(fmt::format("sluice: no case's name holds \"{}\"\n", printable(flags.matching)));
    return exit_code(ErrorCode::kInvalidArgument);
  }
  return counts[1] == 0 ? 0 : 1;
}

}  // namespace sluice::cli
