// Items: what passes between the gate and its trainers, and who takes.
//
// Plain values; any thread.
#pragma once

#include <functional>
#include <optional>
#include <variant>

#include "sluice/gate/books.h"
#include "sluice/gate/tools.h"
#include "sluice/llm/call.h"

namespace sluice::gate {

// A rollout's last item for its trainer, but for its closing; given when what was before it is
// recorded.
struct Ended {
  RolloutId rollout;
  std::string reason;  // in plain words
  About about = {};
};
inline constexpr std::string_view kAgentEnded = "the agent has ended";

// What a trainer takes.
struct Item {
  using What = std::variant<std::shared_ptr<const llm::Call>, std::shared_ptr<const ToolRequest>,
                            Ended, std::shared_ptr<const Books>>;
  What what;
  uint32_t deliveries = 1;  // how often it was handed out, this time included
  std::string version;      // the policy's, as the last resume() said
  std::shared_ptr<void> receipt;

  const llm::Call* call() const {
    const auto* call = std::get_if<0>(&what);
    return call == nullptr ? nullptr : call->get();
  }
  const ToolRequest* tool() const {
    const auto* tool = std::get_if<1>(&what);
    return tool == nullptr ? nullptr : tool->get();
  }
  const Ended* ended() const { return std::get_if<Ended>(&what); }
  // What came of a rollout: behind its end, for who asks for such.
  const Books* closed() const {
    const auto* closed = std::get_if<3>(&what);
    return closed == nullptr ? nullptr : closed->get();
  }
};

// Who takes. What a named trainer has taken and not answered is given to others when nothing is
// heard of it for `lease` and no take of it is waiting; ends count as received when it takes again.
struct Taker {
  enum class Start : uint8_t {
    kContinue,
    kAfresh,  // it has just started: what its name still holds was an earlier process's
  };
  std::string name;  // "": this process, which keeps what it takes
  Duration lease = std::chrono::seconds(60);
  Start start = Start::kContinue;
};

struct TakeRequest {
  size_t max = 1;
  std::optional<RolloutId> rollout;  // none: any
  bool closings = false;             // also what came of rollouts
  Taker taker;
};

// How the gate stands to its trainers.
struct TrainerState {
  bool paused = false;
  std::string version;
  uint64_t versions = 0;  // how many there were
  size_t rollouts = 0;    // open for trainers, or ended and not taken
  size_t waiting = 0;     // calls
  size_t held = 0;        // items
  size_t trainers = 0;    // named ones
};

// What a trainer gives.
using TrainerReply = std::variant<llm::Answer, llm::Refusal>;

// Whom to tell what became of a reply. `accepted` is called when the answer is recorded or could
// not be, `ended` when the call has ended: with an error too if the answer or the end is not
// recorded, which says how it ended. Both at once, with the error, if the answer was not taken. On
// the rollout's shard, or on the thread that replies before that returns; either may be empty.
struct Replied {
  std::function<void(Result<void>)> accepted;
  std::function<void(Result<llm::Outcome>)> ended;
};

}  // namespace sluice::gate
