// AgentSession: what the gate remembers of one session of an agent within a rollout, to recognise
// resends of calls that have ended and to see answers confirmed. Small, bounded, on the rollout's
// shard. Internal to the gate.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <unordered_map>

#include "sluice/base/core/deadline.h"
#include "sluice/llm/call.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/history.h"

namespace sluice::gate {

// By what a request is recognised as an earlier one sent again.
struct ResendMarks {
  llm::Dialect dialect = llm::Dialect::kChat;
  Digest digest;
  std::string request_id;    // x-client-request-id, idempotency-key; "" if none
  uint32_t retry_count = 0;  // x-stainless-retry-count

  bool names(const ResendMarks& earlier) const {
    return !request_id.empty() && request_id == earlier.request_id;
  }
  // Of an equal body: whether the request says itself that it is a retry.
  bool repeats(const ResendMarks& earlier) const { return retry_count > 0 || names(earlier); }
  // Whether it is meant to be another, though it asks the same.
  bool is_another(const ResendMarks& earlier, Duration window) const {
    return !repeats(earlier) && (window <= Duration::zero() || !request_id.empty());
  }
};

// The name of an agent's session, as far as resends go: each of its sub-agents has one of its own,
// also where they share the session's (Claude Code).
std::string name_of(const llm::SessionKey& session);

// Whether the agent has acknowledged all of an answer.
enum class Received : uint8_t {
  kYes,
  kNever,  // its call has ended undelivered
};

// The answer of a call that has ended, kept to be sent again. No body: that may be large and is in
// the trace.
struct KeptAnswer {
  ResendMarks marks;
  std::string session;  // name_of() it
  CallId call;
  llm::Envelope envelope;
  bool stream = false;
  std::shared_ptr<const llm::Answer> answer;
  Received received = Received::kYes;
  Clock::time_point at;  // when that was known
};

// A call that has ended, by which later requests are known to go on from it. No body but one that
// is to be had for little.
struct PastCall {
  std::shared_ptr<const llm::Call> call;  // an outline: who it is
  llm::HistoryMark mark;
  size_t conversation_size = 0;
  size_t history_end = 0;  // in its body: behind the last of its messages
  Digest head;             // of what the conversation begins with; Digest() if nobody looked
  std::shared_ptr<const llm::Answer> answer;  // none if the gate does not know it
  Received received = Received::kYes;
  std::optional<llm::Body> body;
  bool put_away = false;  // the body
  bool confirmed = false;
};

class AgentSession {
 public:
  void keep(KeptAnswer answer);
  // The kept answer that a request with these marks asks for again, or nullptr. Of those that were
  // received: an equal body within `window` of the session's last that is not meant to be another,
  // or one that says itself that it is a retry. One that was never received is for whoever asks the
  // same, however late.
  const KeptAnswer* resend_of(const ResendMarks& marks, Duration window) const;
  // The agent has this one now. Nothing if it was known to have it, or the answer is kept no more.
  std::shared_ptr<const llm::Answer> received_late(const CallId& call);

  // A call that later requests may go on from.
  void remember(PastCall past);
  // Calls `confirmed` for each answer that the conversation of `peek` holds for the first time. The
  // call whose answer it holds latest, and that answer's echo; or null.
  struct Found {
    const PastCall* past = nullptr;
    llm::Echo echo;
  };
  Found look_for_echoes(const llm::Codec& codec, const llm::Peek& peek,
                        const std::function<void(const llm::Call&)>& confirmed);
  // The last call of a conversation that began so, of a sub-agent of that parent session.
  const PastCall* last_of(const Digest& head, const std::string& parent) const;
  // Whether look_for_echoes() would look for any.
  bool may_hold(const llm::Codec& codec, const llm::Peek& peek) const;

 private:
  std::deque<KeptAnswer> answers_;  // the last at the back
  std::deque<PastCall> past_;
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
  // As AgentSession::look_for_echoes(), in all sessions but that one.
  AgentSession::Found look_elsewhere(const std::string& name, const llm::Codec& codec,
                                     const llm::Peek& peek,
                                     const std::function<void(const llm::Call&)>& confirmed);
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
