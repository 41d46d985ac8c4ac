// BodyReader: reads bodies again that were put away, on threads that may wait for a disk, for
// whoever lives on a loop and is about to look at them.
//
// One for a gate. Any shard; outlives the reads that it was asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "sluice/llm/body.h"
#include "sluice/net/executor.h"
#include "sluice/net/shard.h"

namespace sluice::gate {

class BodyReader {
 public:
  // While this is held, the bodies are at hand (Body::at_hand()); those that could not be read are
  // not.
  using Held = std::vector<std::shared_ptr<const Bytes>>;
  // Of more than `max` bytes the rest is not read.
  net::awaitable<Held> read(std::vector<llm::Body> bodies, size_t max);
  net::awaitable<Held> read(llm::Body body) { return read(std::vector{std::move(body)}, SIZE_MAX); }

 private:
  net::BlockingPool pool_{2};
};

}  // namespace sluice::gate
