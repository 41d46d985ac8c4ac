// A fake coding agent for tests over sandbox/fake: its spec, and the call that it makes.
//
// On the shard of its sandbox.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "sluice/net/http_client.h"
#include "sluice/net/shard.h"
#include "sluice/sandbox/fake/fake.h"

namespace sluice::rollout::testing {

// Needs nothing, has no files of its own, and speaks chat.
inline constexpr char kCallerSpec[] = R"(
name = "caller"
version = "1"
[install]
commands = ["true"]
program = "caller"
[run]
command = ["caller", "{base_url}", "{max_output}"]
approvals_bypass = ["--yes"]
timeout_s = 5
[dialects.chat]
path = "/v1"
)";

inline net::awaitable<Result<std::unique_ptr<net::Stream>>> connect_inside(
    sandbox::fake::FakeProcess* self, uint16_t port) {
  auto stream = self->connect(port);
  if (!stream) co_return std::move(stream).error();
  co_return std::unique_ptr<net::Stream>(std::move(*stream));
}

// The status of one chat call to the endpoint that the caller's command line names; 0 if there was
// none. Equal contents would be taken for resends. "" shows no key.
inline net::awaitable<int> call_gate(net::Shard* shard, sandbox::fake::FakeProcess* self,
                                     std::string content, std::string key = "") {
  auto url = net::Url::parse(self->command().argv.at(1));
  if (!url) co_return 0;
  const uint16_t port = url->port;
  net::Connector connector = [self, port](Deadline) {
    return connect_inside(self, port);
  };
  net::HttpClient client(*shard, std::move(connector), "127.0.0.1");
  net::HttpRequest request;
  request.method = "POST";
  request.target = url->path + "/chat/completions";
  request.headers.add("Content-Type", "application/json");
  if (!key.empty()) request.headers.add("Authorization", "Bearer " + key);
  request.body = R"({"model":"policy","messages":[{"role":"user","content":")" + content + "\"}]}";
  const auto response =
      co_await client.fetch(std::move(request), Deadline::in(std::chrono::seconds(3)));
  co_return response ? response->status : 0;
}

}  // namespace sluice::rollout::testing
