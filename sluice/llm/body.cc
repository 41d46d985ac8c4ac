#include "sluice/llm/body.h"

#include <array>
#include <functional>
#include <mutex>
#include <utility>

namespace sluice::llm {

struct Body::State {
  // A mutex is as large as all of this, there is a body for each parked call, and it is looked at a
  // few times in its life: bodies share some.
  std::mutex& mutex() const {
    static std::array<std::mutex, 61> mutexes;
    return mutexes[std::hash<const State*>()(this) % mutexes.size()];
  }

  explicit State(std::shared_ptr<const Bytes> b) : size(b->size()), bytes(std::move(b)) {}

  const size_t size;
  std::shared_ptr<const Bytes> bytes;  // null if put away
  std::shared_ptr<const Store> store;  // never null if the bytes are
};

Body::Body(std::shared_ptr<const Bytes> bytes)
    : state_(std::make_shared<State>(std::move(bytes))) {}

size_t Body::size() const {
  return state_->size;
}

std::shared_ptr<const Bytes> Body::in_memory() const {
  const std::lock_guard lock(state_->mutex());
  return state_->bytes;
}

std::shared_ptr<const Bytes> Body::at_hand() const {
  const std::lock_guard lock(state_->mutex());
  return state_->bytes ? state_->bytes : state_->store->read_again_.lock();
}

Result<std::shared_ptr<const Bytes>> Body::bytes() const {
  if (auto bytes = at_hand()) return bytes;
  std::shared_ptr<const Store> store;
  {
    const std::lock_guard lock(state_->mutex());
    store = state_->store;
  }
  SLUICE_TRY(Bytes again, store->read());
  auto bytes = std::make_shared<const Bytes>(std::move(again));
  const std::lock_guard lock(state_->mutex());
  store->read_again_ = bytes;
  return bytes;
}

void Body::kept_in(std::shared_ptr<const Store> store) const {
  const std::lock_guard lock(state_->mutex());
  state_->store = std::move(store);
}

bool Body::put_away() const {
  std::shared_ptr<const Bytes> freed;  // outside of the lock
  const std::lock_guard lock(state_->mutex());
  if (!state_->store) return false;
  freed = std::exchange(state_->bytes, nullptr);
  return true;
}

}  // namespace sluice::llm
