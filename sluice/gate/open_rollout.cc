#include "sluice/gate/open_rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "sluice/base/core/defer.h"
#include "sluice/json/splice.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/cut_call.h"

namespace sluice::gate {
namespace {

using llm::Outcome;
using llm::Problem;
using State = ParkedCall::State;

// How long connections get to take their last bytes when a rollout is closed.
constexpr auto kCloseGrace = std::chrono::milliseconds(500);
// One call is asked for again by at most this many connections at a time.
constexpr size_t kMaxWaiters = 4;

// Whether a refusal says that the policy could not answer, rather than that it would not.
bool is_failure(const llm::Refusal& refusal) {
  using enum ErrorCode;
  constexpr std::array kFailures{kTimedOut, kUnavailable, kClosed, kProtocol, kIo, kInternal};
  return !refusal.end_agent &&
         std::find(kFailures.begin(), kFailures.end(), refusal.kind) != kFailures.end();
}

// Calls of the trajectory: what titles or sums up has no use for a tool.
bool is_trajectory(const PurposeRule* rule) {
  if (rule == nullptr) return true;
  return !rule->canned &&
         (rule->purpose == llm::Purpose::kMain || rule->purpose == llm::Purpose::kSubagent);
}

}  // namespace

OpenRollout::OpenRollout(Registration registration, std::shared_ptr<Core> core,
                         std::shared_ptr<json::Peeker> peeker)
    : registration_(std::move(registration)),
      core_(std::move(core)),
      peeker_(std::move(peeker)),
      ledger_(std::make_shared<Ledger>(registration_, core_)),
      allowance_(registration_, *core_, *ledger_),
      calls_(registration_, *core_,
             [this](const Parked& parked) {
               give_up(parked, "the agent hung up and did not come back");
             }),
      lineage_(sessions_, calls_.recent(), *ledger_, core_->bodies,
               registration_.shard->executor()),
      tools_(*this, registration_, *core_, *ledger_, allowance_),
      reads_(registration_.shard->executor()),
      outages_(registration_, *core_) {
  if (!registration_.policy) core_->ready.open(registration_.id);
  if (registration_.tools_in_requests == ToolsInRequests::kAdded) {
    for (const Tool& tool : registration_.tools) {
      added_tools_.push_back({tool.name, tool.description, tool.parameters});
    }
  }
}

OpenRollout::~OpenRollout() = default;

void OpenRollout::admit() {
  allowance_.admit([this](const Problem& time_is_up) {
    note_refusal(time_is_up);
    end_open(time_is_up, Outcome::kRefused, time_is_up.message);
  });
}

void OpenRollout::stop_admitting(std::string_view why) {
  if (!allowance_.stop_admitting()) return;
  // An agent that has what it wanted may be gone before its answer is known to have arrived.
  for (const auto& parked : calls_.all()) outages_.note_upstream(*parked);
  outages_.agent_ended(counters().cancelled);
  tools_.stop_all();
  // Whoever waits for the agent's next call waits no longer.
  ledger_->end(std::string(why));
  ledger_->watched("rollout_ended");
}

void OpenRollout::agent_exited() {
  if (!std::exchange(exited_, true)) event("exit", "");
  stop_admitting(kAgentEnded);
}

// Calls that wait for an answer. What is just being written may still arrive.
void OpenRollout::end_open(const Problem& problem, Outcome outcome, std::string_view detail) {
  for (const auto& parked : calls_.all()) {
    if (parked->state != State::kOpen) continue;
    parked->problem = std::make_unique<const Problem>(problem);
    end(parked, outcome, detail);
  }
}

void OpenRollout::cancel(std::string_view reason) {
  if (allowance_.closed()) return;
  // What an agent that has ended came to stands; what it left open ends all the same.
  const bool cut_short = allowance_.cancel();
  if (cut_short) ledger_->cancelled(reason);
  tools_.stop_all();
  end_open(Allowance::was_cancelled(), Outcome::kCancelled, reason);
  if (cut_short) ledger_->end(fmt::format("cancelled: {}", reason));
}

void OpenRollout::cancel_if_older(uint64_t versions) {
  if (!first_version_) return;
  const uint64_t behind = core_->ready.state().versions - *first_version_;
  if (behind > versions) cancel(fmt::format("stale: {} versions behind", behind));
}

Problem OpenRollout::refuse(Problem problem) {
  note_refusal(problem);
  return problem;
}

// Most of a conversation was read when it was shorter.
tl::expected<llm::Peek, llm::BadRequest> OpenRollout::peek(Arrival& arrival,
                                                           json::Outline& outline) {
  const auto like = calls_.recent().likeness(arrival.session, *arrival.body);
  json::Document document(*arrival.body);
  document.check = json::Document::Check::kAll;  // no item is to be what no trainer can read
  document.outline = &outline;
  if (like) {
    document.like = like->outline;
    document.prefix = like->what.prefix;
    document.suffix = like->what.suffix;
    arrival.like = like->what;
  }
  return arrival.codec->peek(*peeker_, document, arrival.target);
}

Result<Digest> OpenRollout::digest_of(const Arrival& arrival, const llm::Peek& peek) {
  const auto& ignored = registration_.resend.ignore_fields;
  Digest digest;
  if (ignored.empty()) {
    digest = xxh3_128(*arrival.body);
  } else {
    std::vector<json::Edit> removals;
    removals.reserve(ignored.size());
    for (const std::string& field : ignored) removals.push_back({field, std::nullopt});
    SLUICE_TRY(const Bytes rest, json::splice(*peeker_, *arrival.body, removals));
    digest = xxh3_128(rest);
  }
  if (arrival.target.model.empty()) return digest;
  // What other dialects say in the body, this one says in the URL.
  return xxh3_128(fmt::format("{} {} {} {}", digest.hex(), static_cast<int>(peek.stream),
                              static_cast<int>(peek.framing), peek.model));
}

const PurposeRule* OpenRollout::purpose_of(const llm::Codec& codec, const llm::Peek& peek,
                                           const llm::SessionKey& session) const {
  std::optional<std::string> system;
  for (const PurposeRule& rule : registration_.purposes) {
    if (rule.has_tools && *rule.has_tools != peek.has_tools) continue;
    if (rule.has_parent_session && *rule.has_parent_session == session.parent.empty()) continue;
    if (!rule.system_contains.empty()) {
      if (!system) system = codec.system_text(peek);
      if (system->find(rule.system_contains) == std::string::npos) continue;
    }
    return &rule;
  }
  // An agent that offers tools asks without them for what is none of its steps: to sum up, mostly.
  static const PurposeRule side{.purpose = llm::Purpose::kSummary};
  return offers_tools_ && !peek.has_tools ? &side : nullptr;
}

Allowance::Refused OpenRollout::charge() {
  auto refused = allowance_.refuse_all();
  if (!refused) refused = allowance_.refuse_by_rate();
  if (refused) note_refusal(*refused);
  return refused;
}

OpenRollout::Judged OpenRollout::arrive(Arrival arrival, Waiter* waiter) {
  if (auto refused = allowance_.refuse_all()) return refuse(std::move(*refused));
  json::Outline outline;
  const auto peek = this->peek(arrival, outline);
  if (!peek) return refuse(Problem::of(peek.error()));
  const auto digest = digest_of(arrival, *peek);
  if (!digest) {
    // Readable, but not without its duplicate fields.
    return refuse(Problem::of(llm::BadRequest{digest.error().message, "", ""}));
  }
  ResendMarks marks{arrival.dialect, *digest, std::move(arrival.request_id), arrival.retry_count};
  const std::string name = name_of(arrival.session);
  if (auto parked = rejoin(marks, name, waiter)) return parked;
  if (AgentSession* const session = sessions_.find(name)) {
    if (const auto* before = session->resend_of(marks, registration_.resend.window)) {
      ledger_->resent(before->call);
      return *before;
    }
  }
  auto descent = lineage_.of({*arrival.codec, arrival.session, *arrival.body, arrival.like, *peek});
  const PurposeRule* rule = purpose_of(*arrival.codec, *peek, arrival.session);
  // Calls whose agent is gone are in nobody's way who is there.
  const uint32_t most_open = registration_.budget.open_calls;
  if (most_open > 0 && counters().open >= most_open) calls_.give_up_one();
  if (auto over = allowance_.refuse_by_budget()) return refuse(std::move(*over));
  const bool for_trainer = !registration_.policy && !(rule != nullptr && rule->canned);
  if (for_trainer && !core_->ready.has_room()) return refuse(Allowance::come_again());
  if (!ledger_->has_room(arrival.body->size())) {
    return refuse(Allowance::come_again("the disk of the gate's recorder does not keep up"));
  }
  std::optional<llm::WithTools> changed;
  if (!added_tools_.empty() && is_trajectory(rule)) {
    auto with = arrival.codec->with_tools(*peeker_, *arrival.body, added_tools_);
    // Readable so far as it was looked into, but not in its tools.
    if (!with) return refuse(Problem::of(llm::BadRequest{with.error().message, "tools", ""}));
    changed = std::move(*with);
  }
  auto parked = park(std::move(arrival), *peek, std::move(marks), rule, std::move(changed),
                     std::move(descent), waiter);
  calls_.recent().add(*parked->call, std::move(outline));
  submit(parked, rule);
  return parked;
}

// The open call that is asked for again.
OpenRollout::Parked OpenRollout::rejoin(const ResendMarks& marks, const std::string& session,
                                        Waiter* waiter) {
  const Parked parked = calls_.find_same(marks, session);
  if (!parked) return nullptr;
  ledger_->resent(parked->call->id);
  if (parked->relay) {
    // Bytes that were relayed are not kept: the call is asked anew.
    end(parked, Outcome::kSuperseded, "asked again by the agent");
    return nullptr;
  }
  join(*parked, waiter);
  return parked;
}

void OpenRollout::join(ParkedCall& parked, Waiter* waiter) {
  if (parked.waiters.size() >= kMaxWaiters) {
    // The oldest connection is the one most likely to be dead.
    Waiter* oldest = parked.waiters.front();
    parked.waiters.erase(parked.waiters.begin());
    oldest->displaced = true;
    oldest->wake.notify();
  }
  parked.waiters.push_back(waiter);
  parked.abandoned_until.reset();
}

OpenRollout::Parked OpenRollout::park(Arrival arrival, const llm::Peek& peek, ResendMarks marks,
                                      const PurposeRule* rule,
                                      std::optional<llm::WithTools> changed,
                                      Lineage::Descent descent, Waiter* waiter) {
  auto call = std::make_shared<llm::Call>();
  call->id = core_->ids.fresh();
  call->rollout = registration_.id;
  call->task = registration_.about.task;
  call->session = std::move(arrival.session);
  call->dialect = arrival.dialect;
  if (rule != nullptr) call->purpose = rule->purpose;
  static_cast<llm::Head&>(*call) = peek;
  call->digest = marks.digest;
  call->ordinal = counters().calls + 1;
  call->arrived_at = std::chrono::system_clock::now();
  call->headers = std::move(arrival.headers);

  auto parked = std::make_shared<ParkedCall>();
  parked->marks = std::move(marks);
  parked->mark = llm::mark_of(peek);
  parked->conversation_size = peek.conversation.text.size();
  parked->history_end = descent.history_end;
  parked->head = descent.head;
  parked->waiters.push_back(waiter);
  call->like = arrival.like;
  call->parent = descent.parent;
  call->body = llm::Body(std::move(arrival.body));  // `peek` pointed into it
  call->own_ids = tool_ids_.own();
  if (changed) call->changed_body = std::make_shared<const Bytes>(std::move(changed->body));
  parked->call = std::move(call);
  offers_tools_ |= peek.has_tools;

  calls_.add(parked);
  core_->owners.add(parked->call->id, weak_from_this());
  ledger_->arrived(*parked->call);
  lineage_.arrived(parked->call, std::move(descent));
  if (changed) {
    event("tools_added",
          fmt::format(R"({{"call":"{}","tools":{}}})", parked->call->id.value, changed->added));
  }
  return parked;
}

void OpenRollout::submit(const Parked& parked, const PurposeRule* rule) {
  if (is_trajectory(rule) && outages_.watches())
    outages_.watch().asked(parked->call->ordinal, Clock::now());
  if (rule != nullptr && rule->canned) {
    llm::Answer canned = llm::text_answer(*rule->canned, llm::Origin::kCanned);
    const auto answered = accept(parked, std::move(canned));
    if (!answered) fail(parked, answered.error().message);
    return;
  }
  if (!registration_.policy) {
    parked->ticket = core_->ready.push(parked->call, ReadyQueue::Announce::kLater);
    ledger_->announce();
    return;
  }
  // Takes the answer to the rollout's shard, from wherever the policy gives it.
  auto give = [weak = std::weak_ptr(self()), to = &shard(), parked](Reply::Given given) {
    const auto rollout = weak.lock();
    if (!rollout) return;
    if (to->on_thread()) return rollout->take(parked, std::move(given));
    // Shared, because what is posted must be copyable.
    to->post([rollout, parked, given = std::make_shared<Reply::Given>(std::move(given))] {
      rollout->take(parked, std::move(*given));
    });
  };
  submitting_ = parked.get();
  const Defer submitted([this] { submitting_ = nullptr; });
  registration_.policy->submit(parked->call, Reply(std::move(give)));
}

void OpenRollout::take(const Parked& parked, Reply::Given given) {
  if (const auto* answer = std::get_if<llm::Answer>(&given);
      answer && must_read(*parked, *answer)) {
    const auto kept = std::make_shared<Reply::Given>(std::move(given));
    return read_first(*parked, [this, parked, kept] { take_now(parked, std::move(*kept)); });
  }
  take_now(parked, std::move(given));
}

void OpenRollout::take_now(const Parked& parked, Reply::Given given) {
  Result<void> taken;
  if (auto* piece = std::get_if<llm::Piece>(&given)) {
    taken = this->piece(parked, *piece);
  } else if (auto* answer = std::get_if<llm::Answer>(&given)) {
    taken = this->answer(parked, std::move(*answer));
  } else if (auto* refusal = std::get_if<llm::Refusal>(&given)) {
    refuse(parked, std::move(*refusal));
  } else if (auto* relay = std::get_if<std::unique_ptr<Relay>>(&given)) {
    this->relay(parked, std::move(*relay));
  } else {
    taken = Error(ErrorCode::kInternal, "the policy gave no answer");
  }
  if (!taken) fail(parked, taken.error().message);
}

// What a tool call of an answer is may depend on the request (Codec::fit()), which may be on a disk
// alone.
bool OpenRollout::must_read(const ParkedCall& parked, const llm::Answer& answer) {
  if (!parked.is_open() || parked.call->asked_at_hand()) return false;
  return std::any_of(answer.choices.begin(), answer.choices.end(),
                     [](const llm::Choice& choice) { return !choice.message.tool_calls.empty(); });
}

// Calls `then` when the call's body is at hand, or cannot be read.
void OpenRollout::read_first(const ParkedCall& parked, std::function<void()> then) {
  reads_.spawn(read_first(core_, parked.call->body, std::move(then)));
}

net::awaitable<void> OpenRollout::read_first(std::shared_ptr<Core> core, llm::Body body,
                                             std::function<void()> then) {
  const auto held = co_await core->bodies.read(std::move(body));
  then();
}

Result<void> OpenRollout::check_open(const ParkedCall& parked) {
  if (parked.is_open()) return {};
  return Error(ErrorCode::kFailedPrecondition,
               parked.state == State::kEnded
                   ? fmt::format("the call has ended: {}", to_string(parked.outcome))
                   : "the call is answered already");
}

Result<void> OpenRollout::piece(const CallId& id, const llm::Piece& piece) {
  const Parked parked = calls_.find(id);
  if (!parked) return Error(ErrorCode::kFailedPrecondition, "the call has ended");
  auto taken = this->piece(parked, piece);
  if (!taken) reject(id, taken.error().message);
  return taken;
}

Result<void> OpenRollout::piece(const Parked& parked, const llm::Piece& piece) {
  SLUICE_TRY_VOID(check_open(*parked));
  if (parked->call->n != 1) {
    return Error(ErrorCode::kInvalidArgument,
                 "piece: the call asks for several choices, which come whole only",
                 ErrorOrigin::kCaller);
  }
  if (!parked->so_far) parked->so_far = std::make_unique<llm::Message>();
  SLUICE_TRY_VOID(llm::append(*parked->so_far, piece));
  if (goes_ahead(*parked)) parked->wake();
  return {};
}

Result<void> OpenRollout::answer(const Parked& parked, llm::Answer answer) {
  SLUICE_TRY_VOID(check_open(*parked));
  if (parked->so_far) {
    SLUICE_TRY_VOID(llm::continues(*parked->so_far, answer));
  }
  SLUICE_TRY_VOID(check_origin(answer));
  return accept(parked, std::move(answer));
}

// What the gate answers by itself is subject to no rule: it is never trainable.
Result<void> OpenRollout::accept(const Parked& parked, llm::Answer answer) {
  SLUICE_TRY_VOID(llm::complete(answer, *parked->call));
  if (registration_.cut_calls == CutCalls::kWithheld) withhold_cut_calls(answer, *parked->call);
  const std::string renamed = tool_ids_.name(answer, *parked->call);
  stamp_versions(*parked, answer);
  ledger_->answered(*parked->call, answer);
  if (!renamed.empty()) {
    event("ids_renamed",
          fmt::format(R"({{"call":"{}","ids":{}}})", parked->call->id.value, renamed));
  }
  if (answer.origin == llm::Origin::kSampled && !first_version_ && parked->ticket) {
    first_version_ = core_->ready.state().versions;
  }
  parked->answer = std::make_shared<const llm::Answer>(std::move(answer));
  parked->state = State::kAnswered;
  if (!parked->waiters.empty()) parked->abandoned_until.reset();  // it is being delivered
  outages_.watch().answered(parked->call->ordinal);
  core_->ready.remove(std::exchange(parked->ticket, nullptr));
  for (const auto& pending : parked->pending) ledger_->tell(pending);
  parked->wake();
  return {};
}

Result<void> OpenRollout::check_origin(const llm::Answer& answer) const {
  const OriginRule& rule = registration_.origins;
  const bool sampled = answer.origin == llm::Origin::kSampled;
  if (rule.accept == OriginRule::Accept::kSampledOnly && !sampled) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("answer: this rollout takes only what was sampled, not what is {}",
                             to_string(answer.origin)),
                 ErrorOrigin::kCaller);
  }
  const bool waived =
      rule.tokens == OriginRule::Tokens::kWaived || options().tokens == OriginRule::Tokens::kWaived;
  if (!sampled || waived) return {};
  for (const llm::Choice& choice : answer.choices) {
    if (!choice.ids.empty() && choice.logprobs.size() == choice.ids.size()) continue;
    return Error(
        ErrorCode::kInvalidArgument,
        fmt::format("answer: it has {} token ids and {} logprobs; what was sampled needs its "
                    "token ids and a logprob for each (or another origin, or --trainer-text "
                    "or a registration that waives them)",
                    choice.ids.size(), choice.logprobs.size()),
        ErrorOrigin::kCaller);
  }
  return {};
}

