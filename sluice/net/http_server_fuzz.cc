// Any bytes as what a client sends, in pieces, through a stream in memory into a real server.
// However they are cut, the server must end the connection, hand over only requests within its
// limits, and give exactly one answer for each request that it handed over, in order, with at most
// one refusal behind them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "sluice/base/core/check.h"
#include "sluice/net/http_server.h"
#include "sluice/net/http_wire.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"

namespace {

using namespace sluice;
using namespace sluice::net;

constexpr size_t kMaxHead = 1024;
constexpr size_t kMaxFields = 8;
constexpr size_t kMaxBody = 2048;

struct Served {
  std::string method;
  Bytes body;
  int version = 11;
  enum class How : uint8_t { kEcho, kPieces, kFailed } how = How::kEcho;
};

awaitable<void> handle(std::vector<Served>* all, HttpRequest request, ResponseWriter* writer) {
  CHECK(request.body.size() <= kMaxBody);
  CHECK(request.headers.fields().size() <= kMaxFields);
  CHECK(wire::is_token(request.method));
  for (const auto& [name, value] : request.headers.fields()) {
    CHECK(wire::is_token(name) && wire::is_field_value(value));
  }
  Served& served = all->emplace_back();
  served.method = request.method;
  served.body = request.body;
  const std::string index = std::to_string(all->size() - 1);
  const std::string_view path = request.path();
  Headers headers{{"X-Index", index}};
  if (path.ends_with('p')) {
    served.how = Served::How::kPieces;
    const auto started = co_await writer->start(200, std::move(headers));
    const auto wrote = co_await writer->write(std::move(request.body));
    const auto finished = co_await writer->finish();
  } else if (path.ends_with('t')) {
    served.how = Served::How::kFailed;
    throw std::runtime_error("as asked");
  } else {
    HttpResponse response{200, std::move(headers), std::move(request.body)};
    const auto sent = co_await writer->send(std::move(response));
  }
}

// Takes one answer from the front of `out`.
struct Answer {
  int status = 0;
  std::string index;
  Bytes body;
};
Answer take_answer(ByteView& out, const std::string& method) {
  wire::HeadScanner scanner(kMaxHead * 4);
  const auto size = scanner.scan(out);
  CHECK(size && *size > 0);
  const auto head = wire::parse_response_head(out.substr(0, *size), 100, method);
  CHECK(head.has_value());
  out.remove_prefix(*size);
  Answer answer{head->status, std::string(head->headers.get_or("X-Index", "")), {}};
  if (head->framing == wire::Framing::kSized) {
    CHECK(out.size() >= head->length);
    answer.body = out.substr(0, head->length);
    out.remove_prefix(head->length);
  } else if (head->framing == wire::Framing::kChunked) {
    wire::ChunkDecoder decoder(kMaxBody);
    const auto used = decoder.decode(out, &answer.body);
    CHECK(used && decoder.done());
    out.remove_prefix(*used);
  } else if (head->framing == wire::Framing::kUntilClose) {
    answer.body = out;
    out = {};
  }
  return answer;
}

void check_answers(ByteView out, const std::vector<Served>& served) {
  for (size_t i = 0; i < served.size(); ++i) {
    Answer answer = take_answer(out, served[i].method);
    while (answer.status == 100) answer = take_answer(out, served[i].method);
    if (served[i].how == Served::How::kFailed) {
      CHECK(answer.status == 500 && out.empty() && i + 1 == served.size());
      return;
    }
    CHECK(answer.status == 200 && answer.index == std::to_string(i));
    CHECK(served[i].method == "HEAD" || answer.body == served[i].body);
  }
  while (!out.empty()) {
    // A refused HEAD has no body, and which method was refused is not known here: no answer of the
    // server's own begins like a head.
    const Answer answer = take_answer(out, "HEAD");
    if (answer.status == 100) continue;
    CHECK(answer.status >= 400 && answer.index.empty());
    CHECK(out.empty() || out.starts_with("{\"error\":\""));
    out = {};
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  static Shard shard;
  const size_t step = data[0] == 0 ? size : data[0];
  const ByteView input(reinterpret_cast<const char*>(data + 1), size - 1);

  std::vector<Served> served;
  HttpServerOptions options;
  options.limits.header_bytes = kMaxHead;
  options.limits.header_fields = kMaxFields;
  options.limits.body_bytes = kMaxBody;
  HttpHandler handler = [&](HttpRequest request, ResponseWriter* writer) {
    return handle(&served, std::move(request), writer);
  };
  HttpServer server(shard, std::move(handler), std::move(options));
  auto listener = std::make_unique<MemoryListener>(shard);
  auto client = listener->connect(1 << 20);
  server.serve(std::move(listener));
  for (size_t at = 0; at < input.size(); at += step) {
    const auto ignored = testing::run(shard, write_all(client.get(), input.substr(at, step)));
    shard.context().poll();
  }
  client->finish();
  while (!client->peer_gone()) shard.context().run_one();
  const Bytes out = client->take_unread();
  check_answers(out, served);
  client->close();
  testing::run(shard, server.stop(Deadline::never()));
  return 0;
}
