// For tests of the server: one that serves a tool environment in memory, with its clients.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/env/documents.h"
#include "sluice/env/server.h"
#include "sluice/env/testing.h"
#include "sluice/net/http_client.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"

namespace sluice::env::testing {

using namespace std::chrono_literals;
using net::HttpRequest;
using net::HttpResponse;
using net::WebSocket;

inline awaitable<Result<std::unique_ptr<net::Stream>>> connect_to(net::MemoryListener** listener,
                                                                  net::MemoryStream** last) {
  std::unique_ptr<net::MemoryStream> stream = (*listener)->connect(64 << 20);
  *last = stream.get();
  co_return std::unique_ptr<net::Stream>(std::move(stream));
}

// A client's WebSocket with the stream beneath it.
struct Socket {
  std::unique_ptr<net::Stream> stream;
  net::MemoryStream* memory = nullptr;  // what carries it
  std::unique_ptr<WebSocket> web;
};

inline awaitable<void> fetch_into(net::HttpClient* client, HttpRequest request,
                                  std::optional<Result<HttpResponse>>* into) {
  into->emplace(co_await client->fetch(std::move(request), Deadline::in(20s)));
}

class EnvServerTest : public ::testing::Test {
 protected:
  EnvServerTest() { options_.max_sessions = 4; }
  ~EnvServerTest() override {
    client_.reset();
    for (Socket* socket : sockets_) socket->stream->close();
    if (server_) net::testing::run(shard_, server_->stop(Deadline::in(0s)));
    for (Socket* socket : sockets_) {
      if (socket->web) net::testing::run(shard_, socket->web->close(1000, ""));
      delete socket;
    }
    if (factory_) {
      EXPECT_EQ(factory_->log.created, factory_->log.closed);
    }
  }

  ToolEnvironmentFactory& factory() {
    if (!factory_) factory_.emplace(environment_);
    return *factory_;
  }
  EnvServer& server() {
    if (server_) return *server_;
    EnvironmentFactory& served = other_ ? *other_ : factory();
    auto made = EnvServer::make(shard_, served, options_);
    EXPECT_TRUE(made) << made.error().message;
    server_ = std::move(*made);
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    listener_ = listener.get();
    EXPECT_TRUE(server_->serve(std::move(listener)));
    client_.emplace(
        shard_, [this](Deadline) { return connect_to(&listener_, &last_); }, "localhost");
    return *server_;
  }

  HttpResponse http(std::string method, std::string target, std::string body = "",
                    net::Headers headers = {{"Content-Type", "application/json"}}) {
    server();
    HttpRequest request{std::move(method), std::move(target), std::move(headers), std::move(body)};
    auto response =
        net::testing::run(shard_, client_->fetch(std::move(request), Deadline::in(20s)));
    EXPECT_TRUE(response) << response.error().message;
    return response ? *response : HttpResponse{0, {}, {}};
  }
  HttpResponse get(std::string target) { return http("GET", std::move(target), "", {}); }
  HttpResponse post(std::string target, std::string body) {
    return http("POST", std::move(target), std::move(body));
  }
  json::Value get_json(std::string target) {
    const HttpResponse response = get(std::move(target));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.headers.get_or("Content-Type", ""), "application/json");
    auto value = json::parse(response.body);
    EXPECT_TRUE(value);
    return value ? *value : json::Value();
  }
  std::string mcp(std::string body) {
    const HttpResponse response = post("/mcp", std::move(body));
    EXPECT_EQ(response.status, 200);
    return response.body;
  }

