// BodyReader: reads bodies again that were put away, and inflates compressed ones, on threads that
// may wait for a disk, for whoever lives on a loop and is about to look at them.
//
// One for a gate. Any shard; outlives the reads that it was asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
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
  // Has something else done there that looks at bodies.
  net::awaitable<void> run(std::function<void()> work) { return pool_.run(std::move(work)); }
  net::awaitable<Held> read(llm::Body body) { return read(std::vector{std::move(body)}, SIZE_MAX); }

  // A body that its agent compressed, as decode_content() gives it.
  net::awaitable<Result<Bytes>> inflate(std::string coding, Bytes coded, size_t max);

 private:
  net::BlockingPool pool_{2};
  net::BlockingPool inflating_{1};  // no agent's work is in the way of a reading
};

}  // namespace sluice::gate
