// Any bytes as an event stream: how it is cut into pieces makes no difference, an event is never
// over the limit, and what is written for an event reads back as that event.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sluice/base/core/check.h"
#include "sluice/net/sse.h"

namespace {

using namespace sluice;
using net::SseEvent;
using net::SseReader;

constexpr size_t kMax = 256;

struct Outcome {
  std::vector<SseEvent> events;
  bool ok = true;
};

Outcome read(ByteView stream, size_t step) {
  Outcome outcome;
  SseReader reader(kMax);
  for (size_t at = 0; at < stream.size() && outcome.ok; at += step) {
    outcome.ok = reader.feed(stream.substr(at, step)).has_value();
    while (auto event = reader.next()) outcome.events.push_back(std::move(*event));
  }
  return outcome;
}

bool equal(const SseEvent& a, const SseEvent& b) {
  return a.event == b.event && a.data == b.data && a.id == b.id;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const ByteView stream(reinterpret_cast<const char*>(data + 1), size - 1);
  const Outcome whole = read(stream, std::max<size_t>(stream.size(), 1));
  const Outcome pieces = read(stream, data[0] % 16 + 1);
  CHECK(whole.ok == pieces.ok);
  CHECK(std::equal(whole.events.begin(), whole.events.end(), pieces.events.begin(),
                   pieces.events.end(), equal));
  for (const SseEvent& event : whole.events) {
    CHECK(event.event.size() + event.data.size() <= kMax + 7);
    Bytes written;
    net::append_sse(written, event.event, event.data);
    SseReader reader(kMax * 8);
    CHECK(reader.feed(written).has_value());
    const auto again = reader.next();
    CHECK(again && again->event == event.event && again->data == event.data);
    CHECK(!reader.next());
  }
  return 0;
}
