#include "sluice/gate/open_rollout.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/base/core/defer.h"
#include "sluice/json/splice.h"
#include "sluice/json/text.h"
#include "sluice/llm/answer.h"

namespace sluice::gate {
namespace {

using llm::Outcome;
using llm::Problem;
using State = ParkedCall::State;

// How long connections get to take their last bytes when a rollout is closed.
constexpr auto kCloseGrace = std::chrono::milliseconds(500);
// One call is asked for again by at most this many connections at a time.
constexpr size_t kMaxWaiters = 4;
// A looping agent is refused, or sends again, many times; a trace needs to say so only this often.
constexpr uint64_t kMaxNoted = 100;
// How often the end of a turn goes to the back of the loop's queue with nothing happening
// meanwhile: an answer's delivery takes so many steps. And in all: under load something always
// happens.
constexpr int kQuietHops = 3;
constexpr int kMaxHops = 32;

Problem ending(ErrorCode kind, std::string message) {
  Problem problem;
  problem.kind = kind;
  problem.message = std::move(message);
  problem.end_agent = true;
  return problem;
}

Problem was_cancelled() {
  return ending(ErrorCode::kCancelled, "this rollout was cancelled");
}

// The gate is overloaded, which is not this agent's doing.
Problem come_again() {
  Problem problem;
  problem.kind = ErrorCode::kUnavailable;
  problem.message = "too many calls wait for an answer";
  return problem;
}

Problem internal_error() {
  Problem problem;
  problem.kind = ErrorCode::kInternal;
  problem.message = "internal error";
  return problem;
}

// Whether a refusal says that the policy could not answer, rather than that it would not.
bool is_failure(const llm::Refusal& refusal) {
  if (refusal.end_agent) return false;
  switch (refusal.kind) {
    case ErrorCode::kTimedOut:
    case ErrorCode::kUnavailable:
    case ErrorCode::kClosed:
    case ErrorCode::kProtocol:
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      return true;
    default:
      return false;
  }
}

// Calls of the trajectory: what titles or sums up has no use for a tool.
bool takes_tools(const PurposeRule* rule) {
  if (rule == nullptr) return true;
  return !rule->canned &&
         (rule->purpose == llm::Purpose::kMain || rule->purpose == llm::Purpose::kSubagent);
}

}  // namespace

void CallOwners::add(const CallId& id, std::weak_ptr<OpenRollout> owner) {
  const std::lock_guard lock(mutex_);
  owners_[xxh3_128(id.value)] = std::move(owner);
}

void CallOwners::remove(const CallId& id) {
  const std::lock_guard lock(mutex_);
  owners_.erase(xxh3_128(id.value));
}

std::shared_ptr<OpenRollout> CallOwners::find(const CallId& id) const {
  const std::lock_guard lock(mutex_);
  const auto it = owners_.find(xxh3_128(id.value));
  return it == owners_.end() ? nullptr : it->second.lock();
}

// Takes a policy's answer to the rollout's shard, from wherever the policy gives it.
class OpenRollout::PolicyTarget final : public Reply::Target {
 public:
  PolicyTarget(std::weak_ptr<OpenRollout> rollout, net::Shard& shard,
               std::shared_ptr<ParkedCall> parked)
      : rollout_(std::move(rollout)), shard_(shard), parked_(std::move(parked)) {}

  void piece(llm::Piece piece) override {
    run([piece = std::move(piece)](OpenRollout& rollout, auto& parked) {
      const auto taken = rollout.piece(parked, piece);
      if (!taken) rollout.fail(parked, taken.error().message);
    });
  }
  void answer(llm::Answer answer) override {
    run([answer = std::move(answer)](OpenRollout& rollout, auto& parked) mutable {
      auto taken = rollout.answer(parked, std::move(answer));
      if (!taken) rollout.fail(parked, taken.error().message);
    });
  }
  void refuse(llm::Refusal refusal) override {
    run([refusal = std::move(refusal)](OpenRollout& rollout, auto& parked) mutable {
      rollout.refuse(parked, std::move(refusal));
    });
  }
  void relay(std::unique_ptr<Relay> relay) override {
    // Shared, because what is posted must be copyable.
    auto holder = std::make_shared<std::unique_ptr<Relay>>(std::move(relay));
    run([holder](OpenRollout& rollout, auto& parked) {
      rollout.relay(parked, std::move(*holder));
    });
  }
  void dropped() override {
    run([](OpenRollout& rollout, auto& parked) {
      rollout.fail(parked, "the policy gave no answer");
    });
  }

