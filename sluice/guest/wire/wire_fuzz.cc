// Everything that a hostile peer's bytes reach in the wire format: the frame decoder, then every
// message's parser on each payload, in both directions. What parses must come out as it went in.
#include <cstdint>

#include "sluice/base/core/check.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/guest/wire/messages.h"
#include "sluice/guest/wire/sequence.h"

namespace sluice::guest::wire {
namespace {

template <class T>
void try_message(ByteView bytes) {
  const auto value = decode<T>(bytes);
  if (value) CHECK(encode(*value) == bytes);
}

void try_all(ByteView bytes) {
  try_message<HostHello>(bytes);
  try_message<GuestHello>(bytes);
  try_message<Resume>(bytes);
  try_message<Exec>(bytes);
  try_message<Started>(bytes);
  try_message<Signal>(bytes);
  try_message<KillTree>(bytes);
  try_message<KillAll>(bytes);
  try_message<Read>(bytes);
  try_message<Write>(bytes);
  try_message<Stat>(bytes);
  try_message<List>(bytes);
  try_message<ResetDirectory>(bytes);
  try_message<GiveTree>(bytes);
  try_message<KillUser>(bytes);
  try_message<HandOver>(bytes);
  try_message<HandedOver>(bytes);
  try_message<Pack>(bytes);
  try_message<TakeWork>(bytes);
  try_message<WorkTaken>(bytes);
  try_message<PutWork>(bytes);
  try_message<MakeWay>(bytes);
  try_message<Count>(bytes);
  try_message<FileStat>(bytes);
  try_message<Listen>(bytes);
  try_message<Listening>(bytes);
  try_message<Accepted>(bytes);
  try_message<Exit>(bytes);
  try_message<End>(bytes);
  try_message<Close>(bytes);
  (void)decode<Failure>(bytes);  // a message that is not UTF-8 is mended: no round trip
  try_message<Credit>(bytes);
  try_message<Ack>(bytes);
}

void run(ByteView bytes) {
  Decoder decoder;
  Incoming incoming;
  Assembler assembler;
  ListDecoder list(100);
  while (!bytes.empty()) {
    bytes.remove_prefix(decoder.feed(bytes.substr(0, 1 + bytes.size() / 2)));
    for (;;) {
      const auto frame = decoder.next();
      if (!frame) return;
      if (!*frame) break;
      const Frame& f = **frame;
      (void)incoming.accept(f);
      try_all(f.payload);
      if (f.type == FrameType::kData && !list.feed(f.payload)) return;
      std::optional<Request> whole;
      if (f.type == FrameType::kOpen && !assembler.busy()) {
        auto opened = assembler.open(f.payload);
        if (!opened) return;
        whole = std::move(*opened);
      } else if (f.type == FrameType::kMore) {
        auto added = assembler.more(f.payload);
        if (!added) return;
        whole = std::move(*added);
      }
      if (whole) try_all(whole->body);
    }
  }
}

}  // namespace
}  // namespace sluice::guest::wire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::guest::wire::run({reinterpret_cast<const char*>(data), size});
  return 0;
}