// A trainer that changes versions in mid-answer says so itself; else the answer is of the version
// under which its call was handed out, if there has been no other since.
void OpenRollout::stamp_versions(const ParkedCall& parked, llm::Answer& answer) const {
  if (answer.origin != llm::Origin::kSampled || !parked.ticket) return;
  const std::string version = core_->ready.version_of(parked.ticket);
  if (version.empty()) return;
  for (llm::Choice& choice : answer.choices) {
    if (choice.versions.empty()) choice.versions.push_back({0, version});
  }
}

void OpenRollout::refuse(const Parked& parked, llm::Refusal refusal) {
  if (!parked->is_open()) return;
  outages_.watch().answered(parked->call->ordinal);
  const bool failure = is_failure(refusal);
  parked->problem = std::make_unique<const Problem>(Problem::of(refusal));
  end(parked, failure ? Outcome::kFailed : Outcome::kRefused, refusal.message);
}

void OpenRollout::fail(const Parked& parked, std::string_view detail) {
  if (!parked->is_open()) return;
  core_->options.log.warn("gate", "a policy failed a call",
                          {{"rollout", registration_.id.value}, {"why", detail}});
  // The agent is not told why: that is for the trace.
  parked->problem =
      std::make_unique<const Problem>(Problem::of(ErrorCode::kInternal, "internal error"));
  end(parked, Outcome::kFailed, detail);
}

