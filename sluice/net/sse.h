// Server-sent events (WHATWG HTML, section 9.2): writing frames and reading a stream of them.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::net {

// "event: <event>\ndata: <line>\n...\n\n"; without an event name the field is left out. Line breaks
// in `data` (LF, CR LF or CR) become several data fields.
// REQUIRES: no line break in `event`.
void append_sse(Bytes& out, std::string_view event, std::string_view data);

struct SseEvent {
  std::string event;  // "message" if the stream named none
  std::string data;
  std::string id;  // the last one that the stream gave, with this event or before it
};

// Reads a stream fed in arbitrary pieces. One thread.
class SseReader {
 public:
  explicit SseReader(size_t max_event_bytes) : max_event_bytes_(max_event_bytes) {}
  // kTooLarge if one event is over the limit, from then on always.
  Result<void> feed(ByteView piece);
  // The next complete event, if any. Comments and events without data are skipped; what has come
  // of an event when the stream ends is dropped (as the standard says).
  std::optional<SseEvent> next();

 private:
  void take_line(ByteView line);

  size_t max_event_bytes_;
  Bytes line_;      // of the line that has no end yet
  SseEvent event_;  // what is known of the event that has no end yet
  bool has_data_ = false;
  bool at_start_ = true;   // a byte order mark may follow
  bool after_cr_ = false;  // an LF belongs to the line that is over
  bool too_large_ = false;
  std::deque<SseEvent> ready_;
};

}  // namespace sluice::net
