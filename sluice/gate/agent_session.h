// AgentSession: what the gate remembers of one session of an agent within a rollout, to recognise
// resends of calls that have ended and to see answers confirmed. Small, bounded, on the rollout's
// shard. Internal to the gate.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>

#include "sluice/base/core/deadline.h"
#include "sluice/llm/call.h"
#include "sluice/llm/dialect.h"

namespace sluice::gate {

// By what a request is recognised as an earlier one sent again.
struct ResendMarks {
  llm::Dialect dialect = llm::Dialect::kChat;
  Digest digest;
  std::string request_id;    // x-client-request-id, idempotency-key; "" if none
  uint32_t retry_count = 0;  // x-stainless-retry-count
};

// Whether the agent has acknowledged all of an answer.
enum class Received : uint8_t {
  kYes,
  kNever,  // its call has ended undelivered
};

// The answer of a call that has ended, kept to be sent again. No body: that may be large and is in
// the trace.
struct KeptAnswer {
  ResendMarks marks;
  std::string session;
  CallId call;
  llm::Envelope envelope;
  bool stream = false;
  std::shared_ptr<const llm::Answer> answer;
  Received received = Received::kYes;
  Clock::time_point at;  // when that was known
};

class AgentSession {
 public:
  void keep(KeptAnswer answer);
  // The kept answer that a request with these marks asks for again, or nullptr. Of those that were
  // received: an equal body within `window` of the session's last, or one that says itself that it
  // is a retry. One that was never received is for whoever asks the same, however late.
  const KeptAnswer* resend_of(const ResendMarks& marks, Duration window) const;
  // The agent has this one now. Nothing if it was known to have it, or the answer is kept no more.
  std::shared_ptr<const llm::Answer> received_late(const CallId& call);

  // An answer that a later request should echo at `mark`. `call` needs no body.
  void expect_echo(std::shared_ptr<const llm::Call> call, llm::HistoryMark mark,
                   size_t conversation_size, std::shared_ptr<const llm::Answer> answer);
  // Calls `confirmed` for each expected answer that the conversation of `peek` holds.
  void look_for_echoes(const llm::Codec& codec, const llm::Peek& peek,
                       const std::function<void(const llm::Call&)>& confirmed);

 private:
  struct Expected {
    std::shared_ptr<const llm::Call> call;
    llm::HistoryMark mark;
    size_t conversation_size;
    std::shared_ptr<const llm::Answer> answer;
  };
  std::deque<KeptAnswer> answers_;  // the last at the back
  std::deque<Expected> expected_;
};

// The sessions of a rollout by the names that its agent gives them: those that were used last. An
// agent may name as many as it likes.
class AgentSessions {
 public:
  static constexpr size_t kMost = 256;

  // Nothing if there is none of that name, or it was forgotten.
  AgentSession* find(const std::string& name);
  // Made if there is none.
  AgentSession& open(const std::string& name);
  size_t size() const { return sessions_.size(); }

 private:
  struct Used {
    AgentSession session;
    uint64_t at = 0;
  };
  std::unordered_map<std::string, Used> sessions_;
  uint64_t uses_ = 0;
};

}  // namespace sluice::gate