 private:
  template <class Work>
  void run(Work work) {
    const auto rollout = rollout_.lock();
    if (!rollout) return;
    if (shard_.on_thread()) {
      work(*rollout, parked_);
      return;
    }
    shard_.post(
        [rollout, parked = parked_, work = std::move(work)]() mutable { work(*rollout, parked); });
  }

  std::weak_ptr<OpenRollout> rollout_;
  net::Shard& shard_;
  std::shared_ptr<ParkedCall> parked_;
};

OpenRollout::OpenRollout(Registration registration, std::shared_ptr<Core> core,
                         std::shared_ptr<json::Peeker> peeker)
    : registration_(std::move(registration)),
      core_(std::move(core)),
      peeker_(std::move(peeker)),
      tools_(*this, registration_.tools),
      tokens_(std::max(1.0, registration_.budget.calls_per_second)),
      filled_at_(Clock::now()),
      grace_timer_(registration_.shard->wheel()),
      time_timer_(registration_.shard->wheel()),
      put_away_timer_(registration_.shard->wheel()) {
  if (!registration_.policy) core_->ready.open(registration_.id);
  if (registration_.tools_in_requests == ToolsInRequests::kAdded) {
    for (const Tool& tool : registration_.tools) {
      added_tools_.push_back({tool.name, tool.description, tool.parameters});
    }
  }
  GateTotals::add(core_->totals.rollouts);
  GateTotals::add(core_->totals.open_rollouts);
  tell_event("rollout_opened");
}

OpenRollout::~OpenRollout() {
  GateTotals::subtract(core_->totals.open_rollouts);
}

void OpenRollout::admit() {
  if (closing_ || ended_) return;
  if (std::exchange(admitting_, true)) return;
  tell_event("rollout_admitting");
  const Duration own = registration_.budget.time, total = options().total.time;
  Deadline ends, of_gate;
  if (own > Duration::zero()) ends = Deadline::in(own);
  if (total > Duration::zero()) of_gate = core_->totals.time_ends(total);
  ends = ends.earlier(of_gate);
  if (ends.is_never()) return;
  std::string reason =
      ends == of_gate ? "the gate's time is used up" : "the time of this rollout is used up";
  if (ends.expired()) return time_is_up(std::move(reason));
  time_timer_.arm(ends, [this, reason = std::move(reason)] { time_is_up(reason); });
}

void OpenRollout::stop_admitting() {
  if (!std::exchange(admitting_, false)) return;
  ended_ = true;
  time_timer_.disarm();
  tools_.stop_all();
  // Whoever waits for the agent's next call waits no longer.
  core_->ready.end(registration_.id, "the agent has ended");
  tell_event("rollout_ended");
}

void OpenRollout::agent_exited() {
  event("exit", "");
  stop_admitting();
}

void OpenRollout::time_is_up(std::string reason) {
  out_of_time_ = reason;
  const Problem problem = exhausted(std::move(reason));
  note_refusal(problem);
  end_open(problem, Outcome::kRefused, *out_of_time_);
}

// Calls that wait for an answer. What is just being written may still arrive.
void OpenRollout::end_open(const Problem& problem, Outcome outcome, std::string_view detail) {
  std::vector<std::shared_ptr<ParkedCall>> open;
  for (const auto& [id, parked] : calls_) open.push_back(parked);
  for (const auto& parked : open) {
    if (parked->state != State::kOpen) continue;
    parked->problem = std::make_unique<const Problem>(problem);
    end(parked, outcome, detail);
  }
}

void OpenRollout::cancel(std::string_view reason) {
  if (closing_ || cancelled_) return;
  cancelled_ = reason;
  counters_.cancelled = true;
  Bytes detail("{\"reason\":");
  json::append_string(detail, reason);
  detail.append("}");
  event("cancelled", detail);
  tell_event("rollout_cancelled", detail);
  tools_.stop_all();
  end_open(was_cancelled(), Outcome::kCancelled, reason);
}

std::optional<Error> OpenRollout::judge_tool_call() {
  std::optional<Problem> problem;
  if (cancelled_) {
    problem = was_cancelled();
  } else if (closing_ || !admitting_) {
    problem = ending(ErrorCode::kFailedPrecondition, "this rollout takes no calls now");
  } else if (out_of_time_) {
    problem = exhausted(*out_of_time_);
  } else {
    problem = over_rate();
  }
  if (!problem) return std::nullopt;
  note_refusal(*problem);
  return Error(problem->kind, problem->message);
}

void OpenRollout::count_tool_call() {
  ++counters_.tool_calls;
  GateTotals::add(core_->totals.tool_calls);
}

void OpenRollout::cancel_if_older(uint64_t versions) {
  if (!first_epoch_) return;
  const uint64_t now = core_->ready.state().epoch;
  if (now > *first_epoch_ + versions) {
    cancel(fmt::format("stale: {} versions behind", now - *first_epoch_));
  }
}

trace::Recorder* OpenRollout::recorder() {
  trace::Recorder* const recorder = registration_.recorder;
  if (recorder == nullptr || closed_) return recorder;
  if (!std::exchange(held_, true)) recorder->hold(registration_.id);
  at_turn_end();
  return recorder;
}

void OpenRollout::at_turn_end() {
  active_ = true;
  if (std::exchange(in_turn_, true)) return;
  turn(kQuietHops, kMaxHops);
}

void OpenRollout::turn(int quiet_hops, int hops) {
  shard().post([weak = weak_from_this(), quiet_hops, hops] {
    const auto self = weak.lock();
    if (!self) return;  // it was closed, and with that its turn ended
    const int quiet = std::exchange(self->active_, false) ? kQuietHops : quiet_hops;
    if (quiet == 0 || hops == 0) return self->end_turn();
    self->turn(quiet - 1, hops - 1);
  });
}

void OpenRollout::end_turn() {
  in_turn_ = false;
  if (std::exchange(held_, false)) registration_.recorder->release(registration_.id);
  if (std::exchange(announce_, false)) core_->ready.announce(registration_.id);
  for (const Told& told : std::exchange(told_, {})) {
    if (told.outcome) {
      told.pending->resolve(*told.outcome);
    } else {
      told.pending->accept();
    }
  }
}

void OpenRollout::tell(std::shared_ptr<PendingOutcome> pending, std::optional<Outcome> outcome) {
  told_.push_back({std::move(pending), outcome});
  if (closed_) return end_turn();
  at_turn_end();
}

// For who watches the gate. `more` is an object whose members are added.
void OpenRollout::tell_event(std::string_view type, std::string_view more) {
  if (!core_->events.wanted()) return;
  Bytes data("{\"rollout\":");
  json::append_string(data, registration_.id.value);
  if (more.size() > 2) data.append(",").append(more.substr(1, more.size() - 2));
  data.append("}");
  core_->events.add(type, std::move(data));
}

void OpenRollout::tell_call(std::string_view type, const llm::Call& call, std::string_view more) {
  if (!core_->events.wanted()) return;
  Bytes members = fmt::format(R"({{"call":"{}","ordinal":{})", call.id.value, call.ordinal);
  if (more.size() > 2) members.append(",").append(more.substr(1, more.size() - 2));
  members.append("}");
  tell_event(type, members);
}

OpenRollout::ResendKey OpenRollout::key_of(const llm::Call& call) {
  return {call.dialect, call.session.value, call.digest};
}

void OpenRollout::event(std::string_view kind, std::string_view detail) {
  if (trace::Recorder* const to = recorder()) {
    to->event(registration_.id, {std::string(kind), std::string(detail)});
  }
}

void OpenRollout::note_refusal(const Problem& problem) {
  ++counters_.refused;
  GateTotals::add(core_->totals.refused);
  if (++noted_refusals_ > kMaxNoted) return;
  Bytes detail("{\"kind\":");
  json::append_string(detail, to_string(problem.kind));
  detail.append(",\"reason\":");
  json::append_string(detail, problem.message);
  detail.append("}");
  event("refused", detail);
}

Problem OpenRollout::refuse(Problem problem) {
  note_refusal(problem);
  return problem;
}

Result<Digest> OpenRollout::digest_of(const Bytes& body) {
  const auto& ignored = registration_.resend.ignore_fields;
  if (ignored.empty()) return xxh3_128(body);
  std::vector<json::Edit> removals;
  removals.reserve(ignored.size());
  for (const std::string& field : ignored) removals.push_back({field, std::nullopt});
  SLUICE_TRY(const Bytes rest, json::splice(*peeker_, body, removals));
  return xxh3_128(rest);
}

std::optional<Problem> OpenRollout::over_rate() {
  const double rate = registration_.budget.calls_per_second;
  if (rate > 0) {
    const auto now = Clock::now();
    const std::chrono::duration<double> since = now - filled_at_;
    filled_at_ = now;
    tokens_ = std::min(std::max(1.0, rate), tokens_ + since.count() * rate);
    if (tokens_ < 1) return exhausted(fmt::format("more than {} calls a second", rate));
    tokens_ -= 1;
  }
  const double total = options().total.calls_per_second;
  if (total > 0 && !core_->totals.take(total)) return come_again();
  return std::nullopt;
}

std::optional<Problem> OpenRollout::over_budget() {
  const Budget& budget = registration_.budget;
  std::string over;
  if (out_of_time_) {
    over = *out_of_time_;
  } else if (budget.calls > 0 && counters_.calls >= budget.calls) {
    over = fmt::format("the budget of {} calls is used up", budget.calls);
  } else if (budget.tokens > 0 && counters_.tokens >= budget.tokens) {
    over = fmt::format("the budget of {} tokens is used up", budget.tokens);
  } else if (budget.bytes > 0 && counters_.bytes >= budget.bytes) {
    over = fmt::format("the budget of {} bytes is used up", budget.bytes);
  } else if (budget.open_calls > 0 && counters_.open >= budget.open_calls) {
    over = fmt::format("{} calls are open at once, as many as are allowed", budget.open_calls);
  } else if (auto total = core_->totals.over(options().total)) {
    over = std::move(*total);
  } else {
    const uint32_t open_in_total = options().total.open_calls;
    if (open_in_total > 0 && core_->totals.open_calls.load() >= open_in_total) return come_again();
    return std::nullopt;
  }
  return exhausted(std::move(over));
}

Problem OpenRollout::exhausted(std::string reason) {
  counters_.budget_exhausted = true;
  if (counters_.budget_reason.empty()) counters_.budget_reason = reason;
  return ending(ErrorCode::kExhausted, std::move(reason));
}

void OpenRollout::note_resend(const CallId& call) {
  ++counters_.resends;
  GateTotals::add(core_->totals.resends);
  if (++noted_resends_ > kMaxNoted) return;
  event("resend", fmt::format(R"({{"call":"{}"}})", call.value));
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
  return nullptr;
}

OpenRollout::Judged OpenRollout::arrive(Arrival arrival, Waiter* waiter) {
  if (cancelled_) return refuse(was_cancelled());
  if (closing_ || !admitting_) {
    return refuse(ending(ErrorCode::kFailedPrecondition,
                         "this rollout takes no calls now: its agent is not running"));
  }
  // Most of a conversation was read when it was shorter.
  const auto like = recent_bodies_.likeness(arrival.session, *arrival.body);
  json::Outline outline;
  json::Document document(*arrival.body);
  document.outline = &outline;
  if (like) {
    document.like = like->outline;
    document.prefix = like->what.prefix;
    document.suffix = like->what.suffix;
    arrival.like = like->what;
  }
  const auto peek = arrival.codec->peek(*peeker_, document, arrival.target);
  if (!peek) return refuse(Problem::of(peek.error()));
  auto digest = digest_of(*arrival.body);
  if (!digest) {
    // Readable, but not without its duplicate fields.
    return refuse(Problem::of(llm::BadRequest{digest.error().message, "", ""}));
  }
  if (!arrival.target.model.empty()) {
    // What other dialects say in the body, this one says in the URL.
    digest = xxh3_128(fmt::format("{} {} {} {}", digest->hex(), static_cast<int>(peek->stream),
                                  static_cast<int>(peek->framing), peek->model));
  }
  if (auto over = over_rate()) return refuse(std::move(*over));
  const ResendMarks marks{arrival.dialect, *digest, arrival.request_id, arrival.retry_count};
  const ResendKey key{arrival.dialect, arrival.session.value, *digest};

  // An earlier call again: it joins the open one, or gets the same bytes.
  const auto same = by_digest_.find(key);
  if (auto parked = same == by_digest_.end() ? nullptr : same->second.lock()) {
    note_resend(parked->call->id);
    if (!parked->relay) {
      join(parked, waiter);
      return parked;
    }
    // Bytes that were relayed are not kept: the call is asked anew.
    end(parked, Outcome::kSuperseded, "asked again by the agent");
  }
  if (Session* const session = sessions_.find(arrival.session.value)) {
    if (const auto* before = session->resend_of(marks, registration_.resend.window)) {
      note_resend(before->call);
      return *before;
    }
    session->look_for_echoes(*arrival.codec, *peek, [this](const llm::Call& call) {
      if (trace::Recorder* const to = recorder()) to->confirmed(call);
      GateTotals::add(core_->totals.confirmed);
      tell_call("call_confirmed", call);
    });
  }
  const PurposeRule* rule = purpose_of(*arrival.codec, *peek, arrival.session);
  if (auto over = over_budget()) return refuse(std::move(*over));
  const bool for_trainer = !registration_.policy && !(rule != nullptr && rule->canned);
  if (for_trainer && !core_->ready.has_room()) return refuse(come_again());
  std::optional<llm::WithTools> changed;
  if (!added_tools_.empty() && takes_tools(rule)) {
    auto with = arrival.codec->with_tools(*peeker_, *arrival.body, added_tools_);
    // Readable so far as it was looked into, but not in its tools.
    if (!with) return refuse(Problem::of(llm::BadRequest{with.error().message, "tools", ""}));
    changed = std::move(*with);
  }
  auto parked = park(std::move(arrival), *peek, *digest, rule, std::move(changed), waiter);
  recent_bodies_.add(*parked->call, std::move(outline));
  submit(parked, rule);
  return parked;
}

void OpenRollout::join(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter) {
  if (parked->waiters.size() >= kMaxWaiters) {
    // The oldest connection is the one most likely to be dead.
    Waiter* oldest = parked->waiters.front();
    parked->waiters.erase(parked->waiters.begin());
    oldest->hung_up = true;
    oldest->wake.notify();
  }
  parked->waiters.push_back(waiter);
  parked->abandoned_until.reset();
}

std::shared_ptr<ParkedCall> OpenRollout::park(Arrival arrival, const llm::Peek& peek, Digest digest,
                                              const PurposeRule* rule,
                                              std::optional<llm::WithTools> changed,
                                              Waiter* waiter) {
  auto call = std::make_shared<llm::Call>();
  call->id = core_->ids.fresh();
  call->rollout = registration_.id;
  call->task = registration_.task;
  call->session = std::move(arrival.session);
  call->dialect = arrival.dialect;
  if (rule != nullptr) call->purpose = rule->purpose;
  static_cast<llm::Head&>(*call) = peek;
  call->digest = digest;
  call->ordinal = ++counters_.calls;
  call->arrived_at = std::chrono::system_clock::now();
  call->headers = std::move(arrival.headers);

  auto parked = std::make_shared<ParkedCall>();
  parked->marks = {arrival.dialect, digest, std::move(arrival.request_id), arrival.retry_count};
  parked->mark = llm::mark_of(peek);
  parked->conversation_size = peek.conversation.text.size();
  parked->waiters.push_back(waiter);
  call->like = arrival.like;
  call->body = llm::Body(std::move(arrival.body));  // `peek` pointed into it
  if (changed) call->changed_body = std::make_shared<const Bytes>(std::move(changed->body));
  parked->call = std::move(call);

  ++counters_.open;
  counters_.bytes += parked->call->body.size();
  GateTotals::add(core_->totals.calls);
  GateTotals::add(core_->totals.open_calls);
  GateTotals::add(core_->totals.request_bytes, parked->call->body.size());
  if (parked->call->body.size() >= llm::Body::kWorthPuttingAway) await_putting_away();
  calls_[parked->call->id.value] = parked;
  by_digest_[key_of(*parked->call)] = parked;
  core_->owners.add(parked->call->id, weak_from_this());
  if (trace::Recorder* const to = recorder()) to->arrived(*parked->call);
  if (changed) {
    event("tools_added",
          fmt::format(R"({{"call":"{}","tools":{}}})", parked->call->id.value, changed->added));
  }
  tell_call("call_arrived", *parked->call);
  return parked;
}

void OpenRollout::submit(const std::shared_ptr<ParkedCall>& parked, const PurposeRule* rule) {
  if (rule != nullptr && rule->canned) {
    llm::Answer canned = llm::text_answer(*rule->canned, llm::Origin::kCanned);
    const auto answered = accept(parked, std::move(canned));
    if (!answered) fail(parked, answered.error().message);
    return;
  }
  if (!registration_.policy) {
    parked->ticket = core_->ready.push(parked->call, ReadyQueue::Announce::kLater);
    announce_ = true;
    at_turn_end();
    return;
  }
  auto target = std::make_shared<PolicyTarget>(weak_from_this(), shard(), parked);
  submitting_ = parked.get();
  const Defer submitted([this] { submitting_ = nullptr; });
  registration_.policy->submit(parked->call, Reply(std::move(target)));
}

Result<void> OpenRollout::check_open(const ParkedCall& parked) {
  if (parked.state == State::kOpen && !parked.relay) return {};
  return Error(ErrorCode::kFailedPrecondition,
               parked.state == State::kEnded
                   ? fmt::format("the call has ended: {}", to_string(parked.outcome))
                   : "the call is answered already");
}

Result<void> OpenRollout::piece(const CallId& id, const llm::Piece& piece) {
  const auto it = calls_.find(id.value);
  if (it == calls_.end()) return Error(ErrorCode::kFailedPrecondition, "the call has ended");
  return this->piece(std::shared_ptr(it->second), piece);
}

Result<void> OpenRollout::piece(const std::shared_ptr<ParkedCall>& parked,
                                const llm::Piece& piece) {
  SLUICE_TRY_VOID(check_open(*parked));
  if (parked->call->n != 1) {
    return Error(ErrorCode::kInvalidArgument,
                 "piece: the call asks for several choices, which come whole only",
                 ErrorOrigin::kCaller);
  }
  if (!parked->so_far) parked->so_far = std::make_unique<llm::Message>();
  SLUICE_TRY_VOID(llm::append(*parked->so_far, piece));
  if (goes_ahead(*parked)) wake(*parked);
  return {};
}

Result<void> OpenRollout::answer(const std::shared_ptr<ParkedCall>& parked, llm::Answer answer) {
  SLUICE_TRY_VOID(check_open(*parked));
  if (parked->so_far) {
    SLUICE_TRY_VOID(llm::continues(*parked->so_far, answer));
  }
  SLUICE_TRY_VOID(check_origin(answer));
  return accept(parked, std::move(answer));
}

// What the gate answers by itself is subject to no rule: it is never trainable.
Result<void> OpenRollout::accept(const std::shared_ptr<ParkedCall>& parked, llm::Answer answer) {
  SLUICE_TRY_VOID(llm::complete(answer, *parked->call));
  stamp_versions(*parked, answer);
  if (trace::Recorder* const to = recorder()) to->answered(*parked->call, answer);
  if (answer.origin == llm::Origin::kSampled && !first_epoch_ && parked->ticket) {
    first_epoch_ = core_->ready.state().epoch;
  }
  tell_call("call_answered", *parked->call);
  parked->answer = std::make_shared<const llm::Answer>(std::move(answer));
  parked->state = State::kAnswered;
  core_->ready.remove(std::exchange(parked->ticket, nullptr));
  for (const auto& pending : parked->pending) tell(pending, std::nullopt);
  wake(*parked);
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
    return Error(ErrorCode::kInvalidArgument,
                 "answer: what was sampled needs its token ids and a logprob for each (or another "
                 "origin, or a registration that waives them)",
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

void OpenRollout::refuse(const std::shared_ptr<ParkedCall>& parked, llm::Refusal refusal) {
  if (parked->state != State::kOpen || parked->relay) return;
  const bool failure = is_failure(refusal);
  parked->problem = std::make_unique<const Problem>(Problem::of(refusal));
  end(parked, failure ? Outcome::kFailed : Outcome::kRefused, refusal.message);
}

void OpenRollout::fail(const std::shared_ptr<ParkedCall>& parked, std::string_view detail) {
  if (parked->state != State::kOpen || parked->relay) return;
  core_->options.log.warn("gate", "a policy failed a call",
                          {{"rollout", registration_.id.value}, {"why", detail}});
  // The agent is not told why: that is for the trace.
  parked->problem = std::make_unique<const Problem>(internal_error());
  end(parked, Outcome::kFailed, detail);
}

void OpenRollout::relay(const std::shared_ptr<ParkedCall>& parked, std::unique_ptr<Relay> relay) {
  if (parked->state != State::kOpen || parked->relay) return;
  if (submitting_ != parked.get()) {
    fail(parked, "a relay was given after submit(), when the answer's head was sent already");
    return;
  }
  parked->relay = std::move(relay);
}

void OpenRollout::reply(const CallId& id, std::variant<llm::Answer, llm::Refusal> reply,
                        std::shared_ptr<PendingOutcome> pending) {
  const auto it = calls_.find(id.value);
  if (it == calls_.end()) {
    pending->resolve(Error(ErrorCode::kFailedPrecondition, "the call has ended"));
    return;
  }
  const std::shared_ptr<ParkedCall> parked = it->second;
  if (parked->state != State::kOpen || parked->relay) {
    pending->resolve(Error(ErrorCode::kFailedPrecondition, "the call is answered already"));
    return;
  }
  parked->pending.push_back(pending);
  if (auto* refusal = std::get_if<llm::Refusal>(&reply)) {
    refuse(parked, std::move(*refusal));
    return;
  }
  if (auto answered = answer(parked, std::move(std::get<llm::Answer>(reply))); !answered) {
    parked->pending.pop_back();
    pending->resolve(std::move(answered).error());
  }
}

void OpenRollout::delivered(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter) {
  detach(parked, waiter);
  if (parked->state != State::kAnswered) return;  // another connection was first
  end(parked, Outcome::kDelivered, "");
  count_tokens(*parked->answer);
  remember(*parked, Received::kYes);
}

void OpenRollout::count_tokens(const llm::Answer& answer) {
  if (!answer.usage) return;
  const auto tokens = static_cast<uint64_t>(std::max<int64_t>(0, answer.usage->prompt_tokens) +
                                            std::max<int64_t>(0, answer.usage->completion_tokens));
  counters_.tokens += tokens;
  GateTotals::add(core_->totals.tokens, tokens);
}

// Keeps the answer of a call that has ended, to be sent again and to be recognised.
void OpenRollout::remember(const ParkedCall& parked, Received received) {
  const llm::Call& call = *parked.call;
  Session& session = sessions_.open(call.session.value);
  session.keep({parked.marks, call.session.value, call.id, llm::envelope(call), call.stream,
                parked.answer, received, Clock::now()});
  // All that recorders need of a call is who it is; its body would be held for long.
  auto outline = std::make_shared<llm::Call>();
  outline->id = call.id;
  outline->rollout = call.rollout;
  outline->ordinal = call.ordinal;
  // Also of what was not received, as far as is known: an agent that echoes it has it.
  session.expect_echo(std::move(outline), parked.mark, parked.conversation_size, parked.answer);
}

void OpenRollout::received_late(const KeptAnswer& kept) {
  if (closed_) return;
  Session* const session = sessions_.find(kept.session);
  const auto answer = session != nullptr ? session->received_late(kept.call) : nullptr;
  if (!answer) return;
  // Its call has ended, and what became of it was told: that does not change.
  const Bytes detail = fmt::format(R"({{"call":"{}"}})", kept.call.value);
  event("received_late", detail);
  tell_event("call_received_late", detail);
  count_tokens(*answer);
}

void OpenRollout::hung_up(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter) {
  detach(parked, waiter);
  if (parked->state == State::kEnded || !parked->waiters.empty()) return;
  abandon(parked);
}

void OpenRollout::detach(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter) {
  std::erase(parked->waiters, waiter);
}

void OpenRollout::relayed(const std::shared_ptr<ParkedCall>& parked, Outcome outcome,
                          std::string_view detail) {
  if (parked->state != State::kEnded) end(parked, outcome, detail);
}

void OpenRollout::count_answer_bytes(uint64_t bytes) {
  counters_.bytes += bytes;
  GateTotals::add(core_->totals.answer_bytes, bytes);
}

void OpenRollout::wake(ParkedCall& parked) {
  for (Waiter* waiter : parked.waiters) waiter->wake.notify();
}

void OpenRollout::end(const std::shared_ptr<ParkedCall>& parked, Outcome outcome,
                      std::string_view detail) {
  parked->state = State::kEnded;
  parked->outcome = outcome;
  core_->ready.remove(std::exchange(parked->ticket, nullptr));
  if (outcome != Outcome::kDelivered && goes_ahead(*parked)) {
    // The agent may have some of what never came to a delivered answer.
    event("unfinished", fmt::format(R"({{"call":"{}","reasoning_bytes":{},"text_bytes":{}}})",
                                    parked->call->id.value, parked->so_far->reasoning.size(),
                                    parked->so_far->text.size()));
  }
  if (trace::Recorder* const to = recorder()) to->ended(*parked->call, outcome, detail);
  ++counters_.outcomes[static_cast<size_t>(outcome)];
  --counters_.open;
  GateTotals::add(core_->totals.outcomes[static_cast<size_t>(outcome)]);
  GateTotals::subtract(core_->totals.open_calls);
  if (outcome == Outcome::kDelivered) ++counters_.turns;
  if (core_->events.wanted()) {
    tell_call("call_ended", *parked->call,
              fmt::format(R"({{"outcome":"{}"}})", to_string(outcome)));
  }
  const CallId& id = parked->call->id;
  core_->owners.remove(id);
  const auto it = by_digest_.find(key_of(*parked->call));
  if (it != by_digest_.end() && it->second.lock() == parked) by_digest_.erase(it);
  calls_.erase(id.value);
  for (auto& pending : std::exchange(parked->pending, {})) tell(std::move(pending), outcome);
  wake(*parked);
}

void OpenRollout::abandon(const std::shared_ptr<ParkedCall>& parked) {
  const Duration grace = registration_.resend.grace;
  if (grace <= Duration::zero() || closing_) {
    give_up(parked, "the agent hung up");
    return;
  }
  const auto until = Deadline::in(grace).at();
  parked->abandoned_until = until;
  abandoned_.push_back({until, parked});
  if (!grace_timer_.armed()) grace_timer_.arm(Deadline(until), [this] { end_abandoned(); });
}

void OpenRollout::end_abandoned() {
  const auto now = Clock::now();
  while (!abandoned_.empty()) {
    const auto [until, weak] = abandoned_.front();
    const auto parked = weak.lock();
    const bool still = parked && parked->state != State::kEnded && parked->abandoned_until == until;
    if (still && until > now) {
      grace_timer_.arm(Deadline(until), [this] { end_abandoned(); });
      return;
    }
    abandoned_.pop_front();
    if (still) give_up(parked, "the agent hung up and did not come back");
  }
}

void OpenRollout::await_putting_away() {
  const Duration after = core_->options.put_away_after;
  if (after == Duration::zero() || put_away_timer_.armed()) return;
  put_away_timer_.arm(Deadline::in(after), [this] { put_away(); });
}

void OpenRollout::put_away() {
  const uint64_t up_to = std::exchange(put_away_up_to_, counters_.calls);
  bool younger = recent_bodies_.put_away(up_to);
  for (const auto& [id, parked] : calls_) {
    const llm::Call& call = *parked->call;
    if (call.body.size() < llm::Body::kWorthPuttingAway) continue;
    if (call.ordinal > up_to) {
      younger = true;
    } else if (!parked->put_away && call.body.put_away()) {
      parked->put_away = true;
      GateTotals::add(core_->totals.put_away_bytes, call.body.size());
    }
  }
  if (younger) await_putting_away();
}

// An answer that nobody got is kept for an agent that comes for it later still.
void OpenRollout::give_up(const std::shared_ptr<ParkedCall>& parked, std::string_view detail) {
  end(parked, Outcome::kUndelivered, detail);
  if (parked->answer) remember(*parked, Received::kNever);
}

net::awaitable<bool> OpenRollout::close() {
  if (std::exchange(closing_, true)) co_return false;
  const auto self = shared_from_this();
  admitting_ = false;
  grace_timer_.disarm();
  time_timer_.disarm();
  put_away_timer_.disarm();
  tools_.stop_all();
  end_open(ending(ErrorCode::kCancelled, "this rollout has ended"), Outcome::kCancelled,
           "the rollout ended first");
  std::vector<std::shared_ptr<ParkedCall>> open;
  for (const auto& [id, parked] : calls_) {
    if (parked->waiters.empty()) open.push_back(parked);
  }
  for (const auto& parked : open) {
    end(parked, Outcome::kUndelivered, "the agent hung up and did not come back");
  }
  core_->ready.end(registration_.id, "closed");
  if (endpoint_) {
    const Deadline deadline = Deadline::in(kCloseGrace);
    co_await endpoint_->stop(deadline);
  }
  open.clear();
  for (const auto& [id, parked] : calls_) open.push_back(parked);
  for (const auto& parked : open) {
    end(parked, Outcome::kUndelivered, "the rollout ended before the answer was acknowledged");
  }
  endpoint_.reset();
  end_turn();
  closed_ = true;
  tell_event("rollout_closed");
  co_return true;
}

}  // namespace sluice::gate