void OpenRollout::relay(const Parked& parked, std::unique_ptr<Relay> relay) {
  if (!parked->is_open()) return;
  if (submitting_ != parked.get()) {
    fail(parked, "a relay was given after submit(), when the answer's head was sent already");
    return;
  }
  parked->relay = std::move(relay);
}

void OpenRollout::reply(const CallId& id, TrainerReply reply,
                        std::shared_ptr<PendingOutcome> pending) {
  const Parked parked = calls_.find(id);
  const auto* const answer = std::get_if<llm::Answer>(&reply);
  if (parked && answer != nullptr && must_read(*parked, *answer)) {
    const auto kept = std::make_shared<TrainerReply>(std::move(reply));
    return read_first(*parked,
                      [this, id, kept, pending] { reply_now(id, std::move(*kept), pending); });
  }
  reply_now(id, std::move(reply), std::move(pending));
}

void OpenRollout::reply_now(const CallId& id, TrainerReply reply,
                            std::shared_ptr<PendingOutcome> pending) {
  const Parked parked = calls_.find(id);
  if (!parked) {
    pending->resolve(Error(ErrorCode::kFailedPrecondition, "the call has ended"));
    return;
  }
  if (auto open = check_open(*parked); !open) {
    pending->resolve(std::move(open).error());
    return;
  }
  parked->pending.push_back(pending);
  if (auto* refusal = std::get_if<llm::Refusal>(&reply)) {
    refuse(parked, std::move(*refusal));
    return;
  }
  if (auto answered = answer(parked, std::move(std::get<llm::Answer>(reply))); !answered) {
    parked->pending.pop_back();
    reject(id, answered.error().message);
    pending->resolve(std::move(answered).error());
  }
}

