#include "sluice/gate/leases.h"

#include <algorithm>

namespace sluice::gate {

Clock::time_point Holder::expiry() const {
  constexpr auto kNever = Clock::time_point::max();
  if (name.empty() || waits > 0 || lease >= kNever - seen) return kNever;
  return seen + lease;
}

std::shared_ptr<Holder> Leases::holder_of(const Taker& taker) {
  const auto now = Clock::now();
  auto it = holders_.find(taker.name);
  if (it == holders_.end()) {
    if (holders_.size() >= kMost) {
      std::erase_if(holders_, [&](const auto& entry) {
        const Holder& holder = *entry.second;
        return holder.held == 0 && holder.expiry() <= now;
      });
      if (holders_.size() >= kMost) return nullptr;
    }
    it = holders_.emplace(taker.name, std::make_shared<Holder>()).first;
    it->second->name = taker.name;
  }
  it->second->seen = heard_ = now;
  it->second->lease = taker.lease;
  return it->second;
}

Holder* Leases::find(const std::string& name) const {
  const auto it = holders_.find(name);
  return it == holders_.end() ? nullptr : it->second.get();
}

std::vector<Holder*> Leases::expired(Clock::time_point now) const {
  std::vector<Holder*> out;
  for (const auto& [name, holder] : holders_) {
    if (holder->held > 0 && holder->expiry() <= now) out.push_back(holder.get());
  }
  return out;
}

Clock::time_point Leases::next_expiry() const {
  auto next = Clock::time_point::max();
  for (const auto& [name, holder] : holders_) {
    if (holder->held > 0) next = std::min(next, holder->expiry());
  }
  return next;
}

Clock::time_point Leases::heard_last(Clock::time_point now) const {
  const bool waits = std::any_of(holders_.begin(), holders_.end(),
                                 [](const auto& one) { return one.second->waits > 0; });
  return waits ? now : heard_;
}

bool Leases::closings_wanted(Clock::time_point now) const {
  return std::any_of(holders_.begin(), holders_.end(), [&](const auto& one) {
    const Holder& holder = *one.second;
    return holder.closings && !holder.name.empty() && holder.expiry() > now;
  });
}

size_t Leases::held() const {
  size_t held = 0;
  for (const auto& [name, holder] : holders_) held += holder->held;
  return held;
}

size_t Leases::trainers(Clock::time_point now) const {
  return static_cast<size_t>(std::count_if(holders_.begin(), holders_.end(), [&](const auto& one) {
    const Holder& holder = *one.second;
    return !holder.name.empty() && (holder.held > 0 || holder.expiry() > now);
  }));
}

}  // namespace sluice::gate
