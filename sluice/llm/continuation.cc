#include "sluice/llm/continuation.h"

#include <algorithm>

#include "sluice/llm/history.h"

namespace sluice::llm {
namespace {

// What a message says, however its agent wrote it this time.
std::string meaning_of(const Codec& codec, const std::string& raw) {
  const auto value = json::read_value(raw);
  return value ? codec.canonical(*value) : raw;
}

bool is_same(const Codec& codec, const Message& a, const Message& b) {
  return a.raw == b.raw ||
         (a.role == b.role && meaning_of(codec, a.raw) == meaning_of(codec, b.raw));
}

// Whether a run of the assistant's items, which are one message, goes on in `longer`.
bool goes_on(const Message& run, const Message& longer) {
  if (run.role != Role::kAssistant || run.raw.empty() || longer.role != run.role) return false;
  return longer.raw.starts_with(std::string_view(run.raw).substr(0, run.raw.size() - 1));
}

// The answer's echo from the message `at` on, which is one message of the assistant's or several in
// a row; nothing if something else stands there.
std::optional<Echo> echo_from(const Codec& codec, const Answer& answer,
                              const std::vector<Message>& messages, size_t at) {
  Message echo;
  for (size_t i = at; i < messages.size() && messages[i].role == Role::kAssistant; ++i) {
    if (i == at) {
      echo = messages[i];
    } else {
      codec.join(echo, messages[i]);
    }
    if (const auto found = find_echo(answer, echo)) return found;
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(Continuation::How how) {
  constexpr std::string_view names[] = {"exact", "repaired", "rewritten"};
  return names[static_cast<size_t>(how) % 3];
}

Continuation continuation(const Codec& codec, const Request& earlier, const Answer* answer,
                          const Request& later) {
  using enum Continuation::How;
  const std::vector<Message>&before = earlier.messages, &now = later.messages;
  for (size_t i = 0; i < before.size(); ++i) {
    if (i < now.size() && is_same(codec, before[i], now[i])) continue;
    const bool last = i + 1 == before.size() && i < now.size();
    if (last && goes_on(before[i], now[i])) return {kRepaired};
    return {kRewritten, i};
  }
  if (answer == nullptr || now.size() == before.size()) return {kExact};
  const auto echo = echo_from(codec, *answer, now, before.size());
  if (!echo) return {kRewritten, before.size()};
  return {echo->verbatim ? kExact : kRepaired};
}

Result<Continuation> continuation(Dialect dialect, const Body& earlier, const Answer* answer,
                                  const Body& later) {
  const Codec* const codec = find_codec(dialect);
  if (codec == nullptr) return Error(ErrorCode::kUnsupported, "no such dialect");
  SLUICE_TRY(const auto before, earlier.bytes());
  SLUICE_TRY(const auto now, later.bytes());
  SLUICE_TRY(const Request from, codec->parse(*before));
  SLUICE_TRY(const Request to, codec->parse(*now));
  return continuation(*codec, from, answer, to);
}

std::optional<Continuation> Parent::how() const {
  const std::lock_guard lock(mutex_);
  return how_;
}

bool Parent::is_open() const {
  const std::lock_guard lock(mutex_);
  return body_.has_value();
}

std::optional<Continuation> Parent::find_out(const Call& child) const {
  std::optional<Body> body;
  std::shared_ptr<const Answer> answer;
  {
    const std::lock_guard lock(mutex_);
    if (!body_) return how_;
    body = body_;
    answer = answer_;
  }
  // Without the lock, which a loop may want meanwhile. Twice comes to the same.
  const auto found = continuation(child.dialect, *body, answer.get(), child.body);
  const std::lock_guard lock(mutex_);
  if (found) how_ = *found;
  body_.reset();
  answer_.reset();
  return how_;
}

}  // namespace sluice::llm
