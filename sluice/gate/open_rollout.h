// OpenRollout: one registration while it is open, and the life of its calls: what arrives is
// judged, parked, given to whoever answers, answered, delivered and ended. Knows nothing of HTTP;
// gate/http puts requests in and writes answers out.
//
// Lives on the rollout's shard; every member runs there unless it says otherwise. Internal to the
// gate.
#pragma once

#include <string_view>
#include <variant>

#include <tl/expected.hpp>

#include "sluice/gate/allowance.h"
#include "sluice/gate/lineage.h"
#include "sluice/gate/outages.h"
#include "sluice/gate/parked_calls.h"
#include "sluice/gate/policy.h"
#include "sluice/gate/tool_ids.h"
#include "sluice/gate/toolbox.h"
#include "sluice/json/peek.h"
#include "sluice/net/http_server.h"

namespace sluice::gate {

// What arrived, as far as the gate must know it.
struct Arrival {
  const llm::Codec* codec = nullptr;
  llm::Dialect dialect = llm::Dialect::kChat;
  llm::Target target;
  std::shared_ptr<const Bytes> body;
  std::optional<llm::Likeness> like;  // once it was judged
  llm::SessionKey session;
  std::string request_id;
  uint32_t retry_count = 0;
  std::vector<std::pair<std::string, std::string>> headers;
};

class OpenRollout final : public CallOwner {
 public:
  // `peeker` is the shard's.
  OpenRollout(Registration registration, std::shared_ptr<Core> core,
              std::shared_ptr<json::Peeker> peeker);
  ~OpenRollout() override;

  const Registration& registration() const { return registration_; }  // any thread
  const GateOptions& options() const { return core_->options; }
  net::Shard& shard() override { return *registration_.shard; }
  json::Peeker& peeker() { return *peeker_; }
  const Counters& counters() const { return ledger_->counters(); }
  Books books() const {
    const auto state = allowance_.agent_ended() ? Books::State::kEnded : Books::State::kOpen;
    return {registration_.id, state, registration_.about, counters(), {}};
  }
  bool closing() const { return allowance_.closed(); }
  ToolBox& tools() { return tools_; }
  // The server of its listeners, made by gate/http; empty until something is served.
  std::unique_ptr<net::HttpServer>& endpoint() { return endpoint_; }

  void admit();
  void stop_admitting(std::string_view why);
  // The agent says itself that it has ended.
  void agent_exited();

  // What each request of a call, or of a count of tokens, is charged first, before anything is done
  // with its body; what it is told if it cannot pay.
  Allowance::Refused charge();
  // Judges a request that was charged. A call, new or joined, has `waiter` attached.
  // REQUIRES: every such waiter is given to delivered(), hung_up() or detach() before it goes.
  using Judged = std::variant<llm::Problem,                 // told to the agent; no call
                              std::shared_ptr<ParkedCall>,  // wait for its answer
                              KeptAnswer>;                  // its bytes again
  Judged arrive(Arrival arrival, Waiter* waiter);
  // What is to be read again first (BodyReader), for what arrives is compared with it.
  std::optional<llm::Body> to_read_for(const Arrival& arrival) {
    return calls_.recent().put_away_before(arrival.session);
  }
  BodyReader& bodies() { return core_->bodies; }
  // Of compressed bodies at most so many are inflated, or wait for that, at a time: false above.
  bool begin_inflating() {
    if (inflating_ == kMostInflating) return false;
    ++inflating_;
    return true;
  }
  void end_inflating() { --inflating_; }
  // Counts and notes a refusal that was decided elsewhere (too large, malformed HTTP).
  void note_refusal(const llm::Problem& problem) { ledger_->refused(problem); }

  // The agent's side of `waiter` has acknowledged the whole answer.
  void delivered(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter);
  // The agent's side is gone, before the answer or in the middle of it.
  void hung_up(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter);
  // The agent's side of a waiter has ended (Waiter::finished): it gets an answer that comes within
  // the grace of an agent that hung up.
  void finished(const std::shared_ptr<ParkedCall>& parked);
  // An agent has got the kept answer of a call that had ended undelivered.
  void received_late(const KeptAnswer& kept);
  // The waiter leaves; what became of the call is known already.
  void detach(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter) {
    std::erase(parked->waiters, waiter);
  }
  // A relayed call is over. REQUIRES: its progress() can be asked.
  void relayed(const std::shared_ptr<ParkedCall>& parked, llm::Outcome outcome,
               std::string_view detail);
  void event(std::string_view kind, std::string_view detail) { ledger_->event(kind, detail); }
  // Whether what there is so far of the call's answer is for its agent already.
  bool goes_ahead(const ParkedCall& parked) const {
    return parked.so_far && parked.call->stream &&
           registration_.delivery == AnswerDelivery::kIncremental;
  }
  // Of an answer, on the wire.
  void count_answer_bytes(uint64_t bytes) { ledger_->answer_bytes(bytes); }

