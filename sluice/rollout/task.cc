#include "sluice/rollout/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "sluice/agent/fresh.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/id.h"
#include "sluice/base/toml.h"

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMaxTaskFile = 1 << 20;
constexpr size_t kMaxInstruction = 1 << 20;
constexpr size_t kMaxUpload = 64 << 20;
constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kMaxCalls = 1'000'000;
constexpr double kMaxReward = 1e300;

std::string resolve(const std::string& directory, const std::string& path) {
  return (std::filesystem::path(directory) / path).string();
}

// What stands under `key`, or in the file that `file_key` names; one of them must be there.
Bytes read_text(TomlReader& in, std::string_view key, std::string_view file_key,
                const std::string& directory, size_t max, std::string_view must_be) {
  const auto text = in.string(key);
  const auto path = in.string(file_key);
  if (text.has_value() == path.has_value()) in.mistake(key, must_be);
  if (!path) return text.value_or("");
  auto content = read_file(resolve(directory, *path), max);
  if (content) return std::move(*content);
  in.mistake(file_key, content.error().message);
  return {};
}

// One that is not absolute must stay where it starts.
bool names_a_file(const std::string& path) {
  const auto normal = std::filesystem::path(path).lexically_normal();
  return normal.has_filename() && normal != "." && *normal.begin() != "..";
}

std::vector<agent::Upload> read_files(TomlReader& table, const std::string& directory) {
  std::vector<agent::Upload> files;
  for (TomlReader& in : table.tables("files")) {
    agent::Upload upload;
    upload.path = in.required_string("path");
    if (!names_a_file(upload.path)) {
      in.mistake("path", "must be a file's, below the workdir or absolute");
    }
    upload.content = read_text(in, "content", "source", directory, kMaxUpload,
                               "give the file's text by content, or where it is by source");
    upload.mode = in.boolean("executable").value_or(false) ? 0755 : 0644;
    files.push_back(std::move(upload));
  }
  return files;
}

std::vector<std::string> read_commands(TomlReader& in, std::string_view key) {
  std::vector<std::string> commands = in.strings(key);
  if (const auto problem = problem_of(commands)) in.mistake(key, *problem);
  return commands;
}

// `verify = [...]` is short for the table's commands.
void read_verify(TomlReader& root, agent::Verify& verify, const std::string& directory) {
  if (!root.is_table("verify")) {
    verify.commands = read_commands(root, "verify");
    return;
  }
  auto in = root.table("verify");
  verify.commands = read_commands(*in, "commands");
  const auto from = in->one_of("reward", {"auto", "file", "commands"}).value_or("auto");
  if (from == "file") verify.reward = agent::RewardFrom::kFile;
  if (from == "commands") verify.reward = agent::RewardFrom::kCommands;
  if (from == "file" && verify.commands.empty()) {
    in->mistake("reward", "\"file\" needs commands, one of which writes it");
  }
  verify.reward_min = in->number("reward_min", -kMaxReward, kMaxReward).value_or(verify.reward_min);
  verify.reward_max = in->number("reward_max", -kMaxReward, kMaxReward).value_or(verify.reward_max);
  if (verify.reward_max < verify.reward_min) {
    in->mistake("reward_max", "must not be below reward_min");
  }
  const auto where = in->one_of("where", {"same", "fresh"}).value_or("");
  if (where == "same") verify.where = agent::VerifyWhere::kSame;
  if (where == "fresh") verify.where = agent::VerifyWhere::kFresh;
  verify.paths = in->strings("paths");
  verify.exclude = in->strings("exclude");
  verify.start = read_commands(*in, "start");
  verify.files = read_files(*in, directory);
}

void read_task_limits(TomlReader& root, Task& task) {
  auto in = root.table("limits");
  if (!in) return;
  read_limits(*in, task.sandbox.limits);
  task.agent_timeout = in->seconds("agent_timeout_s", 10ms, 24h).value_or(Duration{});
  task.setup_timeout = in->seconds("setup_timeout_s", 10ms, 24h).value_or(task.setup_timeout);
  task.verify.timeout = in->seconds("verify_timeout_s", 10ms, 24h).value_or(task.verify.timeout);
  // Under its older name.
  if (const auto calls = in->integer("calls", 0, kMaxCalls)) {
    task.budget.calls = static_cast<uint64_t>(*calls);
  }
}

