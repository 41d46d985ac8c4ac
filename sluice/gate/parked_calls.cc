#include "sluice/gate/parked_calls.h"

#include <utility>

namespace sluice::gate {
namespace {

// Of all by which a request is told from others: a session's name counts as its body does.
Digest digest_of(llm::Dialect dialect, const std::string& session, const Digest& body) {
  Digest out = xxh3_128(session);
  out.low ^= body.low + static_cast<uint64_t>(dialect);
  out.high ^= body.high;
  return out;
}

Digest digest_of(const llm::Call& call) {
  return digest_of(call.dialect, call.session.value, call.digest);
}

}  // namespace

ParkedCalls::ParkedCalls(const Registration& registration, Core& core, GiveUp give_up)
    : registration_(registration),
      core_(core),
      give_up_(std::move(give_up)),
      grace_timer_(registration.shard->wheel()),
      put_away_timer_(registration.shard->wheel()) {}

void ParkedCalls::add(const Parked& parked) {
  const llm::Call& call = *parked->call;
  last_ = call.ordinal;
  if (call.body.size() >= llm::Body::kWorthPuttingAway) await_putting_away();
  calls_[call.id.value] = parked;
  by_digest_[digest_of(call)] = parked;
}

void ParkedCalls::remove(const Parked& parked) {
  const auto same = by_digest_.find(digest_of(*parked->call));
  if (same != by_digest_.end() && same->second.lock() == parked) by_digest_.erase(same);
  calls_.erase(parked->call->id.value);
}

ParkedCalls::Parked ParkedCalls::find(const CallId& id) const {
  const auto it = calls_.find(id.value);
  return it == calls_.end() ? nullptr : it->second;
}

ParkedCalls::Parked ParkedCalls::find_same(const ResendMarks& marks,
                                           const std::string& session) const {
  const auto it = by_digest_.find(digest_of(marks.dialect, session, marks.digest));
  return it == by_digest_.end() ? nullptr : it->second.lock();
}

std::vector<ParkedCalls::Parked> ParkedCalls::all() const {
  std::vector<Parked> out;
  out.reserve(calls_.size());
  for (const auto& [id, parked] : calls_) out.push_back(parked);
  return out;
}

bool ParkedCalls::abandon(const Parked& parked) {
  const Duration grace = registration_.resend.grace;
  if (grace <= Duration::zero() || stopped_) return false;
  const auto until = Deadline::in(grace).at();
  parked->abandoned_until = until;
  abandoned_.push_back({until, parked});
  if (!grace_timer_.armed()) grace_timer_.arm(Deadline(until), [this] { end_abandoned(); });
  return true;
}

void ParkedCalls::end_abandoned() {
  const auto now = Clock::now();
  while (!abandoned_.empty()) {
    const auto [until, weak] = abandoned_.front();
    const auto parked = weak.lock();
    const bool still =
        parked && parked->state != ParkedCall::State::kEnded && parked->abandoned_until == until;
    if (still && until > now) {
      grace_timer_.arm(Deadline(until), [this] { end_abandoned(); });
      return;
    }
    abandoned_.pop_front();
    if (still) give_up_(parked);
  }
}

void ParkedCalls::await_putting_away() {
  const Duration after = core_.options.put_away_after;
  if (registration_.recorder == nullptr) return;
  if (after == Duration::zero() || put_away_timer_.armed()) return;
  put_away_timer_.arm(Deadline::in(after), [this] { put_away(); });
}

void ParkedCalls::put_away() {
  const uint64_t up_to = std::exchange(put_away_up_to_, last_);
  bool more = recent_.put_away(up_to);
  for (const auto& [id, parked] : calls_) {
    const llm::Call& call = *parked->call;
    if (call.body.size() < llm::Body::kWorthPuttingAway || parked->put_away) continue;
    if (call.ordinal > up_to || !call.body.put_away()) {
      more = true;  // a disk may be slow
      continue;
    }
    parked->put_away = true;
    GateTotals::add(core_.totals.put_away_bytes, call.body.size());
  }
  if (more) await_putting_away();
}

void ParkedCalls::stop() {
  stopped_ = true;
  grace_timer_.disarm();
  put_away_timer_.disarm();
}

}  // namespace sluice::gate
