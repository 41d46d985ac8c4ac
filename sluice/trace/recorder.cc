#include "sluice/trace/recorder.h"

#include <memory>
#include <utility>

namespace sluice::trace {

net::awaitable<Result<void>> flushed(Recorder* recorder, net::Shard* shard, RolloutId rollout) {
  struct Wait {
    net::Signal wake;
    std::optional<Result<void>> result;
  };
  const auto wait = std::make_shared<Wait>();
  auto told = [wait](Result<void> result) {
    wait->result = std::move(result);
    wait->wake.notify();
  };
  recorder->flush(rollout, *shard, std::move(told));
  // Whoever is cancelled waits all the same.
  while (!wait->result) co_await wait->wake.wait();
  co_return std::move(*wait->result);
}

}  // namespace sluice::trace
