#include "sluice/cli/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "sluice/agent/bundle.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/display.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/trainer_side.h"
#include "sluice/env/coding/coding.h"
#include "sluice/gate/gate.h"
#include "sluice/net/signals.h"
#include "sluice/net/socket.h"
#include "sluice/trace/jsonl.h"
#include "sluice/upstream/passthrough.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

// The threads on which rollouts live; they end after everything that lives on them.
class RolloutShards {
 public:
  explicit RolloutShards(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      shards_.push_back(std::make_unique<net::Shard>(static_cast<int>(i) + 1));
      shards_.back()->start();
    }
  }
  ~RolloutShards() {
    for (const auto& shard : shards_) shard->stop();
  }
  RolloutShards(const RolloutShards&) = delete;
  RolloutShards& operator=(const RolloutShards&) = delete;

  std::vector<net::Shard*> all() const {
    std::vector<net::Shard*> out;
    for (const auto& shard : shards_) out.push_back(shard.get());
    return out;
  }

 private:
  std::vector<std::unique_ptr<net::Shard>> shards_;
};

// The parts of one `sluice serve`, in the order in which they need each other.
class Serve {
 public:
  explicit Serve(ServeSettings settings) : settings_(std::move(settings)) {}

  Result<int> go() {
    const Logger log = settings_.log.empty() ? Logger::to_fd(2, settings_.log_level)
                                             : Logger::to_file(settings_.log, settings_.log_level);
    for (const std::string& key : settings_.server.access.keys) log.redactor().add_secret(key);
    for (const env::coding::EndpointKind& kind : env::coding::endpoint_kinds()) {
      const std::string key = settings_.variables(std::string(kind.key_variable));
      if (!key.empty()) log.redactor().add_secret(key);
    }
    const RolloutShards shards(shard_count());
    SLUICE_TRY(auto backend, make_backend(settings_.backend, log));
    trace::JsonlRecorder recorder(settings_.data, log);
    gate::GateOptions gate_options;
    if (settings_.trainer_text) gate_options.tokens = gate::OriginRule::Tokens::kWaived;
    gate_options.total = settings_.total;
    gate_options.tool_names = settings_.tool_names;
    gate_options.log = log;
    gate::Handles gate = gate::make_gate(gate_options);
    SLUICE_TRY(const auto trainer, start_trainer(gate, log));
    env::RolloutBoard board(shard_);

    const env::coding::CodingParts parts{shard_,   shards.all(), pool_, *backend, gate.for_operator,
                                         recorder, board,        log};
    env::coding::CodingOptions coding = coding_options(log);
    if (trainer) coding.trainer = trainer_desk(gate, *trainer);
    env::coding::CodingFactory factory(parts, std::move(coding));
    env::ServerOptions options = settings_.server;
    options.log = log;
    options.rollouts = &board;
    SLUICE_TRY(auto server, env::EnvServer::make(shard_, factory, std::move(options)));
    SLUICE_TRY(auto listener, net::listen_tcp(shard_, settings_.host, settings_.port));
    const std::string address = listener->address();
    SLUICE_TRY_VOID(server->serve(std::move(listener)));
    bool stopping = false;
    bool stopped = false;
    const net::Signals signals(shard_, {SIGINT, SIGTERM}, [&](int) {
      if (std::exchange(stopping, true)) {
        cancel_all(board);
        return;
      }
      log.info("serve", "stopping", {{"drain_s", to_seconds(settings_.drain)}});
      shard_.spawn(stop_then_set(server.get(), Deadline::in(settings_.drain), &stopped));
    });
    announce(address, log);
    shard_.run_until([&] { return stopped; });
    log.info("serve", "stopped");
    return 0;
  }

