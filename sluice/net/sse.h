// Server-sent events (WHATWG HTML, section 9.2): writing frames and reading a stream of them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::net {

// "event: <event>\ndata: <line>\n...\n\n"; without an event name the field is left out. Line breaks
// in `data` become several data fields.
void append_sse(Bytes& out, std::string_view event, std::string_view data);

struct SseEvent {
  std::string event;  // "message" if the stream named none
  std::string data;
  std::string id;
};

// Reads a stream fed in arbitrary pieces. One thread.
class SseReader {
 public:
  explicit SseReader(size_t max_event_bytes) : max_event_bytes_(max_event_bytes) {}
  // kTooLarge if one event is over the limit.
  Result<void> feed(ByteView piece);
  // The next complete event, if any. Comments and empty events are skipped.
  std::optional<SseEvent> next();

 private:
  size_t max_event_bytes_;
  Bytes buffer_;
  size_t parsed_ = 0;
};

}  // namespace sluice::net
