#include "sluice/gate/agent_session.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace sluice::gate {
namespace {

// A main call with some side calls in flight at once; agents were never seen to retry older ones.
constexpr size_t kKeptAnswers = 4;
constexpr size_t kPastCalls = 16;
// Of these so many with a small body, or one that no recorder keeps.
constexpr size_t kBodiesInMemory = 4;
// Sessions that are searched for one request that goes on from none of its own calls.
constexpr size_t kTriesElsewhere = 8;

// Whether an answer may stand in a conversation: one that has not grown holds none to itself. Most
// calls that are none of its continuations are told apart by this alone.
bool may_be_held(const PastCall& past, const llm::Codec& codec, const llm::Peek& peek) {
  return peek.messages > past.mark.messages &&
         peek.conversation.text.size() > past.conversation_size && past.answer &&
         llm::find_codec(past.call->dialect) == &codec;
}

}  // namespace

std::string name_of(const llm::SessionKey& session) {
  // No header's value has a line's end in it.
  return session.parent.empty() ? session.value : session.value + "\n" + session.parent;
}

void AgentSession::keep(KeptAnswer answer) {
  answers_.push_back(std::move(answer));
  if (answers_.size() > kKeptAnswers) answers_.pop_front();
}

const KeptAnswer* AgentSession::resend_of(const ResendMarks& marks, Duration window) const {
  bool last = true;  // of those that were received
  const KeptAnswer* found = nullptr;
  for (auto it = answers_.rbegin(); it != answers_.rend(); ++it) {
    const bool never = it->received == Received::kNever;
    const bool is_last = !never && std::exchange(last, false);
    if (it->marks.digest != marks.digest || it->marks.dialect != marks.dialect) continue;
    // Of several that were asked for alike, the one that is named.
    if (marks.names(it->marks)) return &*it;
    const bool recent = is_last && Clock::now() - it->at < window;
    const bool fits =
        never || marks.repeats(it->marks) || (recent && !marks.is_another(it->marks, window));
    if (fits && found == nullptr) found = &*it;
  }
  return found;
}

std::shared_ptr<const llm::Answer> AgentSession::received_late(const CallId& call) {
  const auto it = std::find_if(answers_.begin(), answers_.end(), [&](const KeptAnswer& one) {
    return one.call == call && one.received == Received::kNever;
  });
  if (it == answers_.end()) return nullptr;
  // With that it is the session's last.
  KeptAnswer answer = std::move(*it);
  answers_.erase(it);
  answer.received = Received::kYes;
  answer.at = Clock::now();
  answers_.push_back(std::move(answer));
  return answers_.back().answer;
}

void AgentSession::remember(PastCall past) {
  const uint64_t ordinal = past.call->ordinal;
  past_.push_back(std::move(past));
  if (past_.size() > kPastCalls) past_.pop_front();
  // The session's next request is compared with the newest, which stays in memory.
  for (size_t i = 0; i + 1 < past_.size(); ++i) {
    PastCall& each = past_[i];
    if (!each.body || each.put_away || each.call->ordinal > ordinal) continue;
    each.put_away = each.body->put_away();
    if (!each.put_away && past_.size() - i > kBodiesInMemory) each.body.reset();
  }
}

AgentSession::Found AgentSession::look_for_echoes(
    const llm::Codec& codec, const llm::Peek& peek,
    const std::function<void(const llm::Call&)>& confirmed) {
  Found found;
  std::vector<PastCall*> candidates;
  for (PastCall& each : past_) {
    if (may_be_held(each, codec, peek)) candidates.push_back(&each);
  }
  // The latest place first: mostly the answer stands there, and no other is looked for.
  std::ranges::sort(candidates, std::greater(), [](const PastCall* each) {
    return std::pair(each->mark.messages, each->call->ordinal);
  });
  for (PastCall* const each : candidates) {
    if (found.past != nullptr && each->confirmed) continue;
    const auto echo = llm::find_echo(codec, each->mark, *each->answer, peek.conversation);
    if (!echo) continue;
    if (found.past == nullptr) found = {each, *echo};
    if (!std::exchange(each->confirmed, true)) confirmed(*each->call);
  }
  return found;
}

bool AgentSession::may_hold(const llm::Codec& codec, const llm::Peek& peek) const {
  return std::ranges::any_of(past_,
                             [&](const PastCall& each) { return may_be_held(each, codec, peek); });
}

const PastCall* AgentSession::last_of(const Digest& head, const std::string& parent) const {
  const auto it = std::find_if(past_.rbegin(), past_.rend(), [&](const PastCall& each) {
    return each.head == head && each.call->session.parent == parent;
  });
  return it == past_.rend() || head == Digest() ? nullptr : &*it;
}

AgentSession::Found AgentSessions::look_elsewhere(
    const std::string& name, const llm::Codec& codec, const llm::Peek& peek,
    const std::function<void(const llm::Call&)>& confirmed) {
  std::vector<Used*> others;
  for (auto& [other, used] : sessions_) {
    if (other != name && used.session.may_hold(codec, peek)) others.push_back(&used);
  }
  // Those that were used last.
  std::ranges::sort(others, std::greater(), &Used::at);
  if (others.size() > kTriesElsewhere) others.resize(kTriesElsewhere);
  AgentSession::Found found;
  for (Used* const used : others) {
    const auto here = used->session.look_for_echoes(codec, peek, confirmed);
    if (here.past == nullptr) continue;
    const size_t place = here.past->mark.messages;
    if (found.past == nullptr || place > found.past->mark.messages) found = here;
  }
  return found;
}

AgentSession* AgentSessions::find(const std::string& name) {
  const auto it = sessions_.find(name);
  if (it == sessions_.end()) return nullptr;
  it->second.at = ++uses_;
  return &it->second.session;
}

AgentSession& AgentSessions::open(const std::string& name) {
  if (AgentSession* found = find(name)) return *found;
  if (sessions_.size() >= kMost) {
    // Agents have one session and a few of sub-agents: to look through all of them is rare enough.
    sessions_.erase(
        std::min_element(sessions_.begin(), sessions_.end(),
                         [](const auto& a, const auto& b) { return a.second.at < b.second.at; }));
  }
  Used& made = sessions_[name];
  made.at = ++uses_;
  return made.session;
}

}  // namespace sluice::gate
