// Lines as the frames of one session, on /ws or on /mcp. On /ws each frame must be answered by one
// frame that is JSON, until the connection ends; on /mcp every answer must be JSON-RPC. Whatever
// was sent, the session is gone when the client is.
#include <cstddef>
#include <cstdint>
#include <string>

#include "sluice/env/fuzzing.h"
#include "sluice/json/value.h"
#include "sluice/net/websocket.h"

namespace {

using namespace sluice;
using net::WebSocket;
using sluice::env::testing::FuzzedServer;

struct Talk {
  bool done = false;
  size_t frames = 0;
};

void check_ws(const json::Value& reply) {
  const json::Object& object = reply.as_object();
  const auto type = json::get_string(object, "type");
  CHECK(type && object.size() == 2 && object.contains("data"));
  CHECK(*type == "observation" || *type == "state" || *type == "mcp" || *type == "error");
}

void check_rpc(const json::Value& reply) {
  const json::Object& object = reply.as_object();
  CHECK(json::get_string(object, "jsonrpc") == "2.0");
  if (object.contains("method")) return;  // a notification
  CHECK(object.size() == 3 && object.contains("id"));
  CHECK(object.contains("result") != object.contains("error"));
}

net::awaitable<Result<std::unique_ptr<net::Stream>>> connect(FuzzedServer* fuzzed) {
  co_return std::unique_ptr<net::Stream>(fuzzed->listener->connect(1 << 20));
}

net::awaitable<void> talk(FuzzedServer* fuzzed, Bytes bytes, std::string path, Talk* talk) {
  net::Connector connector = [fuzzed](Deadline) {
    return connect(fuzzed);
  };
  net::HttpClient client(fuzzed->shard, std::move(connector), "localhost");
  net::Headers headers;
  auto opened = co_await net::open_websocket(&client, path, std::move(headers), Deadline::never());
  CHECK(opened);
  WebSocket socket(fuzzed->shard, opened->get(), Bytes(), net::websocket::Role::kClient);
  const bool lock_step = path == "/ws";
  ByteView rest = bytes;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const Bytes line(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const auto kind = is_valid_utf8(line) ? WebSocket::Kind::kText : WebSocket::Kind::kBinary;
    const auto sent = co_await socket.send(kind, line);
    if (!sent) break;
    if (!lock_step) continue;
    auto reply = co_await socket.read();
    if (!reply) break;
    const auto value = json::parse(reply->data, json::ParseLimits{64 << 20, 128});
    CHECK(value);
    check_ws(*value);
    ++talk->frames;
  }
  if (!lock_step) {
    const auto sent = co_await socket.send(WebSocket::Kind::kText,
                                           R"({"jsonrpc":"2.0","id":"the last","method":"ping"})");
    for (;;) {
      auto reply = co_await socket.read();
      if (!reply) break;
      const auto value = json::parse(reply->data, json::ParseLimits{64 << 20, 128});
      CHECK(value);
      check_rpc(*value);
      if (value->as_object().contains("id") && value->at("id") == "the last") break;
    }
  }
  co_await socket.close(1000, "");
  talk->done = true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static FuzzedServer& fuzzed = *new FuzzedServer();
  if (size < 1 || size > 4096) return 0;
  Talk state;
  Bytes bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  fuzzed.shard.spawn(talk(&fuzzed, std::move(bytes), data[0] % 2 == 0 ? "/ws" : "/mcp", &state));
  fuzzed.shard.run_until([&] { return state.done; });
  // Sessions that were made over the wire end by their time to live.
  fuzzed.shard.run_until(
      [&] { return fuzzed.server->connections() == 0 && fuzzed.server->sessions() == 0; });
  CHECK(fuzzed.factory.log.waiting == 0);
  return 0;
}
