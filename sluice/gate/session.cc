#include "sluice/gate/session.h"

#include <algorithm>

#include "sluice/llm/history.h"

namespace sluice::gate {
namespace {

// A main call with some side calls in flight at once; agents were never seen to retry older ones.
constexpr size_t kKeptAnswers = 4;
constexpr size_t kExpectedEchoes = 16;

}  // namespace

void Session::delivered(Delivered delivered) {
  delivered_.push_back(std::move(delivered));
  if (delivered_.size() > kKeptAnswers) delivered_.pop_front();
}

const Delivered* Session::resend_of(const ResendMarks& marks, Duration window) const {
  for (auto it = delivered_.rbegin(); it != delivered_.rend(); ++it) {
    if (it->marks.digest != marks.digest || it->marks.dialect != marks.dialect) continue;
    const bool says_so = marks.retry_count > 0 ||
                         (!marks.request_id.empty() && marks.request_id == it->marks.request_id);
    const bool last = it == delivered_.rbegin();
    if (says_so || (last && Clock::now() - it->at < window)) return &*it;
  }
  return nullptr;
}

void Session::expect_echo(std::shared_ptr<const llm::Call> call, llm::HistoryMark mark,
                          size_t conversation_size, std::shared_ptr<const llm::Answer> answer) {
  expected_.push_back({std::move(call), mark, conversation_size, std::move(answer)});
  if (expected_.size() > kExpectedEchoes) expected_.pop_front();
}

void Session::look_for_echoes(const llm::Codec& codec, const llm::Peek& peek,
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

Session* Sessions::find(const std::string& name) {
  const auto it = sessions_.find(name);
  if (it == sessions_.end()) return nullptr;
  it->second.at = ++uses_;
  return &it->second.session;
}

Session& Sessions::open(const std::string& name) {
  if (Session* found = find(name)) return *found;
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
