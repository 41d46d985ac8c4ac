#include "sluice/net/signals.h"

#include <boost/asio/signal_set.hpp>

namespace sluice::net {

struct Signals::State : std::enable_shared_from_this<State> {
  State(Shard& shard, std::function<void(int)> c) : set(shard.executor()), callback(std::move(c)) {}

  void wait() {
    set.async_wait([self = shared_from_this()](boost::system::error_code error, int number) {
      if (error) return;
      self->wait();
      self->callback(number);
    });
  }

  boost::asio::basic_signal_set<Executor> set;
  std::function<void(int)> callback;
};

Signals::Signals(Shard& shard, const std::vector<int>& numbers, std::function<void(int)> callback)
    : state_(std::make_shared<State>(shard, std::move(callback))) {
  for (const int number : numbers) state_->set.add(number);
  state_->wait();
}

Signals::~Signals() {
  boost::system::error_code ignored;
  state_->set.cancel(ignored);
}

}  // namespace sluice::net
