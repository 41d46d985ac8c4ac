#include "sluice/gate/http/heard.h"

#include <algorithm>

#include "sluice/json/text.h"
#include "sluice/llm/wire.h"
#include "sluice/net/sse.h"

namespace sluice::gate::http {
namespace {

using llm::wire::append_list;

constexpr size_t kMost = 256 * 1024;  // read in a millisecond

void note(const llm::Codec& codec, ByteView text, llm::Said& said) {
  const auto value = json::read_value(text);
  if (value) codec.note(*value, said);
}

}  // namespace

void Heard::pass(ByteView piece) {
  kept_.append(piece);
  if (kept_.size() > kMost) whole_ = false;
  if (kept_.size() > 2 * kMost) kept_.erase(0, kept_.size() - kMost);
}

ByteView Heard::end() const {
  return ByteView(kept_).substr(kept_.size() - std::min(kept_.size(), kMost));
}

llm::Said Heard::said(const llm::Codec& codec) const {
  llm::Said said;
  const size_t first = kept_.find_first_not_of(" \n\r\t");
  const bool plain = first != Bytes::npos && (kept_[first] == '{' || kept_[first] == '[');
  if (plain && whole_) {
    note(codec, kept_, said);
    return said;
  }
  net::SseReader events(kMost);
  const auto fed = events.feed(end());
  if (!fed) return said;
  while (const auto event = events.next()) note(codec, event->data, said);
  if (!whole_) {
    said.tokens.clear();
    said.logprobs.clear();
  }
  return said;
}

bool Heard::finished(const llm::Said& said) const {
  if (!said.finish.empty()) return true;
  const ByteView end = this->end();
  const size_t last = end.find_last_not_of("\r\n");
  if (whole_ || last == ByteView::npos) return false;
  if (end[last] == ']') return true;  // of a stream that is one array
  const bool one_event = std::min(end.find("\n\n"), end.find("\r\n\r\n")) > last;
  return one_event && std::count(end.begin() + static_cast<ptrdiff_t>(last), end.end(), '\n') > 1;
}

bool Heard::answers(const llm::Said& said) const {
  if (!said.finish.empty()) return true;
  const size_t last = kept_.find_last_not_of(" \n\r\t");
  return !whole_ && last != Bytes::npos && (kept_[last] == '}' || kept_[last] == ']');
}

void append_said(Bytes& out, const llm::Said& said) {
  if (!said.finish.empty()) {
    out.append(",\"finish_reason\":");
    json::append_string(out, said.finish);
  }
  if (said.tokens.empty()) return;
  out.append(",\"tokens\":");
  append_list(out, said.tokens);
  out.append(",\"logprobs\":");
  append_list(out, said.logprobs);
}

}  // namespace sluice::gate::http