  Result<Socket*> try_connect(std::string path, net::Headers headers = {}) {
    server();
    auto opened = net::testing::run(
        shard_,
        net::open_websocket(&*client_, std::move(path), std::move(headers), Deadline::in(20s)));
    if (!opened) return std::move(opened).error();
    auto* socket = new Socket{std::move(*opened), last_, nullptr};
    sockets_.push_back(socket);
    net::WebSocketOptions options;
    options.message_bytes = 100 << 20;
    options.ping_interval = 1h;
    socket->web = std::make_unique<WebSocket>(shard_, socket->stream.get(), Bytes(),
                                              net::websocket::Role::kClient, options);
    return socket;
  }
  Socket& connect(std::string path = "/ws") {
    auto socket = try_connect(std::move(path));
    EXPECT_TRUE(socket) << socket.error().message;
    return **socket;
  }
  void send(Socket& socket, std::string text, WebSocket::Kind kind = WebSocket::Kind::kText) {
    EXPECT_TRUE(net::testing::run(shard_, socket.web->send(kind, std::move(text))));
  }
  // The next frame, or "closed CODE".
  std::string next(Socket& socket) {
    auto message = net::testing::run(shard_, socket.web->read());
    return message ? message->data : "closed " + std::to_string(socket.web->close_code());
  }
  std::string ask(Socket& socket, std::string text) {
    send(socket, std::move(text));
    return next(socket);
  }
  json::Object ask_json(Socket& socket, std::string text) {
    return parse_document(ask(socket, std::move(text)));
  }

  // What is answered to bytes that no client of ours would send, as far as the head and a body of
  // JSON go.
  Bytes answer_to(ByteView request) {
    server();
    const auto raw = listener_->connect();
    EXPECT_TRUE(net::testing::run(shard_, net::write_all(raw.get(), request)));
    Bytes answer;
    shard_.run_until([&] {
      answer += raw->take_unread();
      return raw->peer_gone() || (answer.find("\r\n\r\n") != Bytes::npos && answer.back() == '}');
    });
    return answer;
  }
  std::string create_session() {
    const json::Object created =
        parse_document(mcp(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})"));
    return std::string(created.at("result").at("session_id").as_string());
  }

  net::Shard shard_;
  ToolEnvironmentOptions environment_;
  ServerOptions options_;
  std::optional<ToolEnvironmentFactory> factory_;
  std::unique_ptr<EnvironmentFactory> other_;  // served instead, if there is one
  std::unique_ptr<EnvServer> server_;
  net::MemoryListener* listener_ = nullptr;
  net::MemoryStream* last_ = nullptr;  // the connection made last
  std::optional<net::HttpClient> client_;
  std::vector<Socket*> sockets_;
};

// Says again what it is told, as an action of its own; one that says "fail" fails.
class SayingEnvironment final : public Environment {
 public:
  awaitable<Result<Observation>> reset(json::Object, CallContext*) override {
    co_return Observation();
  }
  awaitable<Result<Observation>> step(json::Object action, CallContext*) override {
    const std::string_view message = *json::get_string(action, "message");
    if (message == "fail") {
      co_return Error(ErrorCode::kInvalidArgument, "this cannot be said");
    }
    ++steps_;
    Observation said;
    said.fields["said"] = message;
    said.reward = 0.5;
    co_return said;
  }
  Result<json::Object> state() override {
    json::Object now;
    now["episode_id"] = "e";
    now["step_count"] = steps_;
    return now;
  }

 private:
  int64_t steps_ = 0;
};

class SayingFactory final : public EnvironmentFactory {
 public:
  SayingFactory() {
    info_.name = info_.class_name = "Saying";
    info_.actions = EnvironmentInfo::Actions::kOwn;
    info_.sessions = EnvironmentInfo::Sessions::kMany;
    info_.action_schema = parse_document(
        R"({"type":"object","properties":{"message":{"type":"string"}},"required":["message"],)"
        R"("additionalProperties":false})");
  }
  const EnvironmentInfo& info() const override { return info_; }
  awaitable<Result<std::unique_ptr<Environment>>> create(std::string) override {
    std::unique_ptr<Environment> made = std::make_unique<SayingEnvironment>();
    co_return made;
  }

 private:
  EnvironmentInfo info_;
};

inline constexpr const char* kEcho =
    R"("action":{"tool_name":"echo","arguments":{"message":"hü"}})";
inline constexpr const char* kEchoed =
    R"({"observation":{"tool_name":"echo","result":{"content":[{"type":"text","text":"hü",)"
    R"("annotations":null,"meta":null}],"structured_content":{"result":"hü"},"meta":null,)"
    R"("data":"hü","is_error":false},"error":null},"reward":null,"done":false})";
inline constexpr const char* kEchoedMcp =
    R"({"content":[{"type":"text","text":"hü"}],"structuredContent":{"result":"hü"},)"
    R"("isError":false,"structured_content":{"result":"hü"},"data":"hü","is_error":false})";

}  // namespace sluice::env::testing
