// Policy: whoever answers a rollout's calls when it is not the trainer.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <variant>

#include "sluice/base/core/result.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/call.h"
#include "sluice/net/http.h"

namespace sluice::gate {

// An answer that is passed through byte for byte from somewhere else as it arrives, never stored.
// The gate runs it on the agent's connection, so that the agent's leaving cancels it.
class Relay {
 public:
  virtual ~Relay() = default;
  // Asks for the answer; status() and headers() are valid when it has succeeded. An error is told
  // to the agent in its dialect's shape.
  virtual net::awaitable<Result<void>> open() = 0;
  virtual int status() const = 0;
  // What the agent is to see of the answer's headers; no framing, nothing hop-by-hop.
  virtual net::Headers headers() const = 0;
  // The next piece, or empty at the end.
  virtual net::awaitable<Result<Bytes>> read_some() = 0;
};

// The one chance to answer a call. Move-only; it is used up by answer(), refuse() or relay(), and
// dropping it unanswered fails the call. May be used from any thread, also after the rollout or the
// gate is gone (then it does nothing). An answer that does not fit its call (llm::complete) fails
// it.
class Reply {
 public:
  struct Dropped {};
  using Given =
      std::variant<llm::Piece, llm::Answer, llm::Refusal, std::unique_ptr<Relay>, Dropped>;
  class Target {
   public:
    virtual ~Target() = default;
    virtual void give(Given given) = 0;
  };

  explicit Reply(std::shared_ptr<Target> target) : target_(std::move(target)) {}
  ~Reply() {
    if (target_) target_->give(Dropped());
  }
  Reply(Reply&&) noexcept = default;
  Reply& operator=(Reply&&) = delete;

  bool used() const { return target_ == nullptr; }

  // REQUIRES, here and below: not used().

  // What comes next of the answer that is being made, for rollouts whose answers are delivered so
  // (AnswerDelivery). answer() then brings the whole, which must begin with what the pieces said.
  // A piece that does not fit fails the call.
  void piece(llm::Piece piece) { target_->give(std::move(piece)); }
  void answer(llm::Answer answer) { take()->give(std::move(answer)); }
  void refuse(llm::Refusal refusal) { take()->give(std::move(refusal)); }
  // Such a call is never parked or resent: when the agent hangs up it ends, and an equal request is
  // a new call.
  // REQUIRES: submit() has not returned, so that nothing was told to the agent. Else the call
  // fails.
  void relay(std::unique_ptr<Relay> relay) { take()->give(std::move(relay)); }

 private:
  std::shared_ptr<Target> take() { return std::exchange(target_, nullptr); }
  std::shared_ptr<Target> target_;
};

class Policy {
 public:
  virtual ~Policy() = default;
  // Called on the rollout's shard; must not block it. May answer at once.
  virtual void submit(std::shared_ptr<const llm::Call> call, Reply reply) = 0;
};

}  // namespace sluice::gate
