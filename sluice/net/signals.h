// Signals of the process (SIGINT, SIGTERM), delivered on a shard. While one of these lives, the
// listed signals do not end the process. One object at a time; on its shard.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "sluice/net/shard.h"

namespace sluice::net {

class Signals {
 public:
  Signals(Shard& shard, const std::vector<int>& numbers, std::function<void(int number)> callback);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sluice::net
