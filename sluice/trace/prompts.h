// Prompts: what the token ids of a rollout's next prompts may begin with. An agent's next turn
// mostly begins with its last one's prompt and completion, which then need not be kept again. They
// are known again by their digests.
//
// Of a recorder's writer thread alone. Cheap to copy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sluice/base/id.h"

namespace sluice::trace {

// The ids of an answered call.
struct TurnIds {
  CallId call;
  std::vector<int32_t> prompt;
  std::optional<std::vector<int32_t>> completion;  // if there is but one
};

class Prompts {
 public:
  // As many turns are remembered: agents and their sub-agents ask in between each other.
  static constexpr size_t kMost = 16;

  // The turn that the prompt begins with, and how many ids that are; none.
  struct Beginning {
    CallId call;
    size_t ids = 0;
  };
  std::optional<Beginning> beginning_of(const TurnIds& turn) const;
  // The turn was kept, so that a later one may begin with it. It takes the place of the one that it
  // begins with itself.
  void kept(const TurnIds& turn, const std::optional<Beginning>& beginning);

 private:
  struct Turn;
  std::vector<std::shared_ptr<const Turn>> turns_;  // the newest at the back
};

}  // namespace sluice::trace
