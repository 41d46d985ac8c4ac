#include "sluice/net/sse.h"

#include <fmt/format.h>

#include <utility>

#include "sluice/base/core/check.h"

namespace sluice::net {
namespace {

constexpr std::string_view kLineBreaks = "\r\n";
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// What follows the line break at the start of `text`.
std::string_view behind_break(std::string_view text) {
  return text.substr(text.starts_with("\r\n") ? 2 : 1);
}

}  // namespace

void append_sse(Bytes& out, std::string_view event, std::string_view data) {
  CHECK(event.find_first_of(kLineBreaks) == std::string_view::npos);
  if (!event.empty()) out.append("event: ").append(event).append("\n");
  for (;;) {
    const size_t end = data.find_first_of(kLineBreaks);
    out.append("data: ").append(data.substr(0, end)).append("\n");
    if (end == std::string_view::npos) break;
    data = behind_break(data.substr(end));
  }
  out.append("\n");
}

Result<void> SseReader::feed(ByteView piece) {
  while (!piece.empty() && !too_large_) {
    if (std::exchange(after_cr_, false) && piece.front() == '\n') {
      piece.remove_prefix(1);
      continue;
    }
    const size_t end = piece.find_first_of(kLineBreaks);
    const ByteView head = piece.substr(0, end);
    if (line_.size() + head.size() + event_.event.size() + event_.data.size() > max_event_bytes_) {
      too_large_ = true;
      break;
    }
    if (end == ByteView::npos) {
      line_.append(head);
      break;
    }
    after_cr_ = piece[end] == '\r';
    piece.remove_prefix(end + 1);
    if (line_.empty()) {
      take_line(head);
    } else {
      line_.append(head);
      take_line(line_);
      line_.clear();
    }
  }
  if (too_large_) {
    return Error(ErrorCode::kTooLarge,
                 fmt::format("an event of the stream has more than {} bytes", max_event_bytes_));
  }
  return {};
}

void SseReader::take_line(ByteView line) {
  if (std::exchange(at_start_, false) && line.starts_with(kByteOrderMark)) {
    line.remove_prefix(kByteOrderMark.size());
  }
  if (line.empty()) {
    if (std::exchange(has_data_, false)) {
      if (event_.event.empty()) event_.event = "message";
      SseEvent& ready = ready_.emplace_back(event_);
      ready.data.pop_back();  // the line break behind the last line
    }
    event_.event.clear();
    event_.data.clear();
    return;
  }
  const size_t colon = line.find(':');
  const ByteView name = line.substr(0, colon);
  ByteView value = colon == ByteView::npos ? ByteView() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (name == "data") {
    event_.data.append(value).append("\n");
    has_data_ = true;
  } else if (name == "event") {
    event_.event = value;
  } else if (name == "id" && value.find('\0') == ByteView::npos) {
    event_.id = value;
  }
  // "retry", comments (an empty name) and unknown fields say nothing to us.
}

std::optional<SseEvent> SseReader::next() {
  if (ready_.empty()) return std::nullopt;
  SseEvent event = std::move(ready_.front());
  ready_.pop_front();
  return event;
}

}  // namespace sluice::net
