// Any bytes as what a server answers, in pieces, then the end. The call must end, with an answer
// within its limits or an error; a second call on whatever the first one left must too.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sluice/base/core/check.h"
#include "sluice/net/http_client.h"
#include "sluice/net/http_wire.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"

namespace {

using namespace sluice;
using namespace sluice::net;

constexpr size_t kMaxBody = 1000;
constexpr size_t kMaxConnections = 4;

struct World {
  Shard* shard;
  std::vector<std::unique_ptr<MemoryStream>> servers;
};

awaitable<Result<std::unique_ptr<Stream>>> connect(World* world) {
  CHECK(world->servers.size() < kMaxConnections);  // two calls, each repeated at most once
  MemoryPair pair = memory_pair(*world->shard, 1 << 20);
  world->servers.push_back(std::move(pair.second));
  co_return std::unique_ptr<Stream>(std::move(pair.first));
}

// Asks to leave HTTP; whatever comes then is the caller's to its end.
awaitable<void> upgrade(HttpClient* client, int* ended) {
  HttpRequest request{"POST", "/x", {{"Upgrade", "tcp"}}, {}};
  auto called = co_await client->call(std::move(request), Deadline::never());
  if (called && (*called)->status() == 101) {
    CHECK(equal_ignoring_case((*called)->headers().get_or("Upgrade", ""), "tcp"));
    const auto stream = (*called)->take_stream();
    called->reset();
    Bytes buffer(7, '\0');
    for (bool more = true; more;) {
      const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
      more = n && *n > 0;
    }
  } else if (called) {
    CHECK((*called)->status() >= 200);
    const auto body = co_await (*called)->read_all();
    CHECK(!body || body->size() <= kMaxBody);
  }
  ++*ended;
}

awaitable<void> fetch(HttpClient* client, const char* method, int* ended) {
  HttpRequest request{method, "/x", {}, "body"};
  const auto got = co_await client->fetch(std::move(request), Deadline::never());
  ++*ended;
  if (!got) co_return;
  CHECK(got->status >= 200 && got->status <= 999);
  CHECK(got->body.size() <= kMaxBody);
  CHECK(got->headers.fields().size() <= 8);
  for (const auto& [name, value] : got->headers.fields()) {
    CHECK(wire::is_token(name) && wire::is_field_value(value));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  static Shard shard;
  constexpr const char* methods[] = {"GET", "HEAD", "POST"};
  const char* method = methods[data[0] % 3];
  const bool upgrades = data[0] >= 128;
  const size_t step = data[1] == 0 ? size : data[1];
  const ByteView input(reinterpret_cast<const char*>(data + 2), size - 2);

  World world{&shard, {}};
  HttpClientLimits limits;
  limits.header_bytes = 512;
  limits.header_fields = 8;
  limits.body_bytes = kMaxBody;
  int ended = 0;
  {
    HttpClient client(shard, [&](Deadline) { return connect(&world); }, "h", limits);
    shard.spawn(upgrades ? upgrade(&client, &ended) : fetch(&client, method, &ended));
    shard.context().poll();
    size_t at = 0;
    for (; at < input.size() && ended == 0; at += step) {
      const auto ignored =
          testing::run(shard, write_all(world.servers[0].get(), input.substr(at, step)));
      shard.context().poll();
    }
    // The rest, if there is one, answers the second call, on the same connection if it was kept.
    bool second_began = false;
    const auto next = [&] {
      second_began = true;
      shard.spawn(fetch(&client, "GET", &ended));
      shard.context().poll();
    };
    if (ended == 1) next();
    for (; at < input.size() && ended < 2; at += step) {
      const auto ignored =
          testing::run(shard, write_all(world.servers.back().get(), input.substr(at, step)));
      shard.context().poll();
    }
    // Closing may end the first call, or make the second try again.
    while (ended == 0) {
      for (const auto& server : world.servers) server->close();
      shard.context().poll();
    }
    if (!second_began) next();
    while (ended < 2) {
      for (const auto& server : world.servers) server->close();
      shard.context().poll();
    }
  }
  for (const auto& server : world.servers) server->close();
  shard.context().poll();
  return 0;
}
