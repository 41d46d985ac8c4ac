// For tests of the server: handlers chosen by the request's path, and a server on streams in
// memory.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sluice/net/http_server.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"
#include "sluice/net/wait.h"

namespace sluice::net::testing {

// What the handlers of these tests do is chosen by the path.
struct App {
  explicit App(Shard& s) : shard(s) {}

  Shard& shard;
  Signal go;                        // ends /park
  std::vector<std::string> served;  // targets, in order
  std::vector<HttpRequest> requests;
  std::vector<Result<void>> results;
  std::optional<PeerClose> peer_closed;
  bool cancelled = false;

  static awaitable<void> handle(App* app, HttpRequest request, ResponseWriter* writer) {
    app->served.push_back(request.target);
    const std::string path(request.path());
    if (path == "/echo") {
      HttpResponse response{200, {{"Content-Type", "text/plain"}}, request.body};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/pieces") {
      Headers headers{{"Content-Type", "text/event-stream"}};
      app->results.push_back(co_await writer->start(200, std::move(headers)));
      app->results.push_back(co_await writer->write("first "));
      app->results.push_back(co_await writer->write(""));
      app->results.push_back(co_await writer->write("second"));
      app->results.push_back(co_await writer->write(Bytes(100'000, 'x')));
      app->results.push_back(co_await writer->finish());
    } else if (path == "/throw") {
      throw std::runtime_error("secret detail");
    } else if (path == "/throw-int") {
      throw 7;
    } else if (path == "/throw-midway") {
      app->results.push_back(co_await writer->start(200, Headers()));
      app->results.push_back(co_await writer->write("half"));
      throw std::runtime_error("secret detail");
    } else if (path == "/half") {
      app->results.push_back(co_await writer->start(200, Headers()));
      app->results.push_back(co_await writer->write("half"));
    } else if (path == "/abort") {
      app->results.push_back(co_await writer->start(200, Headers()));
      writer->abort();
    } else if (path == "/park") {
      writer->on_peer_closed([app](PeerClose close) {
        app->peer_closed = close;
        app->go.notify();
      });
      const auto waited = co_await wait_for(&app->go);
      if (!waited) {
        app->cancelled = true;
        co_return;
      }
      HttpResponse response{200, {}, "parked"};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/close") {
      HttpResponse response{200, {{"Connection", "close"}}, "bye"};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/smuggle") {
      HttpResponse response{200, {{"X", "a\r\nSet-Cookie: b"}}, ""};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/status") {
      HttpResponse response{std::stoi(std::string(request.query())), {}, "body"};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/twice") {
      HttpResponse response{200, {}, "once"};
      app->results.push_back(co_await writer->send(response));
      app->results.push_back(co_await writer->send(response));
      app->results.push_back(co_await writer->start(200, Headers()));
      app->results.push_back(co_await writer->write("x"));
      app->results.push_back(co_await writer->finish());
    } else if (path == "/big") {
      HttpResponse response{200, {}, Bytes(std::stoul(std::string(request.query())), 'b')};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/drained") {
      HttpResponse response{200, {}, "ok"};
      app->results.push_back(co_await writer->send(std::move(response)));
      app->results.push_back(co_await writer->drained(Deadline::in(std::chrono::seconds(5))));
    }
    app->requests.push_back(std::move(request));
  }

  HttpHandler handler() {
    return [this](HttpRequest request, ResponseWriter* writer) {
      return handle(this, std::move(request), writer);
    };
  }
};

inline awaitable<void> write_bytes(Stream* stream, Bytes bytes) {
  const auto ignored = co_await write_all(stream, bytes);
}

inline awaitable<void> stop_then_set(HttpServer* server, Deadline deadline, bool* stopped) {
  co_await server->stop(deadline);
  *stopped = true;
}

class HttpServerTest : public ::testing::Test {
 protected:
  ~HttpServerTest() override {
    if (server_) testing::run(shard_, server_->stop(Deadline::in(Duration())));
  }

  HttpServer& server() {
    if (!server_) {
      server_.emplace(shard_, app_.handler(), options_);
      auto listener = std::make_unique<MemoryListener>(shard_);
      listener_ = listener.get();
      server_->serve(std::move(listener));
    }
    return *server_;
  }
  std::unique_ptr<MemoryStream> connect(size_t credit = 1 << 20) {
    server();
    return listener_->connect(credit);
  }
  void send(MemoryStream& client, Bytes bytes) {
    shard_.spawn(write_bytes(&client, std::move(bytes)));
    shard_.context().poll();
  }
  // All that comes until the server closes the connection.
  static std::string read_to_end(Shard& shard, MemoryStream& client) {
    std::string all;
    Bytes buffer(65536, '\0');
    for (;;) {
      const auto n = testing::run(shard, client.read_some(as_writable_byte_span(buffer)));
      if (!n) return all + "<" + n.error().message + ">";
      if (*n == 0) return all;
      all.append(buffer, 0, *n);
    }
  }
  // Sends `bytes`, ends the sending side, and returns all that comes back.
  std::string talk(Bytes bytes) {
    auto client = connect();
    send(*client, std::move(bytes));
    client->finish();
    return read_to_end(shard_, *client);
  }
  // Removes Date, which no test can know.
  static std::string without_date(std::string text) {
    for (size_t at; (at = text.find("Date: ")) != std::string::npos;) {
      text.erase(at, text.find("\r\n", at) + 2 - at);
    }
    return text;
  }
  static size_t count(const std::string& text, const std::string& what) {
    size_t n = 0;
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
    return n;
  }

  Shard shard_;
  App app_{shard_};
  HttpServerOptions options_;
  MemoryListener* listener_ = nullptr;
  std::optional<HttpServer> server_;
};
}  // namespace sluice::net::testing
