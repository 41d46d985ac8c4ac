#include "sluice/gate/agent_session.h"

#include <algorithm>

#include "sluice/llm/history.h"

namespace sluice::gate {
namespace {

// A main call with some side calls in flight at once; agents were never seen to retry older ones.
constexpr size_t kKeptAnswers = 4;
constexpr size_t kExpectedEchoes = 16;

}  // namespace

void AgentSession::keep(KeptAnswer answer) {
  answers_.push_back(std::move(answer));
  if (answers_.size() > kKeptAnswers) answers_.pop_front();
}

const KeptAnswer* AgentSession::resend_of(const ResendMarks& marks, Duration window) const {
  bool last = true;  // of those that were received
  for (auto it = answers_.rbegin(); it != answers_.rend(); ++it) {
    const bool never = it->received == Received::kNever;
    const bool is_last = !never && std::exchange(last, false);
    if (it->marks.digest != marks.digest || it->marks.dialect != marks.dialect) continue;
    const bool says_so = marks.retry_count > 0 ||
                         (!marks.request_id.empty() && marks.request_id == it->marks.request_id);
    if (never || says_so || (is_last && Clock::now() - it->at < window)) return &*it;
  }
  return nullptr;
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

void AgentSession::expect_echo(std::shared_ptr<const llm::Call> call, llm::HistoryMark mark,
                               size_t conversation_size,
                               std::shared_ptr<const llm::Answer> answer) {
  expected_.push_back({std::move(call), mark, conversation_size, std::move(answer)});
  if (expected_.size() > kExpectedEchoes) expected_.pop_front();
}

void AgentSession::look_for_echoes(const llm::Codec& codec, const llm::Peek& peek,
                                   const std::function<void(const llm::Call&)>& confirmed) {
  for (auto it = expected_.begin(); it != expected_.end();) {
    // A conversation that has not grown holds no answer to itself: most calls that are none of its
    // continuations are told apart by this alone.
    const bool grown =
        peek.messages > it->mark.messages && peek.conversation.text.size() > it->conversation_size;
    if (grown && llm::echoed_choice(codec, it->mark, *it->answer, peek.conversation)) {
      confirmed(*it->call);
      it = expected_.erase(it);
    } else {
      ++it;
    }
  }
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