void OpenRollout::reject(const CallId& id, std::string_view why) {
  const Parked parked = calls_.find(id);
  if (!parked || !parked->is_open()) return;
  ledger_->rejected(id, why);
  outages_.watch().rejected(parked->call->ordinal, Clock::now(), why);
}

Result<void> OpenRollout::reply_tool(const ToolCallId& id, Result<ToolResult> result) {
  auto taken = tools_.reply(id, std::move(result));
  if (!taken) reject(id, taken.error().message);  // it may be an agent's call
  return taken;
}

void OpenRollout::delivered(const Parked& parked, Waiter* waiter) {
  detach(parked, waiter);
  if (parked->state != State::kAnswered) return;  // another connection was first
  end(parked, Outcome::kDelivered, "");
  ledger_->received(*parked->answer);
  remember(*parked, Received::kYes);
}

// Keeps the answer of a call that has ended, to be sent again and to be recognised.
void OpenRollout::remember(const ParkedCall& parked, Received received) {
  const llm::Call& call = *parked.call;
  std::string name = name_of(call.session);
  AgentSession& session = sessions_.open(name);
  session.keep({parked.marks, std::move(name), call.id, llm::envelope(call), call.stream,
                parked.answer, received, Clock::now()});
  // Also of what was not received, as far as is known: an agent that echoes it has it.
  lineage_.ended(parked, received);
}

