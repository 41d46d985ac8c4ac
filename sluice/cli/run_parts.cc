#include "sluice/cli/run_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>

#include "sluice/agent/bundle.h"
#include "sluice/agent/driver.h"
#include "sluice/agent/registry.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/digest.h"
#include "sluice/base/printable.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/gate/script_policy.h"
#include "sluice/sandbox/spool.h"
#include "sluice/upstream/passthrough.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;
using rollout::ErrorKind;

constexpr size_t kMaxTasks = 100'000;
constexpr size_t kMaxTaskFile = 1 << 20;
constexpr size_t kMaxScript = 1 << 20;
constexpr std::string_view kScript = "script:";

Result<llm::Dialect> choose_dialect(const RunFlags& flags, const agent::Spec& spec) {
  if (flags.dialect.empty()) return spec.dialects.front().dialect;
  std::vector<std::string_view> known;
  for (const agent::DialectSpec& row : spec.dialects) {
    known.push_back(llm::to_string(row.dialect));
    if (known.back() == flags.dialect) return row.dialect;
  }
  return Error(ErrorCode::kUnsupported,
               fmt::format("{} does not speak the dialect {}; it speaks: {}", spec.name,
                           flags.dialect, fmt::join(known, ", ")));
}

std::string first_line(const std::string& text) {
  const size_t end = text.find('\n');
  return end == std::string::npos ? text : text.substr(0, end) + " ...";
}

bool is_task_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return name == "task.toml" || name.ends_with(".task.toml");
}

// The tasks below `place`: every task.toml and *.task.toml, else every *.toml directly in it.
Result<std::vector<std::string>> find_tasks(const std::string& place) {
  std::error_code error;
  if (!fs::is_directory(place, error)) return std::vector<std::string>{place};
  std::vector<std::string> found, flat;
  for (auto it = fs::recursive_directory_iterator(place, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (!it->is_regular_file(error) || it->path().extension() != ".toml") continue;
    if (is_task_file(it->path())) found.push_back(it->path().string());
    if (it.depth() == 0) flat.push_back(it->path().string());
    if (found.size() > kMaxTasks || flat.size() > kMaxTasks) {
      return Error(ErrorCode::kTooLarge, fmt::format("{}: more than {} tasks", place, kMaxTasks));
    }
  }
  if (error) return errno_error(place, error.value());
  if (found.empty()) found = std::move(flat);
  if (found.empty()) {
    return Error(ErrorCode::kNotFound,
                 place + " holds no tasks: a task.toml in a folder of its own, or NAME.task.toml");
  }
  std::sort(found.begin(), found.end());
  return found;
}

Result<rollout::Task> read_task(const RunFlags& flags, const std::string& path) {
  SLUICE_TRY(rollout::Task task, rollout::load_task(path));
  if (!flags.approvals.empty()) task.approvals = rollout::approvals_named(flags.approvals);
  for (const std::string& option : flags.options) {
    const size_t equals = option.find('=');
    if (equals == std::string::npos) {
      return Error(ErrorCode::kInvalidArgument,
                   fmt::format("--option {}: must be NAME=VALUE", option));
    }
    task.options[option.substr(0, equals)] = option.substr(equals + 1);
  }
  if (flags.context_window) task.context_window = flags.context_window;
  if (flags.max_output) task.max_output = flags.max_output;
  if (auto fits = agent::check_tokens(task); !fits) return std::move(fits).error().within(path);
  set_rules(flags.rules, task.gate);
  if (flags.policy == kTrainerPolicy) return task;
  if (!task.tools.empty()) {
    return Error(ErrorCode::kUnsupported,
                 path + ": the task's tools are answered by a trainer: use --policy trainer");
  }
  if (task.gate.accept == gate::OriginRule::Accept::kSampledOnly) {
    return Error(ErrorCode::kUnsupported,
                 path +
                     ": only a trainer says of its answers that they were sampled: use --policy "
                     "trainer, or accept any");
  }
  return task;
}

// See RunInput::contents.
Result<void> add_contents(const std::string& path, const rollout::Task& task,
                          json::Object& contents) {
  const auto of = [&task, &contents](std::string_view what) -> json::Value& {
    return contents[fmt::format("{} of task {}", what, task.id)];
  };
  SLUICE_TRY(const Bytes file, read_file(path, kMaxTaskFile));
  of("the file") = xxh3_128(file).hex();
  of("the instruction") = xxh3_128(task.instruction).hex();
  for (const agent::Upload& upload : task.uploads) {
    of(fmt::format("\"{}\"", upload.path)) = xxh3_128(upload.content).hex();
  }
  for (const agent::Upload& file : task.verify.files) {
    of(fmt::format("verify's \"{}\"", file.path)) = xxh3_128(file.content).hex();
  }
  // A tarball may have gigabytes: its size and time stand for them.
  std::error_code none;
  const std::string& image = task.sandbox.image;
  if (fs::is_regular_file(image, none)) {
    of("the image") = fmt::format("{} {}", fs::file_size(image, none),
                                  fs::last_write_time(image, none).time_since_epoch().count());
  }
  return {};
}

Result<AgentChoice> choose_agent(const RunFlags& flags,
                                 const std::vector<std::shared_ptr<const rollout::Task>>& tasks) {
  AgentChoice choice;
  SLUICE_TRY(agent::Spec spec, agent::Registry(flags.agents_directory).find(flags.agent));
  for (const auto& task : tasks) {
    const auto tools = task->tools.empty() ? agent::HostTools::kNone : agent::HostTools::kOffered;
    auto fits = agent::check_host_tools(spec, tools);
    if (fits) fits = agent::check_options(spec, task->options);
    if (!fits) return std::move(fits).error().within(task->source);
  }
  SLUICE_TRY(choice.dialect, choose_dialect(flags, spec));
  if (spec.bundle) {
    const agent::Bundles bundles(agent::default_bundle_directory());
    SLUICE_TRY(choice.bundle_path, bundles.install(spec, [](std::string_view line) {
      say(fmt::format("{}\n", printable(line)));
    }));
  }
  choice.spec = std::make_shared<const agent::Spec>(std::move(spec));
  return choice;
}

}  // namespace

