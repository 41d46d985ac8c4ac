#include "sluice/gate/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sluice/llm/wire.h"

namespace sluice::gate {
namespace {

using llm::Outcome;
using llm::wire::Members;
using llm::wire::object;

// A looping agent is refused, or sends again, many times; a trace needs to say so only this often.
constexpr uint64_t kMaxNoted = 100;
// Of a trainer that is wrong it is soon known how.
constexpr size_t kToldRejections = 3;
// How often the end of a pass goes to the back of the loop's queue with nothing happening
// meanwhile: an answer's delivery takes so many steps. And in all: under load something always
// happens.
constexpr int kQuietHops = 3;
constexpr int kMaxHops = 32;

// In the rollout's books and in the gate's.
void count(uint64_t& here, GateTotals::Figure& all, uint64_t n = 1) {
  here += n;
  GateTotals::add(all, n);
}

Bytes of_call(const CallId& call) {
  return fmt::format(R"({{"call":"{}"}})", call.value);
}

}  // namespace

Ledger::Ledger(const Registration& registration, std::shared_ptr<Core> core)
    : rollout_(registration.id),
      about_(registration.about),
      core_(std::move(core)),
      shard_(*registration.shard),
      recorder_(registration.recorder) {
  GateTotals::add(core_->totals.rollouts);
  GateTotals::add(core_->totals.open_rollouts);
  watched("rollout_opened");
}

Ledger::~Ledger() {
  GateTotals::subtract(core_->totals.open_rollouts);
}

void Ledger::arrived(const llm::Call& call) {
  GateTotals& totals = core_->totals;
  count(counters_.calls, totals.calls);
  count(counters_.open, totals.open_calls);
  count(counters_.bytes, totals.request_bytes, call.body.size());
  if (trace::Recorder* const to = recorder()) to->arrived(call);
  watched("call_arrived", &call);
}

void Ledger::answered(const llm::Call& call, const llm::Answer& answer) {
  if (trace::Recorder* const to = recorder()) to->answered(call, answer);
  watched("call_answered", &call);
}

void Ledger::ended(const llm::Call& call, Outcome outcome, std::string_view detail) {
  if (trace::Recorder* const to = recorder()) to->ended(call, outcome, detail);
  const auto which = static_cast<size_t>(outcome);
  count(counters_.outcomes[which], core_->totals.outcomes[which]);
  --counters_.open;
  GateTotals::subtract(core_->totals.open_calls);
  if (outcome == Outcome::kDelivered) ++counters_.turns;
  watched("call_ended", &call, "outcome", to_string(outcome));
}

void Ledger::confirmed(const llm::Call& call) {
  if (trace::Recorder* const to = recorder()) to->confirmed(call);
  GateTotals::add(core_->totals.confirmed);
  watched("call_confirmed", &call);
}

void Ledger::resent(const CallId& call) {
  count(counters_.resends, core_->totals.resends);
  if (++noted_resends_ > kMaxNoted) return;
  event("resend", of_call(call));
}

void Ledger::rewritten() {
  count(counters_.rewrites, core_->totals.rewrites);
}

void Ledger::received(const llm::Answer& answer) {
  if (!answer.usage) return;
  const auto tokens = static_cast<uint64_t>(std::max<int64_t>(0, answer.usage->prompt_tokens) +
                                            std::max<int64_t>(0, answer.usage->completion_tokens));
  count(counters_.tokens, core_->totals.tokens, tokens);
}

void Ledger::received_late(const CallId& call) {
  event("received_late", of_call(call));
  watched("call_received_late", nullptr, "call", call.value);
}

void Ledger::answer_bytes(uint64_t bytes) {
  count(counters_.bytes, core_->totals.answer_bytes, bytes);
}

void Ledger::tool_called() {
  count(counters_.tool_calls, core_->totals.tool_calls);
}

void Ledger::refused(const llm::Problem& problem) {
  count(counters_.refused, core_->totals.refused);
  if (++noted_refusals_ > kMaxNoted) return;
  event("refused", object([&](Members& detail) {
          detail.text("kind", to_string(problem.kind));
          detail.text("reason", problem.message);
        }));
}

void Ledger::rejected(const CallId& call, std::string_view reason) {
  count(counters_.rejected, core_->totals.rejected);
  if (counters_.rejections.size() >= kToldRejections) return;
  counters_.rejections.emplace_back(reason);
  core_->options.log.warn("gate", "a trainer's reply was rejected",
                          {{"rollout", rollout_.value}, {"call", call.value}, {"why", reason}});
}

void Ledger::exhausted(std::string_view reason) {
  counters_.budget_exhausted = true;
  if (counters_.budget_reason.empty()) counters_.budget_reason = reason;
}

void Ledger::cancelled(std::string_view reason) {
  counters_.cancelled = true;
  counters_.cancel_reason = reason;
  event("cancelled", object([&](Members& detail) { detail.text("reason", reason); }));
  watched("rollout_cancelled", nullptr, "reason", reason);
}

void Ledger::event(std::string_view kind, std::string_view detail) {
  if (trace::Recorder* const to = recorder()) {
    to->event(rollout_, {std::string(kind), std::string(detail)});
  }
}

void Ledger::watched(std::string_view type, const llm::Call* call, std::string_view name,
                     std::string_view value) {
  if (!core_->events.wanted()) return;
  core_->events.add(type, object([&](Members& members) {
                      members.text("rollout", rollout_.value);
                      if (call != nullptr) members.text("call", call->id.value);
                      if (call != nullptr) members.number("ordinal", call->ordinal);
                      if (!name.empty()) members.text(name, value);
                    }));
}

void Ledger::tell(std::shared_ptr<PendingOutcome> pending, std::optional<Outcome> outcome) {
  if (!pending->awaited()) return;
  told_.push_back({std::move(pending), outcome});
  if (closed_) return end_pass();
  at_pass_end();
}

void Ledger::announce() {
  announce_ = true;
  at_pass_end();
}

void Ledger::end(std::string reason) {
  if (end_) return;
  end_ = std::make_shared<const Ended>(Ended{rollout_, std::move(reason), about_});
  at_pass_end();
}

trace::Recorder* Ledger::recorder() {
  active_ = true;
  return recorder_;
}

void Ledger::at_pass_end() {
  active_ = true;
  if (std::exchange(in_pass_, true)) return;
  pass(kQuietHops, kMaxHops);
}

void Ledger::pass(int quiet_hops, int hops) {
  shard_.post([weak = weak_from_this(), quiet_hops, hops] {
    const auto self = weak.lock();
    if (!self) return;  // it was closed, and with that its pass ended
    const int quiet = std::exchange(self->active_, false) ? kQuietHops : quiet_hops;
    if (quiet == 0 || hops == 0) return self->end_pass();
    self->pass(quiet - 1, hops - 1);
  });
}

void Ledger::end_pass() {
  in_pass_ = false;
  if (std::exchange(announce_, false)) core_->ready.announce(rollout_);
  if (told_.empty() && !end_) return;
  auto tell = [told = std::exchange(told_, {}), end = std::exchange(end_, {}),
               core = core_](const Result<void>& recorded) {
    for (const Told& each : told) each.pending->recorded(recorded, each.outcome);
    if (end) core->ready.end(*end);
  };
  if (recorder_ == nullptr) return tell({});
  recorder_->flush(rollout_, shard_, std::move(tell));
}

net::awaitable<void> Ledger::close() {
  end_pass();
  closed_ = true;
  if (recorder_ != nullptr) {
    [[maybe_unused]] const auto recorded = co_await trace::flushed(recorder_, &shard_, rollout_);
  }
  watched("rollout_closed");
}

}  // namespace sluice::gate
