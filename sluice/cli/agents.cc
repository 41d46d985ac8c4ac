#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>

#include "sluice/agent/bundle.h"
#include "sluice/agent/driver.h"
#include "sluice/agent/registry.h"
#include "sluice/base/printable.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/json/value.h"

namespace sluice::cli {
namespace {

std::string availability(const agent::Spec& spec, const agent::Bundles& bundles) {
  if (!spec.bundle) return "no bundle";
  return bundles.find(spec) ? "installed" : "not installed";
}

}  // namespace

int agents_list_command(const AgentsFlags& flags) {
  const agent::Bundles bundles(agent::default_bundle_directory());
  json::Array rows;
  for (const auto& entry : agent::Registry(flags.agents_directory).list()) {
    json::Object row;
    row["name"] = entry.name;
    row["source"] = entry.source;
    if (entry.spec) {
      row["version"] = entry.spec->version;
      row["description"] = entry.spec->description;
      row["state"] = availability(*entry.spec, bundles);
    } else {
      row["error"] = entry.spec.error().message;
    }
    if (!flags.json) {
      if (entry.spec) {
        put(fmt::format("{:<14} {:<10} {:<14} {}\n", entry.name, entry.spec->version,
                        availability(*entry.spec, bundles), entry.spec->description));
      } else {
        put(fmt::format("{:<14} broken: {}\n", entry.name, printable(entry.spec.error().message)));
      }
    }
    rows.push_back(std::move(row));
  }
  if (flags.json) put_json(json::serialize(rows));
  return 0;
}

int agents_show_command(const AgentsFlags& flags) {
  auto spec = agent::Registry(flags.agents_directory).find(flags.name);
  if (!spec) return report(spec.error());
  const agent::Bundles bundles(agent::default_bundle_directory());
  put(fmt::format("{}: {}\nspec        {}\n", spec->title(), spec->description, spec->source));
  if (spec->bundle) {
    put(fmt::format("bundle      {} ({})\n", fmt::join(spec->bundle->npm, " "),
                    availability(*spec, bundles)));
  }
  std::vector<std::string_view> dialects;
  for (const agent::DialectSpec& row : spec->dialects) dialects.push_back(to_string(row.dialect));
  put(fmt::format("dialects    {}\n", fmt::join(dialects, ", ")));
  for (const auto& [name, option] : spec->options) {
    put(fmt::format("option      {}: {}\n", name, option.help));
  }
  agent::Plan plan;
  plan.spec = std::make_shared<agent::Spec>(*spec);
  plan.dialect = spec->dialects.front().dialect;
  plan.instruction = "INSTRUCTION";
  const agent::Endpoint endpoint = {"http://127.0.0.1:PORT/rollout/ID", "KEY"};
  auto launch = agent::make_launch(plan, endpoint, "PROGRAM");
  if (!launch) return report(launch.error());
  put(fmt::format("command     {}\n", fmt::join(launch->argv, " ")));
  if (!spec->approvals_bypass.empty()) {
    put(fmt::format("            {} with approvals = \"bypass\"\n",
                    fmt::join(spec->approvals_bypass, " ")));
  }
  for (const auto& [name, value] : launch->env)
    put(fmt::format("env         {}={}\n", name, value));
  for (const agent::Upload& file : launch->files) {
    put(fmt::format("file        {}\n{}\n", file.path, file.content));
  }
  return 0;
}

int agents_install_command(const AgentsFlags& flags) {
  auto spec = agent::Registry(flags.agents_directory).find(flags.name);
  if (!spec) return report(spec.error());
  const agent::Bundles bundles(agent::default_bundle_directory());
  if (const auto found = bundles.find(*spec)) {
    say(fmt::format("{} is installed in {}\n", spec->title(), *found));
    return 0;
  }
  auto installed = bundles.install(
      *spec, [](std::string_view line) { say(fmt::format("{}\n", printable(line))); });
  if (!installed) return report(installed.error());
  return 0;
}

}  // namespace sluice::cli
