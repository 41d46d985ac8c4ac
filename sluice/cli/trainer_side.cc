#include "sluice/cli/trainer_side.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "sluice/base/core/fd.h"
#include "sluice/base/id.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/env/access.h"
#include "sluice/net/socket.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto kStopWithin = 2s;
// How long a trainer who asks for closings has to come for the last ones.
constexpr auto kLastClosings = 5s;
constexpr auto kLook = 20ms;

struct Keys {
  std::string trainer, operators;
  std::string file;
};

// A key that holds blanks is a mistake of a shell or a file, and no client can send it as it is.
Result<void> check_key(const char* name, std::string_view key) {
  constexpr auto kVisible = [](unsigned char c) {
    return c > 0x20 && c < 0x7F;
  };
  if (std::ranges::all_of(key, kVisible)) return {};
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("{} holds blanks or what is not printable ASCII: give a key without "
                           "them, or unset it to have one made",
                           name));
}

// From the environment, else made afresh and written where only this user reads them.
Result<Keys> find_keys(const std::string& file) {
  Keys keys{environment("SLUICE_TRAINER_KEY"), environment("SLUICE_OPERATOR_KEY"), ""};
  SLUICE_TRY_VOID(check_key("SLUICE_TRAINER_KEY", keys.trainer));
  SLUICE_TRY_VOID(check_key("SLUICE_OPERATOR_KEY", keys.operators));
  std::string made;
  const auto make = [&](const char* name, std::string& key) {
    if (!key.empty()) return;
    key = random_hex(32);
    made += fmt::format("{}={}\n", name, key);
  };
  make("SLUICE_TRAINER_KEY", keys.trainer);
  make("SLUICE_OPERATOR_KEY", keys.operators);
  if (made.empty()) return keys;
  SLUICE_TRY_VOID(write_file_atomically(file, made, 0600));
  keys.file = file;
  return keys;
}

// "HOST:PORT", "[v6]:PORT" or ":PORT", which is loopback's.
Result<std::pair<std::string, uint16_t>> parse_address(std::string_view flag,
                                                       std::string_view text) {
  const size_t colon = text.rfind(':');
  const auto port =
      colon == std::string_view::npos ? std::nullopt : parse_decimal(text.substr(colon + 1));
  if (!port || *port > 65535) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("{} {}: must be HOST:PORT, as in 127.0.0.1:8790", flag, text));
  }
  std::string host(text.substr(0, colon));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty() || host == "localhost") host = "127.0.0.1";
  return std::pair(std::move(host), static_cast<uint16_t>(*port));
}

// A warning, not an error: there may be a proxy, a private network, or a person who knows.
void warn_if_open(const std::string& address, std::string_view what) {
  if (env::is_loopback(address)) return;
  say(fmt::format(
      "sluice: WARNING: {} listens on {}, without TLS: keys and calls are readable on the "
      "way. Put a proxy with TLS in front, or use a private network.\n",
      what, address));
}

}  // namespace

// The first to stop is who takes: nobody answers what ends now.
net::awaitable<void> TrainerSide::stop(TrainerSide* self, std::promise<void>* done) {
  const Deadline patience = Deadline::in(kLastClosings);
  while (self->trainer_->closings() > 0 && !patience.expired()) {
    [[maybe_unused]] const auto slept = co_await net::sleep_for(kLook);
  }
  const Deadline deadline = Deadline::in(kStopWithin);
  if (self->service_) co_await self->service_->stop(deadline);
  if (self->agents_) co_await self->agents_->stop(deadline);
  done->set_value();
}

TrainerSide::~TrainerSide() {
  if (!service_) return;
  std::promise<void> done;
  shard_.spawn(stop(this, &done));
  done.get_future().wait();
  shard_.stop();
}

Result<std::unique_ptr<TrainerSide>> TrainerSide::start(const gate::Handles& gate,
                                                        TrainerSideOptions options) {
  SLUICE_TRY(const auto where, parse_address("--trainer-listen", options.listen));
  SLUICE_TRY(Keys keys, find_keys(options.keys_file));
  std::unique_ptr<TrainerSide> made(new TrainerSide());
  made->trainer_ = gate.for_trainer;
  made->keys_file_ = keys.file;
  std::unique_ptr<net::Listener> agents;
  if (!options.agents.empty()) {
    SLUICE_TRY(const auto door, parse_address("--listen", options.agents));
    SLUICE_TRY(agents, net::listen_tcp(made->shard_, door.first, door.second));
    made->agents_url_ =
        options.advertise.empty() ? "http://" + agents->address() : options.advertise;
    while (made->agents_url_.ends_with('/')) made->agents_url_.pop_back();
    gate::http::SharedEndpoint::Options shared;
    shared.max_rollouts = options.max_rollouts;
    shared.body_bytes = options.body_bytes;
    shared.rollout_bodies_bytes = std::max(shared.rollout_bodies_bytes, 2 * shared.body_bytes);
    shared.bodies_bytes = std::max(shared.bodies_bytes, 4 * shared.body_bytes);
    shared.recorder = options.recorder;
    shared.log = options.log;
    made->agents_ = std::make_unique<gate::http::SharedEndpoint>(made->shard_, gate.for_operator,
                                                                 std::move(shared));
  }
  SLUICE_TRY(auto listener, net::listen_tcp(made->shard_, where.first, where.second));
  made->address_ = listener->address();
  gate::trainer_http::ServiceOptions service;
  service.trainer_key = keys.trainer;
  service.operator_key = keys.operators;
  service.agents = made->agents_.get();
  service.recorder = options.recorder;
  service.agents_url = made->agents_url_;
  service.log = options.log;
  SLUICE_TRY(made->service_, gate::trainer_http::TrainerService::make(
                                 made->shard_, gate.for_trainer, std::move(service)));
  warn_if_open(made->address_, "the trainer API");
  if (agents) {
    warn_if_open(agents->address(), "the agents' endpoint");
    made->agents_->serve(std::move(agents));
  }
  made->service_->serve(std::move(listener));
  made->shard_.start();
  return made;
}

}  // namespace sluice::cli
