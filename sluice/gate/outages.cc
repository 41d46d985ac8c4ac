#include "sluice/gate/outages.h"

#include <fmt/format.h>

#include <chrono>
#include <string_view>

namespace sluice::gate {
namespace {

// How long the upstream has to answer the gate itself.
constexpr auto kProbeTime = std::chrono::seconds(5);
constexpr Duration kFirstPause = std::chrono::seconds(1);  // between two questions
// A call that waited for less when the agent ended is nothing to tell of.
constexpr Duration kWorthTelling = std::chrono::seconds(5);

}  // namespace

Outages::Outages(const Registration& registration, Core& core)
    : registration_(registration),
      core_(core),
      base_url_(registration.policy ? registration.policy->base_url() : ""),
      asking_(registration.shard->executor()) {}

void Outages::note_upstream(const ParkedCall& parked) {
  const auto part = parked.progress == nullptr ? std::nullopt : parked.progress->upstreams_part();
  if (!part) return;
  const uint64_t call = parked.call->ordinal;
  const auto now = Clock::now();
  if (part->empty()) {
    watch_.answered(call);
    core_.served.served(base_url_, registration_.id, now);
    if (core_.served.should_ask(base_url_, now)) asking_.spawn(learn(this));
  } else if (parked.progress->is_objection()) {
    watch_.answered(call);
  } else {
    watch_.failed(call, now, *part);
  }
}

void Outages::agent_ended(bool cancelled) {
  watch_.ended(Clock::now());
  if (cancelled) return;
  if (!registration_.policy) {
    look_for_trainer();
  } else if (const auto outage = watch_.upstream()) {
    asking_.spawn(ask(this, *outage));
  }
}

void Outages::look_for_trainer() {
  const Duration lease = core_.options.trainer_lease;
  if (const auto outage = watch_.trainer(core_.ready.trainer_heard_last(), lease)) {
    return found(*outage, "");
  }
  if (watch_.waited() < kWorthTelling) return;
  using Seconds = std::chrono::duration<double>;
  answering_.doubt = fmt::format(
      "a call had waited {:.0f} s for the trainer when the agent ended: that counts as the agent's "
      "doing, as no trainer was silent for --trainer-lease-s ({:g})",
      Seconds(watch_.waited()).count(), Seconds(lease).count());
}

net::awaitable<Result<void>> Outages::probe() const {
  return registration_.policy->probe(*registration_.dialects.begin(), Deadline::in(kProbeTime));
}

net::awaitable<void> Outages::ask(Outages* self, Outage outage) {
  ServedLog& served = self->core_.served;
  const std::string& url = self->base_url_;
  const auto doubt = [&](std::string_view shown) {
    self->answering_.doubt = describe_doubt(outage, url, shown);
  };
  const Deadline until = Deadline::in(self->core_.options.upstream_patience);
  for (Duration pause = kFirstPause;; pause *= 2) {
    if (served.others_served(url, self->registration_.id, outage.since)) {
      co_return doubt("served another rollout meanwhile");
    }
    const bool last = until.expired();
    const auto answers = co_await self->probe();
    if (self->stopped_) co_return;
    if (answers) {
      served.gate_answered(url);
      co_return doubt("answers the gate itself");
    }
    const Error& error = answers.error();
    // Where nobody listens that tells all there is to tell.
    const bool nobody = error.code == ErrorCode::kUnavailable;
    if (!nobody && !served.silence_tells(url)) {
      co_return doubt("never answered the gate itself, also while it served");
    }
    // A key may be good for calls and not for this.
    const bool no_key = error.code == ErrorCode::kPermissionDenied;
    if (no_key && !outage.why.starts_with(error.message)) {
      co_return doubt("answers the gate itself, if only with " + error.message);
    }
    if (nobody || no_key || last) co_return self->found(outage, error.message);
    const auto slept = co_await net::sleep_until(Deadline::in(pause).earlier(until));
    if (!slept) co_return;
  }
}

// In good times.
net::awaitable<void> Outages::learn(Outages* self) {
  const auto answers = co_await self->probe();
  if (answers) self->core_.served.gate_answered(self->base_url_);
}

void Outages::found(const Outage& outage, const std::string& probed) {
  answering_.outage =
      describe(outage, base_url_, probed, Clock::now(), std::chrono::system_clock::now());
  core_.options.log.warn("gate", "whoever answers could not",
                         {{"rollout", registration_.id.value}, {"why", answering_.outage}});
}

net::awaitable<Answering> Outages::answering() {
  co_await asking_.join();
  co_return answering_;
}

void Outages::stop_asking() {
  stopped_ = true;
  asking_.cancel();
}

net::awaitable<void> Outages::close() {
  stop_asking();
  co_await asking_.join();
}

}  // namespace sluice::gate