Result<RunInput> read_input(const RunFlags& flags) {
  RunInput input;
  SLUICE_TRY(const auto paths, find_tasks(flags.task));
  std::map<std::string, std::string> ids;
  std::set<std::string> images;  // that were looked at
  for (const std::string& path : paths) {
    SLUICE_TRY(rollout::Task task, read_task(flags, path));
    if (images.insert(task.sandbox.image).second) {
      auto fine = check_image(flags.backend, task.sandbox);
      if (!fine) return std::move(fine).error().within(path);
    }
    SLUICE_TRY_VOID(add_contents(path, task, input.contents));
    const auto [other, fresh] = ids.emplace(task.id, path);
    if (!fresh) {
      return Error(ErrorCode::kInvalidArgument,
                   fmt::format("{} and {} are both called \"{}\": give one another id",
                               other->second, path, task.id));
    }
    input.tasks.push_back(std::make_shared<const rollout::Task>(std::move(task)));
  }
  SLUICE_TRY(input.agent, choose_agent(flags, input.tasks));
  input.contents["the agent's spec"] = input.agent.spec->digest;
  if (flags.policy.starts_with(kScript)) {
    auto script = read_file(flags.policy.substr(kScript.size()), kMaxScript);
    if (!script) return std::move(script).error().within("script").from(ErrorOrigin::kCaller);
    input.contents["the script"] = xxh3_128(*script).hex();
  }
  const size_t count =
      input.tasks.size() * static_cast<size_t>(flags.repeat) * static_cast<size_t>(flags.group);
  if (count > kMaxRollouts) {
    return Error(ErrorCode::kTooLarge,
                 fmt::format("{} rollouts are more than {}", count, kMaxRollouts));
  }
  return input;
}

Result<rollout::PolicyChoice> choose_policy(const RunFlags& flags, net::Shard& shard,
                                            net::BlockingPool& names, const Logger& log) {
  const size_t colon = flags.policy.find(':');
  const std::string kind = flags.policy.substr(0, colon);
  const std::string value = colon == std::string::npos ? "" : flags.policy.substr(colon + 1);
  rollout::PolicyChoice choice;
  choice.name = kind;
  upstream::Rewrite rewrite;
  if (flags.disable_thinking) rewrite.thinking = upstream::Thinking::kOff;
  rewrite.max_tokens_cap = flags.max_tokens_cap;
  rewrite.top_logprobs = flags.top_logprobs;
  if (kind != "passthrough" && !rewrite.changes_nothing()) {
    return Error(ErrorCode::kInvalidArgument,
                 "--disable-thinking, --max-tokens-cap and --top-logprobs are put into calls on "
                 "their way to an upstream: they need --policy passthrough:URL");
  }
  if (kind == "script" && !value.empty()) {
    SLUICE_TRY(choice.policy, gate::ScriptPolicy::load(value, shard));
    return choice;
  }
  if (kind == "passthrough" && !value.empty()) {
    upstream::PassthroughOptions options;
    options.base_url = value;
    options.key = environment(flags.key_env.c_str());
    options.rewrite = rewrite;
    if (flags.upstream_silence_s) options.set_silence(from_seconds(*flags.upstream_silence_s));
    log.redactor().add_secret(options.key);
    const bool asks_without_key = options.key.empty() && shard.index() == 0;
    choice.mode = "black_box";
    auto made = upstream::make_passthrough(shard, names, std::move(options));
    if (!made) return std::move(made).error().within("--policy passthrough");
    if (asks_without_key) {
      say(fmt::format("note: {} is not set; {} is asked without a key\n", flags.key_env, value));
    }
    choice.policy = std::move(*made);
    return choice;
  }
  if (flags.policy == kTrainerPolicy) return choice;
  return Error(
      ErrorCode::kInvalidArgument,
      fmt::format("--policy {}: must be trainer, script:FILE or passthrough:URL", flags.policy));
}