void OpenRollout::received_late(const KeptAnswer& kept) {
  if (ledger_->closed()) return;
  AgentSession* const session = sessions_.find(kept.session);
  const auto answer = session != nullptr ? session->received_late(kept.call) : nullptr;
  if (!answer) return;
  // Its call has ended, and what became of it was told: that does not change.
  ledger_->received_late(kept.call);
  ledger_->received(*answer);
}

void OpenRollout::hung_up(const Parked& parked, Waiter* waiter) {
  detach(parked, waiter);
  finished(parked);
}

void OpenRollout::finished(const Parked& parked) {
  if (parked->state == State::kEnded || parked->is_awaited()) return;
  if (!calls_.abandon(parked)) give_up(parked, "the agent hung up");
}

void OpenRollout::relayed(const Parked& parked, Outcome outcome, std::string_view detail) {
  if (parked->state == State::kEnded) return;
  outages_.note_upstream(*parked);
  end(parked, outcome, detail);
  lineage_.ended(*parked, outcome == Outcome::kDelivered ? Received::kYes : Received::kNever);
}

void OpenRollout::end(const Parked& parked, Outcome outcome, std::string_view detail) {
  const llm::Call& call = *parked->call;
  parked->state = State::kEnded;
  parked->outcome = outcome;
  outages_.watch().left(call.ordinal);
  core_->ready.remove(std::exchange(parked->ticket, nullptr));
  if (outcome != Outcome::kDelivered && goes_ahead(*parked)) {
    // The agent may have some of what never came to a delivered answer.
    event("unfinished",
          fmt::format(R"({{"call":"{}","reasoning_bytes":{},"text_bytes":{}}})", call.id.value,
                      parked->so_far->reasoning.size(), parked->so_far->text.size()));
  }
  ledger_->ended(call, outcome, detail);
  core_->owners.remove(call.id);
  calls_.remove(parked);
  for (auto& pending : std::exchange(parked->pending, {})) {
    ledger_->tell(std::move(pending), outcome);
  }
  parked->wake();
}

