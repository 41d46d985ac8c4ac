#include "sluice/gate/lineage.h"

#include <utility>

#include "sluice/llm/wire.h"

namespace sluice::gate {
namespace {

using llm::Continuation;

// Of other calls nobody keeps a history.
bool is_trajectory(const llm::Call& call) {
  return call.purpose == llm::Purpose::kMain || call.purpose == llm::Purpose::kSubagent;
}

size_t offset_in(const Bytes& body, ByteView part) {
  return static_cast<size_t>(part.data() - body.data());
}

// Whether the call's messages, and the system prompt beside them, stand in the request byte for
// byte, as far as what the request has in common with it tells.
bool has_history_of(const PastCall& past, const Lineage::Arriving& now) {
  if (!now.like || now.like->ordinal != past.call->ordinal) return false;
  if (now.like->prefix < past.history_end) return false;
  const ByteView system = now.peek.system.text;
  if (system.empty()) return true;
  const size_t at = offset_in(now.body, system);
  return at < past.history_end || at >= now.body.size() - now.like->suffix;
}

// Of the system prompt; without one, of the first message.
Digest head_of(const llm::Peek& peek) {
  if (!peek.system.text.empty()) return xxh3_128(peek.system.text);
  const auto first = llm::wire::Elements::of(peek.conversation).next();
  return xxh3_128(first ? first->text : peek.conversation.text);
}

}  // namespace

Lineage::Lineage(AgentSessions& sessions, RecentBodies& recent, Ledger& ledger, BodyReader& reader,
                 net::Executor executor)
    : sessions_(sessions),
      recent_(recent),
      ledger_(ledger),
      reader_(reader),
      looking_(std::move(executor)) {}

Lineage::Descent Lineage::of(const Arriving& now) {
  Descent out;
  const ByteView conversation = now.peek.conversation.text;
  const size_t bytes = llm::mark_of(now.peek).bytes;
  out.history_end = offset_in(now.body, conversation) + (bytes > 0 ? bytes : conversation.size());
  const auto confirmed = [this](const llm::Call& call) {
    ledger_.confirmed(call);
  };
  const std::string name = name_of(now.session);
  AgentSession* const own = sessions_.find(name);
  AgentSession::Found found;
  if (own != nullptr) found = own->look_for_echoes(now.codec, now.peek, confirmed);
  if (found.past == nullptr) {
    found = sessions_.look_elsewhere(name, now.codec, now.peek, confirmed);
  }
  if (found.past == nullptr) {
    out.head = head_of(now.peek);
    const PastCall* const before =
        own == nullptr ? nullptr : own->last_of(out.head, now.session.parent);
    if (before == nullptr) return out;
    if (before->received == Received::kYes) out.before_answer = before->answer;
    // Where its answer should be, something else is.
    const bool other = out.before_answer && now.peek.messages > before->mark.messages;
    if (other || !has_history_of(*before, now)) out.before = before->body;
    return out;
  }
  const PastCall& past = *found.past;
  out.head = past.head == Digest() ? head_of(now.peek) : past.head;
  if (has_history_of(past, now)) {
    const auto how = found.echo.verbatim ? Continuation::How::kExact : Continuation::How::kRepaired;
    out.parent = std::make_shared<llm::Parent>(past.call->id, Continuation{how});
  } else {
    out.parent = std::make_shared<llm::Parent>(past.call->id, past.body, past.answer);
  }
  return out;
}

void Lineage::arrived(const Call& call, Descent descent) {
  if (call->parent) {
    note(*call, call->parent->how());
    if (call->parent->is_open()) looking_.spawn(find_out(this, call));
  } else if (descent.before && is_trajectory(*call)) {
    looking_.spawn(compare(this, call, std::move(descent)));
  }
}

net::awaitable<void> Lineage::find_out(Lineage* self, Call call) {
  std::function<void()> work = [call] {
    call->parent->find_out(*call);
  };
  co_await self->reader_.run(std::move(work));
  self->note(*call, call->parent->how());
}

net::awaitable<void> Lineage::compare(Lineage* self, Call call, Descent descent) {
  const auto found = std::make_shared<std::optional<Continuation>>();
  std::function<void()> work = [call, found, before = std::move(*descent.before),
                                answer = std::move(descent.before_answer)] {
    const auto how = llm::continuation(call->dialect, before, answer.get(), call->body);
    if (how) *found = *how;
  };
  co_await self->reader_.run(std::move(work));
  self->note(*call, *found);
}

void Lineage::note(const llm::Call& call, const std::optional<Continuation>& how) {
  if (!how || how->how == Continuation::How::kExact) return;
  const bool rewritten = how->how == Continuation::How::kRewritten;
  if (!call.parent && !rewritten) return;
  ledger_.event(to_string(how->how), llm::wire::object([&](llm::wire::Members& detail) {
                  detail.text("call", call.id.value);
                  if (call.parent) detail.text("parent", call.parent->id().value);
                  if (rewritten) detail.number("from", static_cast<int64_t>(how->from));
                }));
  if (rewritten && is_trajectory(call)) ledger_.rewritten();
}

void Lineage::ended(const ParkedCall& parked, Received received) {
  const llm::Call& call = *parked.call;
  PastCall past;
  // All that recorders need of a call is who it is; its body would be held for long.
  auto outline = std::make_shared<llm::Call>();
  outline->id = call.id;
  outline->rollout = call.rollout;
  outline->ordinal = call.ordinal;
  outline->session = call.session;
  outline->dialect = call.dialect;
  past.call = std::move(outline);
  past.mark = parked.mark;
  past.conversation_size = parked.conversation_size;
  past.history_end = parked.history_end;
  if (is_trajectory(call)) past.head = parked.head;
  past.answer = parked.answer;
  past.received = received;
  // It is in memory while the next is compared with it, and for longer only if it is small.
  const bool small = call.body.size() < llm::Body::kWorthPuttingAway;
  if (recent_.ended(call.ordinal) || small || call.body.put_away()) past.body = call.body;
  sessions_.open(name_of(call.session)).remember(std::move(past));
}

}  // namespace sluice::gate