// A tarball beside the task's file is meant by its path; all else is the backend's to understand.
std::string resolve_image(const std::string& directory, std::string image) {
  if (image.empty() || image.front() == '/') return image;
  std::error_code error;
  const auto path = std::filesystem::absolute(resolve(directory, image), error);
  return !error && std::filesystem::is_regular_file(path, error) ? path.lexically_normal().string()
                                                                 : image;
}

void read_sandbox(TomlReader& root, Task& task, const std::string& directory) {
  auto in = root.table("sandbox");
  if (!in) return;
  task.sandbox.image = resolve_image(directory, in->string("image").value_or(""));
  task.workdir = in->string("workdir").value_or(task.workdir);
  if (!task.workdir.starts_with(std::string(sandbox::kHome) + "/") ||
      task.workdir.find("/..") != std::string::npos) {
    in->mistake("workdir", fmt::format("must be below {}", sandbox::kHome));
  }
  task.setup_user = in->string("setup_user").value_or(task.setup_user);
  const auto network = in->one_of("network", {"none", "setup", "open"});
  task.sandbox.network = network_named(network.value_or(""));
  task.sandbox.setup_hosts = in->strings("setup_hosts");
}

void read_agent(TomlReader& root, Task& task) {
  auto in = root.table("agent");
  if (!in) return;
  task.approvals = approvals_named(in->one_of("approvals", {"default", "bypass"}).value_or(""));
  task.env = in->string_map("env");
  task.context_window = in->integer("context_window", 1, agent::kMostTokens);
  task.max_output = in->integer("max_output", 1, agent::kMostTokens);
  if (const auto fits = agent::check_tokens(task); !fits) {
    in->mistake("max_output", fits.error().message);
  }
  // Values of any type: a string as it is, the rest as JSON, which the agent's spec may ask for.
  if (auto options = in->table("options")) {
    for (const std::string& name : options->keys()) {
      task.options.emplace(name, options->text(name).value_or(""));
    }
  }
}

void read_tools(TomlReader& root, Task& task) {
  for (TomlReader& in : root.tables("tools")) {
    gate::Tool tool;
    tool.name = in.required_string("name");
    tool.description = in.string("description").value_or("");
    tool.parameters = in.json("parameters").value_or(tool.parameters);
    tool.timeout = in.seconds("timeout_s", 10ms, 1h).value_or(tool.timeout);
    if (const auto fine = gate::check_tool(tool); !fine) in.mistake("", fine.error().message);
    if (std::ranges::find(task.tools, tool.name, &gate::Tool::name) != task.tools.end()) {
      in.mistake("name", "there are two tools of this name");
    }
    task.tools.push_back(std::move(tool));
  }
}

// A task in a folder of its own is called as the folder.
std::string default_id(const std::string& source) {
  std::error_code error;
  const auto path = std::filesystem::absolute(source, error).lexically_normal();
  std::string folder = path.parent_path().filename().string();
  if (path.filename() == "task.toml" && is_valid_id(folder)) return folder;
  return path.stem().string();
}

}  // namespace

Result<Task> parse_task(std::string_view toml, std::string source, const std::string& directory) {
  SLUICE_TRY(TomlReader root, TomlReader::parse(toml, source));
  Task task;
  task.source = source;
  task.id = root.string("id").value_or(default_id(source));
  if (!is_valid_id(task.id)) {
    root.mistake("id", "must be 1 to 64 letters, digits, '.', '-' or '_'");
  }
  task.instruction = read_text(root, "instruction", "instruction_file", directory, kMaxInstruction,
                               "is required: the text, or instruction_file with where it is");
  if (task.instruction.empty()) root.mistake("instruction", "must not be empty");
  task.setup = read_commands(root, "setup");
  read_verify(root, task.verify, directory);
  task.metadata = root.json("metadata").value_or("");
  task.uploads = read_files(root, directory);
  read_sandbox(root, task, directory);
  read_agent(root, task);
  read_tools(root, task);
  read_task_limits(root, task);
  read_budget(root, task.budget);
  read_gate(root, task.gate);
  if (const auto fine = agent::check_places(task); !fine) {
    root.mistake("verify", fine.error().message);
  }
  SLUICE_TRY_VOID(root.finish());
  return task;
}

std::optional<std::string> problem_of(const std::vector<std::string>& commands) {
  for (size_t i = 0; i < commands.size(); ++i) {
    const std::string& command = commands[i];
    if (command.size() > sandbox::kMaxArgument) {
      return fmt::format(
          "command {} has {} bytes, and the kernel takes at most {}: put what it "
          "does into a file ([[files]]) and run that",
          i + 1, command.size(), sandbox::kMaxArgument);
    }
    if (command.find('\0') != std::string::npos) {
      return fmt::format("command {} holds a NUL, which no command can", i + 1);
    }
  }
  return std::nullopt;
}

