#include "sluice/cli/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "sluice/agent/bundle.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/wiring.h"
#include "sluice/env/coding/coding.h"
#include "sluice/net/signals.h"
#include "sluice/net/socket.h"
#include "sluice/upstream/passthrough.h"
#include "sluice/upstream/targets.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

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
    raise_descriptor_limit();
    SLUICE_TRY_VOID(allow_targets());
    SLUICE_TRY(const auto wiring, Wiring::make(wiring_options(log)));
    env::RolloutBoard board(shard_);
    env::coding::CodingOptions coding = coding_options(log);
    if (const TrainerSide* trainer = wiring->trainer()) {
      log.info("serve", "trainer API",
               {{"address", trainer->address()}, {"keys", trainer->keys_file()}});
      coding.trainer = trainer_access(wiring->gate(), *trainer);
    }
    env::coding::CodingFactory factory({shard_, pool_, wiring->engine(), board}, std::move(coding));
    env::ServerOptions options = settings_.server;
    options.log = log;
    options.rollouts = &board;
    SLUICE_TRY(auto server, env::EnvServer::make(shard_, factory, std::move(options)));
    SLUICE_TRY(auto listener, net::listen_tcp(shard_, settings_.host, settings_.port));
    const std::string address = listener->address();
    if (auto served = server->serve(std::move(listener)); !served) {
      served.error().message += " (keys: --key-file or SLUICE_KEYS; without: --no-keys)";
      return std::move(served).error();
    }
    bool stopping = false;
    bool stopped = false;
    const net::Signals signals(shard_, {SIGINT, SIGTERM}, [&](int) {
      if (std::exchange(stopping, true)) {
        wiring->engine().cancel_all("cancelled: the server stops");
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
  static net::awaitable<void> stop_then_set(env::EnvServer* server, Deadline deadline, bool* done) {
    co_await server->stop(deadline);
    *done = true;
  }

  WiringOptions wiring_options(const Logger& log) const {
    WiringOptions options;
    options.shards = settings_.shards;
    options.backend = settings_.backend;
    options.traces = settings_.data;
    options.gate = settings_.gate;
    if (!settings_.trainer_listen.empty()) {
      std::error_code failed;  // then writing the keys tells
      std::filesystem::create_directories(settings_.data, failed);
      options.trainer.emplace();
      options.trainer->listen = settings_.trainer_listen;
      options.trainer->keys_file = settings_.data + "/trainer-keys";
    }
    options.engine.limits.concurrency = settings_.max_rollouts;
    options.engine.limits.queued = SIZE_MAX;  // as many as there are sessions
    options.engine.retries = settings_.retries;
    options.engine.policy_retries = std::min(settings_.retries, kPolicyRetries);
    options.engine.give_up_after = 0;
    options.log = log;
    return options;
  }

  // What is configured here was said by whoever runs the server.
  Result<void> allow_targets() {
    for (const std::string& host : settings_.allow_upstreams) {
      auto allowed = targets_.allow(host);
      if (!allowed) return std::move(allowed).error().within("--allow-upstreams");
    }
    for (const std::string& url : env::coding::configured_urls(settings_.variables)) {
      // One that is none is told to whoever names its kind.
      if (const auto parsed = net::Url::parse(url)) targets_.allow(*parsed);
    }
    return {};
  }

  env::coding::CodingOptions coding_options(const Logger& log) {
    env::coding::CodingOptions options;
    options.agents_directory = settings_.agents_directory;
    options.templates_directory = settings_.templates_directory;
    options.variables = settings_.variables;
    options.defaults = settings_.defaults;
    options.step_timeout = settings_.step_timeout;
    options.upstream = [this](net::Shard* shard, const env::coding::Upstream& where) {
      upstream::PassthroughOptions passthrough;
      passthrough.base_url = where.base_url;
      passthrough.key = where.key;
      if (settings_.upstream_silence) passthrough.set_silence(*settings_.upstream_silence);
      if (const auto url = net::Url::parse(where.base_url))
        passthrough.check = targets_.check(*url);
      upstream::Rewrite& rewrite = passthrough.rewrite;
      if (where.disable_thinking) rewrite.thinking = upstream::Thinking::kOff;
      rewrite.max_tokens_cap = where.max_tokens_cap;
      rewrite.top_logprobs = where.top_logprobs;
      return upstream::make_passthrough(*shard, names_, std::move(passthrough));
    };
    options.check_upstream = [this](const std::string& base_url) {
      return targets_.look(base_url);
    };
    options.bundle = [log](const agent::Spec& spec) {
      const agent::Bundles bundles(agent::default_bundle_directory());
      return bundles.install(
          spec, [&](std::string_view line) { log.info("bundle", line, {{"agent", spec.name}}); });
    };
    return options;
  }

  env::coding::TrainerAccess trainer_access(const gate::Handles& gate,
                                            const TrainerSide& side) const {
    env::coding::TrainerAccess access;
    access.attached = [trainer = gate.for_trainer] {
      return trainer.state().trainers > 0;
    };
    access.patience = settings_.trainer_wait;
    access.how["api"] = "http://" + side.address();
    access.how["take"] = "POST /v1/next_batch with the trainer's key and a name";
    access.how["answer"] = "POST /v1/reply";
    access.how["openapi"] = "GET /openapi.json";
    return access;
  }

  void announce(const std::string& address, const Logger& log) const {
    const env::AccessOptions& access = settings_.server.access;
    if (access.policy == env::KeyPolicy::kOff && !env::is_loopback(address)) {
      say(
          fmt::format("sluice: WARNING: keys are off. Whoever reaches {} can run programs on this "
                      "machine's sandboxes and use the model keys of this server.\n",
                      address));
    }
    log.info("serve", "listening",
             {{"address", address},
              {"backend", settings_.backend},
              {"max_sessions", settings_.server.max_sessions},
              {"traces", settings_.data}});
    put(fmt::format("listening on {}\n", address));
    std::fflush(stdout);
  }

  const ServeSettings settings_;
  // Who reaches a server on loopback is on this machine, and reaches what it does.
  upstream::Targets targets_{env::is_loopback(settings_.host)
                                 ? upstream::Targets::Private::kAllowed
                                 : upstream::Targets::Private::kRefused};
  net::Shard shard_;
  net::BlockingPool pool_{4};   // installs agents, which may take minutes
  net::BlockingPool names_{2};  // looks up hosts
};

}  // namespace

int serve_command(Result<ServeSettings> settings) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto code = settings ? Serve(std::move(*settings)).go() : std::move(settings).error();
  return report(code);
}

}  // namespace sluice::cli
