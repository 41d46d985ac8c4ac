// Any bytes as what a WebSocket's peer sends. First to the decoder alone, cut in two ways: both
// must see the same events and the same fault, within the limits, and every event that comes out
// must survive being written and read again. Then, in pieces through a stream in memory, to a real
// socket: it must end, and what it writes must be frames that a client accepts.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "sluice/base/core/check.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"
#include "sluice/net/websocket.h"

namespace {

using namespace sluice;
using namespace sluice::net;
using websocket::Decoder;
using websocket::Event;
using websocket::Opcode;
using websocket::Role;

constexpr size_t kMaxMessage = 1000;

struct Seen {
  std::vector<Event> events;
  uint16_t fault = 0;
};

Seen decode(ByteView bytes, Role role, size_t step) {
  Decoder decoder(role, kMaxMessage);
  Seen seen;
  while (!bytes.empty()) {
    ByteView piece = bytes.substr(0, step);
    bytes.remove_prefix(piece.size());
    while (!piece.empty()) {
      std::optional<Event> event;
      const auto used = decoder.decode(piece, &event);
      if (!used) {
        seen.fault = used.error().code;
        return seen;
      }
      CHECK(*used <= piece.size() && (*used > 0 || event));
      CHECK(decoder.held() <= kMaxMessage + 125);
      piece.remove_prefix(*used);
      if (event) seen.events.push_back(std::move(*event));
    }
  }
  return seen;
}

void check_decoder(ByteView bytes, size_t step) {
  const Seen whole = decode(bytes, Role::kServer, bytes.size() + 1);
  const Seen cut = decode(bytes, Role::kServer, step);
  CHECK(whole.fault == cut.fault && whole.events.size() == cut.events.size());
  for (size_t i = 0; i < whole.events.size(); ++i) {
    const Event& event = whole.events[i];
    CHECK(event.opcode == cut.events[i].opcode && event.data == cut.events[i].data);
    CHECK(event.data.size() <= kMaxMessage);
    if (event.opcode == Opcode::kText) CHECK(is_valid_utf8(event.data));
    Bytes again;
    websocket::append_frame(again, Role::kServer, event.opcode, event.data,
                            event.code == websocket::kNoCode ? uint16_t{0} : event.code);
    const Seen read = decode(again, Role::kClient, 3);
    CHECK(read.fault == 0 && read.events.size() == 1 && read.events[0].data == event.data &&
          read.events[0].code == event.code);
  }
}

awaitable<void> serve(WebSocket* socket, bool* done) {
  for (;;) {
    auto message = co_await socket->read();
    if (!message) break;
    const auto sent = co_await socket->send(message->kind, std::move(message->data));
  }
  co_await socket->close(websocket::kNormal, "");
  *done = true;
}

awaitable<void> feed(MemoryStream* stream, Bytes bytes, size_t step) {
  ByteView rest = bytes;
  while (!rest.empty()) {
    const auto written = co_await write_all(stream, rest.substr(0, step));
    if (!written) co_return;
    rest.remove_prefix(std::min(step, rest.size()));
  }
  stream->finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 4096) return 0;
  const size_t step = 1 + data[0] % 64;
  const ByteView bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  check_decoder(bytes, step);

  Shard shard;
  auto [server, client] = memory_pair(shard, 1 << 16);
  WebSocketOptions options;
  options.message_bytes = kMaxMessage;
  options.waiting_messages = 4;
  bool done = false;
  {
    WebSocket socket(shard, server.get(), Bytes(bytes.substr(0, bytes.size() / 3)), Role::kServer,
                     options);
    shard.spawn(serve(&socket, &done));
    shard.spawn(feed(client.get(), Bytes(bytes.substr(bytes.size() / 3)), step));
    shard.run_until([&] { return done; });
  }
  CHECK(decode(client->take_unread(), Role::kClient, 1000).fault == 0);
  return 0;
}