  // The trainer's side.
  Result<void> piece(const CallId& id, const llm::Piece& piece) override;
  void reply(const CallId& id, TrainerReply reply,
             std::shared_ptr<PendingOutcome> pending) override;
  Result<void> reply_tool(const ToolCallId& id, Result<ToolResult> result) override;
  void reject(const CallId& id, std::string_view why) override;
  // Ends what is open and refuses the rest, so that the agent ends.
  void cancel(std::string_view reason);
  // The same if the first sampled answer is more than so many versions old.
  void cancel_if_older(uint64_t versions);

  Outages& outages() { return outages_; }

  // Returns when all is known of the calls up to now that has to be found out.
  net::awaitable<void> settled() { return lineage_.settled(); }

  // Ends everything; returns when nothing of the rollout runs any more. False, and at once, if
  // somebody else is closing it.
  net::awaitable<bool> close();

 private:
  using Parked = std::shared_ptr<ParkedCall>;

  std::shared_ptr<OpenRollout> self() {
    return std::static_pointer_cast<OpenRollout>(shared_from_this());
  }
  tl::expected<llm::Peek, llm::BadRequest> peek(Arrival& arrival, json::Outline& outline);
  Result<Digest> digest_of(const Arrival& arrival, const llm::Peek& peek);
  const PurposeRule* purpose_of(const llm::Codec& codec, const llm::Peek& peek,
                                const llm::SessionKey& session) const;
  llm::Problem refuse(llm::Problem problem);
  Parked park(Arrival arrival, const llm::Peek& peek, ResendMarks marks, const PurposeRule* rule,
              std::optional<llm::WithTools> changed, Lineage::Descent descent, Waiter* waiter);
  Parked rejoin(const ResendMarks& marks, const std::string& session, Waiter* waiter);
  void join(ParkedCall& parked, Waiter* waiter);
  void submit(const Parked& parked, const PurposeRule* rule);

  // What the call's policy gives.
  void take(const Parked& parked, Reply::Given given);
  void take_now(const Parked& parked, Reply::Given given);
  void reply_now(const CallId& id, TrainerReply reply, std::shared_ptr<PendingOutcome> pending);
  static bool must_read(const ParkedCall& parked, const llm::Answer& answer);
  void read_first(const ParkedCall& parked, std::function<void()> then);
  static net::awaitable<void> read_first(std::shared_ptr<Core> core, llm::Body body,
                                         std::function<void()> then);
  static Result<void> check_open(const ParkedCall& parked);
  Result<void> check_origin(const llm::Answer& answer) const;
  void stamp_versions(const ParkedCall& parked, llm::Answer& answer) const;
  Result<void> piece(const Parked& parked, const llm::Piece& piece);
  Result<void> answer(const Parked& parked, llm::Answer answer);
  Result<void> accept(const Parked& parked, llm::Answer answer);
  void refuse(const Parked& parked, llm::Refusal refusal);
  void fail(const Parked& parked, std::string_view detail);
  void relay(const Parked& parked, std::unique_ptr<Relay> relay);
  void end(const Parked& parked, llm::Outcome outcome, std::string_view detail);
  void end_open(const llm::Problem& problem, llm::Outcome outcome, std::string_view detail);
  void remember(const ParkedCall& parked, Received received);
  void give_up(const Parked& parked, std::string_view detail);

  const Registration registration_;
  const std::shared_ptr<Core> core_;
  const std::shared_ptr<json::Peeker> peeker_;
  const std::shared_ptr<Ledger> ledger_;
  Allowance allowance_;
  ParkedCalls calls_;
  AgentSessions sessions_;
  Lineage lineage_;
  ToolIds tool_ids_;
  ToolBox tools_;
  net::TaskGroup reads_;  // of bodies
  Outages outages_;
  std::vector<llm::ToolDefinition> added_tools_;  // to requests; none if that was not asked for
  bool offers_tools_ = false;                     // its agent to the model
  std::unique_ptr<net::HttpServer> endpoint_;
  bool exited_ = false;  // the agent said so
  static constexpr size_t kMostInflating = 16;
  size_t inflating_ = 0;
  std::optional<uint64_t> first_version_;   // of the gate's, counted, at the first sampled answer
  const ParkedCall* submitting_ = nullptr;  // whose submit() is running
};

}  // namespace sluice::gate
