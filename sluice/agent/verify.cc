#include "sluice/agent/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sluice::agent {
namespace {

using sandbox::Command;

constexpr size_t kRowOutput = 1024 * 1024;
constexpr size_t kMaxRewardFile = 4096;

// What git would run because a repository's own configuration says so, without being asked for it.
// The work is the verifier's now, so that its owner is no reason to doubt it.
constexpr std::pair<const char*, const char*> kGit[] = {
    {"safe.directory", "*"},         {"core.fsmonitor", "false"},
    {"core.hooksPath", "/dev/null"}, {"core.pager", "cat"},
    {"core.editor", "false"},        {"sequence.editor", "false"},
    {"core.sshCommand", "false"},    {"credential.helper", ""},
    {"gpg.program", "false"},        {"gpg.ssh.program", "false"},
    {"gpg.x509.program", "false"},   {"safe.bareRepository", "explicit"},
    {"log.showSignature", "false"},  {"commit.gpgSign", "false"},
    {"tag.gpgSign", "false"},        {"protocol.ext.allow", "never"}};

void set(sandbox::Env& env, std::string_view name, std::string value) {
  const auto found = std::find_if(env.begin(), env.end(),
                                  [&](const auto& variable) { return variable.first == name; });
  if (found == env.end()) {
    env.emplace_back(name, std::move(value));
  } else {
    found->second = std::move(value);
  }
}

// Not the agent's HOME: what programs read there (git, pip, shells) would be the agent's word.
sandbox::Env verify_env(const sandbox::HandedOver& handed) {
  sandbox::Env env = shell_env(sandbox::kVerifierDir, "verifier");
  set(env, "PATH", handed.path);
  set(env, "TMPDIR", std::string(sandbox::kVerifierPlace) + "/tmp");
  size_t count = 0;
  for (const auto& [key, value] : kGit) {
    set(env, fmt::format("GIT_CONFIG_KEY_{}", count), key);
    set(env, fmt::format("GIT_CONFIG_VALUE_{}", count), value);
    ++count;
  }
  set(env, "GIT_CONFIG_COUNT", std::to_string(count));
  set(env, "GIT_TERMINAL_PROMPT", "0");
  set(env, "GIT_NO_LAZY_FETCH", "1");
  return env;
}

// What the verifier finds, or why there is nothing to be judged.
awaitable<Result<sandbox::HandedOver>> take_over(VerifyParts parts) {
  Report* const report = parts.report;
  const auto leftovers =
      report->verify_where == "fresh" ? sandbox::Leftovers::kKeep : sandbox::Leftovers::kRemove;
  auto handed = co_await parts.sandbox->hand_over(parts.work->workdir, leftovers);
  if (!handed) {
    if (is_end(handed.error())) co_return handed;
    report->unjudged = "the work cannot be handed over: " + handed.error().message;
    co_return sandbox::HandedOver();
  }
  for (std::string& note : handed->notes) report->warnings.push_back(std::move(note));
  if (handed->shell.empty()) {
    report->unjudged = "there is no shell that the agent could not have changed";
  }
  co_return handed;
}

awaitable<Result<void>> read_reward(sandbox::Sandbox* sandbox, Report* report) {
  std::string path = std::string(sandbox::kVerifierDir) + "/reward.txt";
  auto reward = co_await sandbox->read_file(std::move(path), kMaxRewardFile, sandbox::kVerifyUser);
  if (reward) {
    report->reward_file = std::move(*reward);
  } else if (is_end(reward.error())) {
    co_return std::move(reward).error();
  } else if (reward.error().code != ErrorCode::kNotFound) {
    report->reward_file_error = reward.error().message;
  }
  co_return Result<void>();
}

}  // namespace

sandbox::Env shell_env(std::string home, std::string user) {
  return {{"HOME", std::move(home)},
          {"PATH", sandbox::kStandardPath},
          {"USER", std::move(user)},
          {"LANG", "C.UTF-8"},
          {"TMPDIR", "/tmp"}};
}

bool is_end(const Error& error) {
  return error.code == ErrorCode::kClosed || error.code == ErrorCode::kProtocol ||
         error.code == ErrorCode::kCancelled || error.code == ErrorCode::kInternal;
}

awaitable<void> close_quietly(sandbox::Sandbox* sandbox) {
  const auto ignored = co_await sandbox->close();
}

awaitable<Result<void>> run_row(sandbox::Sandbox* sandbox, std::vector<CommandRow>* rows,
                                std::string script, Command command, const OutputPlace* outputs) {
  size_t kept = 0;
  for (const CommandRow& row : *rows) {
    kept += row.whole.out ? row.whole.out->size() : row.output.out.size();
    kept += row.whole.err ? row.whole.err->size() : row.output.err.size();
  }
  command.output_cap = std::max(kRowOutput, kWholeOutput - std::min(kWholeOutput, kept));
  Printed out(outputs), err(outputs);
  command.take = [&out, &err](sandbox::Channel from, Bytes piece) {
    return (from == sandbox::Channel::kOut ? out : err).add(std::move(piece));
  };
  auto output = co_await sandbox->exec(std::move(command));
  if (!output) co_return std::move(output).error();
  output->out = out.tail();
  output->err = err.tail();
  if (!out.lost().empty() || !err.lost().empty()) output->exit.truncated = true;
  rows->push_back({std::move(script), std::move(*output), "", {out.whole(), err.whole()}});
  co_return Result<void>();
}

awaitable<Result<void>> kill_agent(sandbox::Sandbox* sandbox, Report* report) {
  auto killed = co_await sandbox->kill_user(sandbox::kAgentUser);
  if (!killed && !is_end(killed.error())) killed = co_await sandbox->kill_all();
  if (killed || is_end(killed.error())) co_return killed;
  report->unjudged = "what the agent started does not end: " + killed.error().message;
  co_return Result<void>();
}

awaitable<Result<void>> verify(VerifyParts parts) {
  const Verify& how = parts.work->verify;
  Report* const report = parts.report;
  sandbox::HandedOver handed;
  if (report->unjudged.empty()) {
    SLUICE_CO_TRY(handed, co_await take_over(parts));
  }
  for (const std::string& script : how.commands) {
    if (!report->unjudged.empty()) {
      report->verify.push_back({script, sandbox::Output(), "not run: " + report->unjudged});
      continue;
    }
    Command command = Command::shell(script, handed.shell);
    command.cwd = parts.work->workdir;
    command.user = sandbox::kVerifyUser;
    command.env = verify_env(handed);
    command.image_path = Command::ImagePath::kLeftOut;
    command.deadline = Deadline::in(how.timeout);
    auto ran =
        co_await run_row(parts.sandbox, &report->verify, script, std::move(command), parts.outputs);
    if (!ran) {
      if (is_end(ran.error())) co_return std::move(ran).error().within(script);
      std::string why = "could not be started: " + ran.error().message;
      report->verify.push_back({script, sandbox::Output(), std::move(why)});
    }
    SLUICE_CO_TRY_VOID(parts.go_on());
  }
  if (!report->unjudged.empty()) co_return Result<void>();
  co_return co_await read_reward(parts.sandbox, report);
}

}  // namespace sluice::agent
