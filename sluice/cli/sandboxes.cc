#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <optional>

#include "sluice/base/core/fd.h"
#include "sluice/base/log.h"
#include "sluice/base/printable.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/json/value.h"
#include "sluice/net/shard.h"
#include "sluice/net/signals.h"
#include "sluice/sandbox/sandbox_journal.h"

namespace sluice::cli {
namespace {

using sandbox::Job;

// A shell in a sandbox, joined to our own stdin, stdout and stderr.
class Shell {
 public:
  explicit Shell(const ShellFlags& flags) : flags_(flags) {}

  int go() {
    std::optional<Result<int>> code;
    shard_.spawn(run_into(this, &code));
    shard_.run_until([&] { return code.has_value(); });
    return report(*code);
  }

 private:
  static net::awaitable<void> run_into(Shell* self, std::optional<Result<int>>* code) {
    auto result = co_await self->run();
    code->emplace(std::move(result));
  }

  net::awaitable<Result<int>> run() {
    std::error_code error;
    const auto directory = std::filesystem::canonical(flags_.files, error);
    if (error || !std::filesystem::is_directory(directory)) {
      co_return Error(ErrorCode::kNotFound, flags_.files + " is not a directory of kept files",
                      ErrorOrigin::kCaller);
    }
    SLUICE_CO_TRY(const auto backend, make_backend("local", Logger()));
    sandbox::Options options;
    options.keep_files_in = directory.string();
    auto created = co_await backend->create(&shard_, std::move(options));
    if (!created) co_return std::move(created).error();
    const std::unique_ptr<sandbox::Sandbox> sandbox = std::move(*created);
    auto result = co_await attend(sandbox.get());
    const auto closed = co_await sandbox->close();
    if (!closed) say(fmt::format("sluice: close: {}\n", printable(closed.error().message)));
    co_return result;
  }

  net::awaitable<Result<int>> attend(sandbox::Sandbox* sandbox) {
    sandbox::Command command;
    // Interactive, so that there is a prompt; there is no terminal inside, and so no job control.
    const bool person = ::isatty(0) == 1;
    command = sandbox::Command::shell(person ? "exec bash --noprofile --norc -i 2>&1 || exec sh -i"
                                             : "exec bash --noprofile --norc || exec sh");
    command.user = flags_.user;
    command.env = {{"HOME", sandbox::kHome},
                   {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                   {"LANG", "C.UTF-8"},
                   {"PS1", "sandbox:\\w\\$ "},
                   {"TERM", "dumb"}};
    command.output_cap = SIZE_MAX;
    auto started = co_await sandbox->start(std::move(command));
    if (!started) co_return std::move(started).error();
    const std::unique_ptr<Job> job = std::move(*started);

    const net::Signals signals(shard_, {SIGINT, SIGTERM}, [&](int) { stop_reading(); });
    net::TaskGroup pumps(shard_.executor());
    pumps.spawn(copy_out(job.get(), Job::Channel::kOut, 1));
    pumps.spawn(copy_out(job.get(), Job::Channel::kErr, 2));
    pumps.spawn(copy_in(job.get()));
    auto exit = co_await job->wait(Deadline::never());
    stop_reading();
    if (!exit) co_return std::move(exit).error();
    // What it left in the background would hold its output open.
    const auto killed = co_await sandbox->kill_all();
    if (!killed) co_return killed.error();
    co_await pumps.join();
    co_return exit->reason == sandbox::Exit::Reason::kExited ? exit->status : 128 + exit->signal;
  }

  static net::awaitable<void> copy_out(Job* job, Job::Channel channel, int fd) {
    for (;;) {
      const auto piece = co_await job->read_output(channel, 64 * 1024);
      if (!piece || piece->empty()) co_return;
      if (!write_all(fd, *piece)) co_return;
    }
  }

  net::awaitable<void> copy_in(Job* job) {
    for (;;) {
      Bytes piece;
      std::function<void()> read = [&] {
        piece = read_input();
      };
      co_await input_.run(std::move(read));
      if (piece.empty()) break;
      const auto written = co_await job->write_stdin(std::move(piece));
      if (!written) co_return;
    }
    const auto closed = co_await job->close_stdin();
    static_cast<void>(closed);
  }

  // Blocks until there is input, its end (then empty), or stop_reading(). On a pool thread: making
  // a terminal non-blocking would do so to the shell that started us, too.
  Bytes read_input() {
    pollfd waits[] = {{0, POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (::poll(waits, 2, -1) < 0 || waits[1].revents != 0) return {};
    Bytes buffer(4096, '\0');
    const ssize_t n = ::read(0, buffer.data(), buffer.size());
    buffer.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return buffer;
  }

  void stop_reading() {
    const uint64_t one = 1;
    [[maybe_unused]] const auto ignored = ::write(stop_.get(), &one, sizeof one);
  }

  const ShellFlags& flags_;
  net::Shard shard_;
  net::BlockingPool input_{1};
  Fd stop_{::eventfd(0, EFD_CLOEXEC)};
};

std::string time_of(int64_t seconds) {
  return fmt::format("{:%FT%TZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

}  // namespace

int sandboxes_list_command(const SandboxesFlags& flags) {
  const auto entries = sandbox::SandboxJournal::list(sandbox_journals());
  json::Array rows;
  for (const auto& entry : entries) {
    json::Object labels;
    std::string words;
    for (const auto& [name, label] : entry.labels) {
      labels[name] = label;
      words += " " + name + "=" + label;
    }
    if (!flags.json) {
      put(fmt::format("{:<6} {:<20} {} engine {:<8} {}{}\n", entry.backend, printable(entry.id),
                      time_of(entry.since), entry.owner, entry.owner_lives ? "alive" : "DEAD",
                      printable(words)));
    }
    json::Object row;
    row["backend"] = entry.backend;
    row["id"] = entry.id;
    row["since"] = time_of(entry.since);
    row["engine"] = entry.owner;
    row["engine_lives"] = entry.owner_lives;
    row["labels"] = std::move(labels);
    rows.push_back(std::move(row));
  }
  if (flags.json) {
    put_json(json::serialize(rows));
  } else if (entries.empty()) {
    put("no sandboxes\n");
  }
  return 0;
}

int sandboxes_reap_command(const SandboxesFlags& flags) {
  // Starting a backend reaps; what it says now is of what came up meanwhile.
  const size_t before = sandbox::SandboxJournal::list(sandbox_journals()).size();
  const auto backend = make_backend(flags.backend, Logger());
  if (!backend) return report(backend.error());
  const size_t after = sandbox::SandboxJournal::list(sandbox_journals()).size();
  put(fmt::format("{} left by dead engines, removed\n", before > after ? before - after : 0));
  return 0;
}

int sandboxes_shell_command(const ShellFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  return Shell(flags).go();
}

}  // namespace sluice::cli
