#include "sluice/agent/events.h"

#include <algorithm>

#include "sluice/json/value.h"

namespace sluice::agent {
namespace {

// The text at a JSON pointer: a string as it is, a number or boolean in JSON's spelling, nothing
// for what is absent or has parts.
std::optional<std::string> text_at(const json::Value& event, const std::string& pointer) {
  if (pointer.empty()) return std::nullopt;
  boost::system::error_code error;
  const json::Value* value = event.find_pointer(pointer, error);
  if (value == nullptr || value->is_object() || value->is_array()) return std::nullopt;
  if (const auto* text = value->if_string()) return std::string(*text);
  return json::serialize(*value);
}

}  // namespace

EventReader::EventReader(const std::vector<EventRule>& rules)
    : rules_(rules), knows_done_(std::any_of(rules.begin(), rules.end(), [](const EventRule& rule) {
        return rule.kind == EventKind::kDone;
      })) {}

std::vector<AgentEvent> EventReader::feed(ByteView piece) {
  std::vector<AgentEvent> events;
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    const ByteView part = piece.substr(0, end);
    // What is no event is not held until its line ends.
    const bool begins = partial_.empty() && !part.empty();
    if (begins && part.front() != '{') skipping_ = true;
    if (!skipping_ && partial_.size() + part.size() > kMaxLine) {
      skipping_ = true;
      partial_ = Bytes();
    }
    if (!skipping_) partial_.append(part);
    if (end == ByteView::npos) break;
    if (!skipping_) line(partial_, events);
    partial_.clear();
    skipping_ = false;
    piece.remove_prefix(end + 1);
  }
  return events;
}

std::vector<AgentEvent> EventReader::finish() {
  std::vector<AgentEvent> events;
  if (!skipping_) line(partial_, events);
  partial_.clear();
  return events;
}

void EventReader::line(std::string_view text, std::vector<AgentEvent>& events) {
  if (rules_.empty() || text.empty() || text.front() != '{') return;
  const auto event = json::parse(text, {.bytes = kMaxLine, .depth = 64});
  if (!event) return;
  for (const EventRule& rule : rules_) {
    bool matches = true;
    for (const auto& [pointer, wanted] : rule.match) {
      matches = matches && text_at(*event, pointer) == wanted;
    }
    if (!matches) continue;
    AgentEvent out{
        rule.kind, text_at(*event, rule.text).value_or(""), text_at(*event, rule.tool).value_or(""),
        text_at(*event, rule.id).value_or(""),
        rule.status.starts_with('/') ? text_at(*event, rule.status).value_or("") : rule.status};
    if (out.kind == EventKind::kError) {
      error_ = out.text;
      done_ = false;
    } else if (out.kind == EventKind::kDone) {
      error_.reset();
      done_ = true;
    }
    events.push_back(std::move(out));
    return;
  }
}

void Tail::add(ByteView bytes) {
  if (bytes.size() >= capacity_) {
    bytes_.assign(bytes.substr(bytes.size() - capacity_));
    return;
  }
  // Cut rarely: let it grow to twice its size first.
  bytes_.append(bytes);
  if (bytes_.size() > 2 * capacity_) bytes_.erase(0, bytes_.size() - capacity_);
}

}  // namespace sluice::agent