 private:
  static double to_seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
  }

  static net::awaitable<void> stop_then_set(env::EnvServer* server, Deadline deadline, bool* done) {
    co_await server->stop(deadline);
    *done = true;
  }

  // A second signal: nobody waits for what runs.
  static void cancel_all(env::RolloutBoard& board) {
    for (const json::Value& row : board.list("running", 1'000'000)) {
      const auto id = json::get_string(row.as_object(), "rollout_id");
      if (!id) continue;
      const auto cancelled = board.cancel(*id);
      static_cast<void>(cancelled);  // it may have ended meanwhile
    }
  }

  size_t shard_count() const {
    if (settings_.shards > 0) return settings_.shards;
    return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4);
  }

  env::coding::CodingOptions coding_options(const Logger& log) {
    env::coding::CodingOptions options;
    options.agents_directory = settings_.agents_directory;
    options.templates_directory = settings_.templates_directory;
    options.variables = settings_.variables;
    options.defaults = settings_.defaults;
    options.max_rollouts = settings_.max_rollouts;
    options.step_timeout = settings_.step_timeout;
    options.upstream = [this](net::Shard* shard, const env::coding::Upstream& where) {
      upstream::PassthroughOptions passthrough;
      passthrough.base_url = where.base_url;
      passthrough.key = where.key;
      upstream::Rewrite& rewrite = passthrough.rewrite;
      if (where.disable_thinking) rewrite.thinking = upstream::Thinking::kOff;
      rewrite.max_tokens_cap = where.max_tokens_cap;
      rewrite.top_logprobs = where.top_logprobs;
      return upstream::make_passthrough(*shard, names_, std::move(passthrough));
    };
    options.bundle = [log](const agent::Spec& spec) {
      const agent::Bundles bundles(agent::default_bundle_directory());
      return bundles.install(
          spec, [&](std::string_view line) { log.info("bundle", line, {{"agent", spec.name}}); });
    };
    return options;
  }

  Result<std::unique_ptr<TrainerSide>> start_trainer(const gate::Handles& gate,
                                                     const Logger& log) const {
    if (settings_.trainer_listen.empty()) return std::unique_ptr<TrainerSide>();
    std::error_code failed;  // then writing the keys tells
    std::filesystem::create_directories(settings_.data, failed);
    TrainerSideOptions options;
    options.listen = settings_.trainer_listen;
    options.keys_file = settings_.data + "/trainer-keys";
    options.log = log;
    SLUICE_TRY(auto side, TrainerSide::start(gate, std::move(options)));
    log.info("serve", "trainer API", {{"address", side->address()}, {"keys", side->keys_file()}});
    return side;
  }

  env::coding::TrainerDesk trainer_desk(const gate::Handles& gate, const TrainerSide& side) const {
    env::coding::TrainerDesk desk;
    desk.attached = [trainer = gate.for_trainer] {
      return trainer.state().trainers > 0;
    };
    desk.patience = settings_.trainer_wait;
    desk.how["api"] = "http://" + side.address();
    desk.how["take"] = "POST /v1/next_batch with the trainer's key and a name";
    desk.how["answer"] = "POST /v1/reply";
    desk.how["openapi"] = "GET /openapi.json";
    return desk;
  }

  void announce(const std::string& address, const Logger& log) const {
    const env::AccessOptions& access = settings_.server.access;
    if (access.policy == env::KeyPolicy::kOff && !env::is_loopback(address)) {
      fmt::print(stderr,
                 "sluice: WARNING: keys are off. Whoever reaches {} can run programs on this "
                 "machine's sandboxes and use the model keys of this server.\n",
                 address);
    }
    log.info("serve", "listening",
             {{"address", address},
              {"backend", settings_.backend},
              {"max_sessions", settings_.server.max_sessions},
              {"traces", settings_.data}});
    fmt::print("listening on {}\n", address);
    std::fflush(stdout);
  }

  const ServeSettings settings_;
  net::Shard shard_;
  net::BlockingPool pool_{4};   // installs agents, which may take minutes
  net::BlockingPool names_{2};  // looks up hosts
};

}  // namespace

int serve_command(const ServeFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  auto settings =
      make_settings(flags, [](const std::string& name) { return environment(name.c_str()); });
  auto code = settings ? Serve(std::move(*settings)).go() : std::move(settings).error();
  if (code) return *code;
  fmt::print(stderr, "sluice: {}\n", printable(code.error().message));
  return exit_code(code.error().code);
}

}  // namespace sluice::cli
