#include "sluice/agent/printed.h"

#include <utility>

namespace sluice::agent {

awaitable<void> Printed::add(Bytes piece) {
  const bool first = size_ <= kTail;
  size_ += piece.size();
  if (place_ != nullptr && place_->files && size_ > kTail) {
    Bytes before;
    if (first) before = tail_.bytes();
    co_await keep(std::move(before));
    co_await keep(piece);
  }
  tail_.add(piece);
}

awaitable<void> Printed::keep(Bytes piece) {
  if (!lost_.empty() || piece.empty()) co_return;
  if (place_->take && !place_->take(piece.size())) {
    lost_ = "the rollout may write no more to this machine's disk";
    co_return;
  }
  if (!whole_) whole_ = std::make_shared<sandbox::Spool>(place_->files);
  const auto kept = co_await whole_->append(std::move(piece));
  if (!kept) lost_ = kept.error().message;
}

}  // namespace sluice::agent