// An answer that nobody got is kept for an agent that comes for it later still.
void OpenRollout::give_up(const Parked& parked, std::string_view detail) {
  parked->problem = std::make_unique<const Problem>(Problem::of(
      ErrorCode::kTimedOut, "no answer came in time behind the end of this connection's requests"));
  end(parked, Outcome::kUndelivered, detail);
  if (parked->answer) remember(*parked, Received::kNever);
}

net::awaitable<bool> OpenRollout::close() {
  if (!allowance_.close()) co_return false;
  const auto self = shared_from_this();
  calls_.stop();
  tools_.stop_all();
  end_open(Problem::ending(ErrorCode::kCancelled, "this rollout has ended"), Outcome::kCancelled,
           "the rollout ended first");
  for (const auto& parked : calls_.all()) {
    if (!parked->waiters.empty()) continue;
    end(parked, Outcome::kUndelivered, "the agent hung up and did not come back");
  }
  if (endpoint_) {
    const Deadline deadline = Deadline::in(kCloseGrace);
    co_await endpoint_->stop(deadline);
  }
  for (const auto& parked : calls_.all()) {
    end(parked, Outcome::kUndelivered, "the rollout ended before the answer was acknowledged");
  }
  endpoint_.reset();
  co_await outages_.close();
  co_await reads_.join();
  co_await lineage_.settled();
  ledger_->end("the rollout was closed");
  co_await ledger_->close();
  co_return true;
}

}  // namespace sluice::gate