StatusLine::Style status_style(const RunFlags& flags) {
  const auto style = StatusLine::style_for(stderr);
  const bool silent = flags.json && style != StatusLine::Style::kTerminal;
  return silent ? StatusLine::Style::kSilent : style;
}

namespace {

Result<void> store_printed(const std::string& path, const Bytes& tail,
                           const std::shared_ptr<const sandbox::Spool>& whole) {
  return whole ? whole->save(path, 0600) : write_file_atomically(path, tail, 0600);
}

// What commands printed, where a row of the result leaves something out: whole up to a bound.
Result<void> store_outputs(const std::string& prefix, const std::vector<agent::CommandRow>& rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string path = fmt::format("{}{}.", prefix, i + 1);
    const auto& [cmd, output, error, whole] = rows[i];
    if (output.out.size() > rollout::kShownOutput) {
      SLUICE_TRY_VOID(store_printed(path + "stdout", output.out, whole.out));
    }
    if (output.err.size() > rollout::kShownOutput) {
      SLUICE_TRY_VOID(store_printed(path + "stderr", output.err, whole.err));
    }
  }
  return {};
}

}  // namespace

Result<std::string> make_output_directory(const std::string& wanted) {
  std::error_code error;
  std::string directory = fs::absolute(wanted, error).lexically_normal().string();
  if (fs::exists(directory, error) && !fs::is_empty(directory, error)) {
    const bool batch = fs::exists(directory + "/batch.json", error);
    return Error(ErrorCode::kAlreadyExists,
                 directory + (batch ? " holds a batch: go on with it by --resume, or name a new "
                                      "directory by --out"
                                    : " exists and is not empty: name a new directory by --out"));
  }
  fs::create_directories(directory, error);
  if (error) return errno_error("create " + directory, error.value());
  fs::permissions(directory, fs::perms::owner_all, error);
  return directory;
}

Result<void> store_result(const std::string& directory, const rollout::RolloutResult& result) {
  auto store = [&](const std::string& name, ByteView content) {
    return write_file_atomically(directory + "/" + name, content, 0600);
  };
  SLUICE_TRY_VOID(store("result.json", rollout::to_json(result) + "\n"));
  if (const auto& agent = result.report.agent) {
    const std::string path = directory + "/agent.";
    SLUICE_TRY_VOID(store_printed(path + "stdout", agent->out, agent->whole.out));
    SLUICE_TRY_VOID(store_printed(path + "stderr", agent->err, agent->whole.err));
  }
  SLUICE_TRY_VOID(store_outputs(directory + "/setup-", result.report.setup));
  SLUICE_TRY_VOID(store_outputs(directory + "/verify-", result.report.verify));
  for (const agent::Artifact& artifact : result.report.artifacts) {
    std::error_code ignored;
    fs::create_directories(directory + "/artifacts", ignored);
    SLUICE_TRY_VOID(store("artifacts/" + artifact.name, artifact.content));
  }
  return {};
}

void print_result(const std::string& directory, const rollout::RolloutResult& result) {
  auto rows = [](const char* name, const std::vector<agent::CommandRow>& commands) {
    for (const agent::CommandRow& row : commands) {
      put(fmt::format("{:<8} {}  {}  ({})\n", name, row.ok() ? "ok  " : "FAIL",
                      printable(first_line(row.cmd)), printable(row.ended())));
    }
  };
  rows("setup", result.report.setup);
  rows("start", result.report.start);
  rows("verify", result.report.verify);
  for (const std::string& warning : result.report.warnings) {
    put(fmt::format("warning  {}\n", printable(warning)));
  }
  if (result.error_kind != ErrorKind::kNone) {
    put(fmt::format("error    {}: {}\n", to_string(result.error_kind), printable(result.error)));
  }
  put(fmt::format("agent    {}, {} calls, {} turns, {}\n", result.agent, result.calls.calls,
                  result.calls.turns,
                  result.report.agent ? describe(result.report.agent->exit) : "not started"));
  std::string about = printable(result.reward_error);
  if (!result.reward_clamped.empty()) {
    about = fmt::format("{} is out of the task's reward_min and reward_max",
                        printable(result.reward_clamped));
  }
  put(fmt::format("reward   {}{}\n", result.reward ? fmt::format("{:.2f}", *result.reward) : "null",
                  about.empty() ? "" : "  " + about));
  put(fmt::format("time     {}\n", duration_text(result.wall)));
  put(fmt::format("result   {}/result.json\ntrace    {}\n", directory, result.trace));
  if (!result.kept_files.empty()) {
    put(fmt::format("files    {}\n         look into them: sluice sandboxes shell {}\n",
                    result.kept_files, result.kept_files));
  }
}

int exit_code_of(rollout::ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kNone:
      return 0;
    case ErrorKind::kInfrastructure:
    case ErrorKind::kPolicy:
      return exit_code(ErrorCode::kUnavailable);
    case ErrorKind::kCancelled:
      return exit_code(ErrorCode::kCancelled);
    default:
      return 1;
  }
}

}  // namespace sluice::cli
