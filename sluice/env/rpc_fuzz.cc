// Any bytes as the body of POST /mcp, /reset, /step and of the page's routes: an answer that is
// JSON with one of the statuses these routes have, JSON-RPC's shape on /mcp, and nothing left
// behind.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "sluice/env/fuzzing.h"
#include "sluice/json/value.h"
#include "sluice/net/http_client.h"

namespace {

using namespace sluice;
using sluice::env::testing::FuzzedServer;

net::awaitable<Result<std::unique_ptr<net::Stream>>> connect_to(net::MemoryListener* listener) {
  std::unique_ptr<net::Stream> stream = listener->connect(1 << 20);
  co_return stream;
}

net::awaitable<void> fetch(net::HttpClient* client, net::HttpRequest request,
                           std::optional<Result<net::HttpResponse>>* into) {
  into->emplace(co_await client->fetch(std::move(request), Deadline::never()));
}

void check_answer(const std::string& route, const net::HttpResponse& response) {
  const int status = response.status;
  if (route == "/mcp") {
    CHECK(status == 200 || status == 202);
    if (status == 202) return CHECK(response.body.empty());
    const auto value = json::parse(response.body, json::ParseLimits{64 << 20, 128});
    CHECK(value && value->is_object() && value->as_object().size() == 3);
    CHECK(value->as_object().contains("result") != value->as_object().contains("error"));
    return;
  }
  CHECK(status == 200 || status == 400 || status == 422 || status == 500 ||
        (route == "/web/state" && status == 409));
  CHECK(json::parse(response.body, json::ParseLimits{64 << 20, 128}));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static FuzzedServer& fuzzed = *new FuzzedServer();
  if (size < 1 || size > 4096) return 0;
  constexpr const char* routes[] = {"/mcp",      "/reset",     "/step",        "/web/reset",
                                    "/web/step", "/web/state", "/web/metadata"};
  const std::string route = routes[data[0] % 128 % std::size(routes)];
  const bool is_page = route.starts_with("/web/");
  const bool is_get = route == "/web/state" || route == "/web/metadata";
  net::Headers headers;
  if (data[0] < 128) headers.add("Content-Type", "application/json");
  net::HttpRequest request{is_get ? "GET" : "POST", route, std::move(headers),
                           Bytes(reinterpret_cast<const char*>(data + 1), size - 1)};
  std::optional<Result<net::HttpResponse>> response;
  {
    net::HttpClient client(
        fuzzed.shard, [&](Deadline) { return connect_to(fuzzed.listener); }, "localhost");
    fuzzed.shard.spawn(fetch(&client, std::move(request), &response));
    fuzzed.shard.run_until([&] { return response.has_value(); });
  }
  CHECK(*response);
  check_answer(route, **response);
  // The page's environment is made when it is first needed, and stays.
  const auto& log = fuzzed.factory.log;
  static int kept = 0;
  if (is_page) kept = log.created - log.closed;
  CHECK(kept <= 1);
  fuzzed.shard.run_until([&] {
    return fuzzed.server->connections() == 0 && fuzzed.server->sessions() == 0 &&
           log.created - log.closed == kept;
  });
  return 0;
}
