#include <fmt/format.h>

#include <stdexcept>

#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {
namespace {

constexpr const Area* kAreas[] = {&commands, &jobs, &files, &ports, &life, &attacks};

}  // namespace

std::string show_text(std::string_view text) {
  if (text.size() <= 300) return fmt::format("\"{}\"", text);
  return fmt::format("\"{}...\" ({} bytes)", text.substr(0, 300), text.size());
}

Try::~Try() {
  close_shared();
}

Sandbox& Try::shared() {
  const bool usable = shared_ && shared_from_ == backend_ && wait(shared_->kill_all()).has_value();
  if (!usable) {
    close_shared();
    shared_ = must(create(sandbox::Options()));
    shared_from_ = backend_;
  }
  const auto cleaned = wait(shared_->reset_directory(kWorkdir, kAgentUser, 0755));
  if (!cleaned) throw std::runtime_error("empty the workdir: " + cleaned.error().message);
  return *shared_;
}

void Try::close_shared() {
  if (shared_) SLUICE_EXPECT_OK(*this, wait(shared_->close()));
  shared_.reset();
}

Result<std::unique_ptr<Sandbox>> Try::create(sandbox::Options options) {
  return wait(backend_->create(shard_, std::move(options)));
}

std::unique_ptr<Sandbox> Try::must(Result<std::unique_ptr<Sandbox>> made) {
  // There is nothing to go on with.
  if (!made) throw std::runtime_error("no sandbox can be made: " + made.error().message);
  return std::move(*made);
}

Sandbox& Try::keep(Result<std::unique_ptr<Sandbox>> made) {
  return *fresh_.emplace_back(must(std::move(made)));
}

Command Try::shell(const std::string& script, const char* user) {
  Command command = Command::shell(script);
  command.env = {{"PATH", "/usr/local/bin:/usr/bin:/bin"}, {"HOME", kHome}};
  command.user = user;
  command.deadline = Deadline::in(kPatience);
  return command;
}

Command Try::program(std::vector<std::string> argv) {
  Command command;
  command.argv = std::move(argv);
  command.env = {{"PATH", "/usr/local/bin:/usr/bin:/bin"}};
  command.deadline = Deadline::in(kPatience);
  return command;
}

Output Try::exec(Sandbox& sandbox, Command command) {
  auto output = wait(sandbox.exec(std::move(command)));
  SLUICE_EXPECT_OK(*this, output);
  return output ? std::move(*output) : Output();
}

Output Try::sh(Sandbox& sandbox, const std::string& script, const char* user) {
  return exec(sandbox, shell(script, user));
}

std::unique_ptr<Job> Try::start(Sandbox& sandbox, const std::string& script, const char* user) {
  auto job = wait(sandbox.start(shell(script, user)));
  SLUICE_EXPECT_OK(*this, job);
  if (!job) throw std::runtime_error("a command does not start: " + job.error().message);
  return std::move(*job);
}

std::string Try::read(Job& job, Job::Channel channel) {
  std::string all;
  for (;;) {
    auto piece = wait(job.read_output(channel, 64 * 1024));
    SLUICE_EXPECT_OK(*this, piece);
    if (!piece || piece->empty()) return all;
    all += *piece;
  }
}

void Try::expect_still(Sandbox& sandbox, const std::string& file) {
  const std::string before = out(sandbox, "wc -c < " + file);
  sh(sandbox, "sleep 0.2");
  SLUICE_EXPECT_EQ(*this, out(sandbox, "wc -c < " + file), before);
}

std::string Try::carry_attacks(Sandbox& sandbox) {
  const std::string path = "/tmp/attacks";
  WriteOptions options;
  options.user = kSetupUser;
  options.mode = 0755;
  SLUICE_EXPECT_OK(*this, wait(sandbox.write_file(path, Bytes(attack_programs()), options)));
  return path;
}

void Try::skip(std::string why) {
  skipped_ = std::move(why);
}

void Try::fail(const char* file, int line, const std::string& what) {
  if (failures_.size() < 20) failures_.push_back(fmt::format("{}:{}: {}", file, line, what));
}

void Try::begin(Backend* backend) {
  backend_ = backend;
  failures_.clear();
  skipped_.clear();
  began_ = Clock::now();
}

Outcome Try::end(const char* area, const char* name) {
  for (auto& sandbox : fresh_) SLUICE_EXPECT_OK(*this, wait(sandbox->close()));
  fresh_.clear();
  Outcome outcome;
  outcome.area = area;
  outcome.name = name;
  outcome.took = Clock::now() - began_;
  if (!failures_.empty()) {
    outcome.state = Outcome::State::kFailed;
    outcome.why = fmt::format("{}", fmt::join(failures_, "\n"));
    close_shared();  // who knows in what state it is
  } else if (!skipped_.empty()) {
    outcome.state = Outcome::State::kSkipped;
    outcome.why = skipped_;
  }
  return outcome;
}

std::vector<std::string> areas() {
  std::vector<std::string> names;
  for (const Area* area : kAreas) names.emplace_back(area->name);
  return names;
}

std::vector<Outcome> run(const Options& options, const std::function<void(const Outcome&)>& tell) {
  net::Shard shard;
  Try t(&shard, &options);
  std::vector<Outcome> outcomes;
  for (const Area* area : kAreas) {
    for (Backend* backend : {options.backend, area == &ports ? options.carrying : nullptr}) {
      if (backend == nullptr) continue;
      const bool carrying = area == &ports && backend == options.carrying;
      for (const Case& one : area->cases) {
        const std::string name = carrying ? std::string(one.name) + "_carried" : one.name;
        const std::string whole = fmt::format("{}.{}", area->name, name);
        if (whole.find(options.matching) == std::string::npos) continue;
        t.begin(backend);
        try {
          one.run(t);
        } catch (const std::exception& e) {
          t.fail("exception", 0, e.what());
        }
        outcomes.push_back(t.end(area->name, name.c_str()));
        tell(outcomes.back());
      }
    }
  }
  return outcomes;
}

}  // namespace sluice::sandbox::conformance