void read_budget(TomlReader& root, gate::Budget& budget) {
  auto in = root.table("budget");
  if (!in) return;
  const auto count = [&](std::string_view key, int64_t max, auto& into) {
    using Count = std::remove_reference_t<decltype(into)>;
    if (const auto value = in->integer(key, 0, max)) into = static_cast<Count>(*value);
  };
  count("calls", kMaxCalls, budget.calls);
  count("open_calls", kMaxCalls, budget.open_calls);
  count("tokens", int64_t{1} << 50, budget.tokens);
  count("bytes", int64_t{1} << 50, budget.bytes);
  budget.calls_per_second =
      in->number("calls_per_second", 0, 1e6).value_or(budget.calls_per_second);
  budget.time = in->seconds("time_s", Duration::zero(), 720h).value_or(budget.time);
  if (const auto mb = in->integer("host_disk_mb", 0, 1'000'000'000)) {
    budget.host_disk = static_cast<uint64_t>(*mb) << 20;
  }
}

void read_gate(TomlReader& root, GateRules& rules) {
  auto in = root.table("gate");
  if (!in) return;
  if (const auto accept = in->one_of("accept", {"any", "sampled"})) {
    rules.accept = accept_named(*accept);
  }
  if (const auto delivery = in->one_of("delivery", {"whole", "incremental"})) {
    rules.delivery = delivery_named(*delivery);
  }
  if (const auto cut = in->one_of("cut_calls", {"withheld", "sent"})) {
    rules.cut_calls = *cut == "sent" ? gate::CutCalls::kSent : gate::CutCalls::kWithheld;
  }
  if (const auto lag = in->integer("max_version_lag", 0, 1'000'000)) {
    rules.max_version_lag = static_cast<uint64_t>(*lag);
  }
  if (const auto added = in->boolean("tools_in_requests")) {
    rules.tools_in_requests =
        *added ? gate::ToolsInRequests::kAdded : gate::ToolsInRequests::kAsSent;
  }
}

// A limit that is named is a requirement, unless the table says otherwise.
void read_limits(TomlReader& table, sandbox::Limits& limits) {
  const auto strictness = table.one_of("enforce", {"require", "prefer"}) == "prefer"
                              ? sandbox::Strictness::kPrefer
                              : sandbox::Strictness::kRequire;
  const auto limit = [&](std::string_view key, int64_t min, int64_t max, int64_t unit,
                         std::optional<sandbox::Limit>& into) {
    if (const auto value = table.integer(key, min, max)) {
      into = sandbox::Limit{static_cast<uint64_t>(*value * unit), strictness};
    }
  };
  limit("memory_mb", 1, 1 << 24, kMiB, limits.memory_bytes);
  limit("swap_mb", 0, 1 << 24, kMiB, limits.swap_bytes);
  limit("disk_mb", 1, 1 << 24, kMiB, limits.disk_bytes);
  limit("pids", 1, 1 << 22, 1, limits.pids);
  limit("open_files", 1, 1 << 20, 1, limits.open_files);
  if (const auto cpus = table.number("cpus", 0.01, 4096)) {
    limits.cpu_millis = sandbox::Limit{static_cast<uint64_t>(*cpus * 1000), strictness};
  }
}

gate::OriginRule::Accept accept_named(std::string_view name) {
  return name == "sampled" ? gate::OriginRule::Accept::kSampledOnly
                           : gate::OriginRule::Accept::kAny;
}
gate::AnswerDelivery delivery_named(std::string_view name) {
  return name == "incremental" ? gate::AnswerDelivery::kIncremental : gate::AnswerDelivery::kWhole;
}
sandbox::Network network_named(std::string_view name) {
  if (name == "open") return sandbox::Network::kOpen;
  return name == "setup" ? sandbox::Network::kSetup : sandbox::Network::kNone;
}
agent::Approvals approvals_named(std::string_view name) {
  return name == "bypass" ? agent::Approvals::kBypass : agent::Approvals::kAgentDefault;
}

Result<Task> load_task(const std::string& path) {
  auto text = read_file(path, kMaxTaskFile);
  if (!text) return std::move(text).error().within("task").from(ErrorOrigin::kCaller);
  return parse_task(*text, path, std::filesystem::path(path).parent_path().string());
}

}  // namespace sluice::rollout
