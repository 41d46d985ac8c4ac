// Policy: whoever answers a rollout's calls when it is not the trainer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "sluice/base/core/deadline.h"
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
  using Give = std::function<void(Given)>;

  explicit Reply(Give give) : give_(std::move(give)) {}
  ~Reply() {
    if (give_) give_(Dropped());
  }
  Reply(Reply&& other) noexcept : give_(std::exchange(other.give_, nullptr)) {}
  Reply& operator=(Reply&&) = delete;

  bool used() const { return give_ == nullptr; }

  // REQUIRES, here and below: not used().

  // What comes next of the answer that is being made, for rollouts whose answers are delivered so
  // (AnswerDelivery). answer() then brings the whole, which must begin with what the pieces said.
  // A piece that does not fit fails the call.
  void piece(llm::Piece piece) { give_(std::move(piece)); }
  void answer(llm::Answer answer) { std::exchange(give_, nullptr)(std::move(answer)); }
  void refuse(llm::Refusal refusal) { std::exchange(give_, nullptr)(std::move(refusal)); }
  // Such a call is never parked or resent: when the agent hangs up it ends, and an equal request is
  // a new call.
  // REQUIRES: submit() has not returned, so that nothing was told to the agent. Else the call
  // fails.
  void relay(std::unique_ptr<Relay> relay) { std::exchange(give_, nullptr)(std::move(relay)); }

 private:
  Give give_;
};

class Policy {
 public:
  virtual ~Policy() = default;
  // Called on the rollout's shard; must not block it. May answer at once.
  virtual void submit(std::shared_ptr<const llm::Call> call, Reply reply) = 0;
  // Where its answers come from, if that is elsewhere: who shares it shares its outages. "": it
  // answers by itself.
  virtual std::string base_url() const { return {}; }
  // Asks there for the gate itself, as for calls of this dialect, whether anybody answers; the
  // error says why not: kUnavailable where nobody is there, kPermissionDenied where the key is not
  // taken, anything else from one who may be well again soon. On the rollout's shard.
  virtual net::awaitable<Result<void>> probe(llm::Dialect, Deadline) { co_return Result<void>(); }
};

}  // namespace sluice::gate
