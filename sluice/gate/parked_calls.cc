#include "sluice/gate/parked_calls.h"

#include <algorithm>
#include <utility>

namespace sluice::gate {
namespace {

// Of all by which a request is told from others: its session's name counts as its body does.
Digest digest_of(llm::Dialect dialect, const std::string& session, const Digest& body) {
  Digest out = xxh3_128(session);
  out.low ^= body.low + static_cast<uint64_t>(dialect);
  out.high ^= body.high;
  return out;
}

Digest digest_of(const llm::Call& call) {
  return digest_of(call.dialect, name_of(call.session), call.digest);
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
  by_digest_.emplace(digest_of(call), parked);
}

void ParkedCalls::remove(const Parked& parked) {
  const auto [first, last] = by_digest_.equal_range(digest_of(*parked->call));
  const auto same =
      std::find_if(first, last, [&](const auto& entry) { return entry.second.lock() == parked; });
  if (same != last) by_digest_.erase(same);
  calls_.erase(parked->call->id.value);
}

ParkedCalls::Parked ParkedCalls::find(const CallId& id) const {
  const auto it = calls_.find(id.value);
  return it == calls_.end() ? nullptr : it->second;
}

ParkedCalls::Parked ParkedCalls::find_same(const ResendMarks& marks,
                                           const std::string& session) const {
  const Duration window = registration_.resend.window;
  Parked left, last;
  const auto [begin, end] = by_digest_.equal_range(digest_of(marks.dialect, session, marks.digest));
  for (auto it = begin; it != end; ++it) {
    const Parked parked = it->second.lock();
    if (!parked) continue;
    if (marks.names(parked->marks)) return parked;
    const uint64_t ordinal = parked->call->ordinal;
    if (!parked->is_awaited()) {
      if (!left || ordinal < left->call->ordinal) left = parked;
    } else if (!marks.is_another(parked->marks, window)) {
      if (!last || ordinal > last->call->ordinal) last = parked;
    }
  }
  return left ? left : last;
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

ParkedCalls::Parked ParkedCalls::still(const Abandoned& abandoned) {
  auto parked = abandoned.parked.lock();
  const bool gone = parked && parked->state != ParkedCall::State::kEnded &&
                    parked->abandoned_until == abandoned.until;
  return gone ? parked : nullptr;
}

void ParkedCalls::end_abandoned() {
  const auto now = Clock::now();
  while (!abandoned_.empty()) {
    const Clock::time_point until = abandoned_.front().until;
    const Parked parked = still(abandoned_.front());
    if (parked && until > now) {
      grace_timer_.arm(Deadline(until), [this] { end_abandoned(); });
      return;
    }
    abandoned_.pop_front();
    if (parked) give_up_(parked);
  }
}

void ParkedCalls::give_up_one() {
  while (!abandoned_.empty()) {
    const Parked parked = still(abandoned_.front());
    abandoned_.pop_front();
    if (parked) return give_up_(parked);
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
