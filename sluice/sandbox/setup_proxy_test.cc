#include "sluice/sandbox/setup_proxy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/net/socket.h"
#include "sluice/net/testing.h"

namespace sluice::sandbox {
namespace {

using namespace std::chrono_literals;
using net::testing::run;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(SetupProxyTest, AListThatIsNoneIsRefused) {
  EXPECT_FALSE(check_setup_hosts({}));
  for (const char* bad : {"", "*", "http://example.org", "example.org/x", "a b", "example.org:0",
                          "example.org:x", "*.", "-x", "[::1]:80", "exa*mple.org"}) {
    EXPECT_FALSE(check_setup_hosts({"good.example.org", bad})) << bad;
  }
  EXPECT_TRUE(check_setup_hosts({"example.org", "*.example.org", "Example.org:8443", "10.0.0.1"}));
}

class SetupProxyServing : public ::testing::Test {
 protected:
  // A server that answers what it got, and a proxy for which every name is its address.
  void SetUp() override {
    auto server = net::listen_tcp(shard_, "127.0.0.1", 0);
    ASSERT_TRUE(server);
    server_ = std::move(*server);
    port_ = server_->address().substr(10);
    auto listener = net::listen_tcp(shard_, "127.0.0.1", 0);
    ASSERT_TRUE(listener);
    proxy_port_ = static_cast<uint16_t>(std::stoi((*listener)->address().substr(10)));
    SetupProxyOptions options;
    options.hosts = {"packages.example.org:" + port_, "*.mirror.example.org:" + port_};
    options.look_up = [this](const std::string& host) -> Result<std::vector<std::string>> {
      looked_up_.push_back(host);
      if (host.starts_with("inner.")) return std::vector<std::string>{"127.0.0.1", "10.0.0.1"};
      if (host.starts_with("none.")) return Error(ErrorCode::kUnavailable, host + ": no such name");
      return std::vector<std::string>{"127.0.0.1"};
    };
    options.may_reach = [](const std::string& address) {
      return address == "127.0.0.1";
    };
    proxy_ = SetupProxy::start(&shard_, std::move(*listener), std::move(options));
  }

  std::unique_ptr<net::Stream> connect() {
    auto stream = run(
        shard_, net::connect_tcp(&shard_, &names_, "127.0.0.1", proxy_port_, Deadline::in(10s)));
    EXPECT_TRUE(stream);
    return std::move(*stream);
  }
  std::string read(net::Stream& stream) {
    Bytes buffer(10'000, '\0');
    const auto n = run(shard_, stream.read_some(as_writable_byte_span(buffer)));
    return n ? buffer.substr(0, *n) : "<" + n.error().message + ">";
  }
  // The proxy's whole answer.
  std::string ask(const std::string& head) {
    const auto stream = connect();
    EXPECT_TRUE(run(shard_, net::write_all(stream.get(), head)));
    stream->finish();
    std::string all;
    for (std::string piece = read(*stream); !piece.empty() && piece[0] != '<';
         piece = read(*stream)) {
      all += piece;
    }
    return all;
  }
  std::string connect_head(const std::string& host) {
    return "CONNECT " + host + ":" + port_ + " HTTP/1.1\r\nHost: x\r\n\r\n";
  }

  net::Shard shard_;
  net::BlockingPool names_{1};
  std::unique_ptr<net::Listener> server_;
  std::unique_ptr<SetupProxy> proxy_;
  std::string port_;
  uint16_t proxy_port_ = 0;
  std::vector<std::string> looked_up_;
};

TEST_F(SetupProxyServing, ATunnelGoesToAListedHostOnly) {
  for (const char* host :
       {"packages.example.org", "a.mirror.example.org", "PACKAGES.example.ORG."}) {
    const auto client = connect();
    ASSERT_TRUE(run(shard_, net::write_all(client.get(), connect_head(host) + "early")));
    auto server = run(shard_, server_->accept());
    ASSERT_TRUE(server);
    EXPECT_THAT(read(*client), StartsWith("HTTP/1.1 200 "));
    EXPECT_EQ(read(**server), "early");
    ASSERT_TRUE(run(shard_, net::write_all(server->get(), "answer")));
    EXPECT_EQ(read(*client), "answer");
    (*server)->close();
    EXPECT_EQ(read(*client), "");
  }
  looked_up_.clear();
  for (const char* host : {"example.org", "mirror.example.org", "evil-packages.example.org",
                           "packages.example.org.evil.org", "127.0.0.1", "localhost"}) {
    EXPECT_THAT(ask(connect_head(host)), StartsWith("HTTP/1.1 403 ")) << host;
  }
  EXPECT_THAT(ask("CONNECT packages.example.org:1 HTTP/1.1\r\n\r\n"), HasSubstr("403"));
  EXPECT_TRUE(looked_up_.empty()) << "names that are not listed are not even looked up";
}

TEST_F(SetupProxyServing, ANameThatLeadsInsideIsRefused) {
  EXPECT_THAT(ask(connect_head("inner.mirror.example.org")), HasSubstr("no public address"));
  EXPECT_THAT(ask(connect_head("none.mirror.example.org")), StartsWith("HTTP/1.1 502 "));
}

TEST_F(SetupProxyServing, PlainRequestsAreForwarded) {
  const auto client = connect();
  ASSERT_TRUE(
      run(shard_, net::write_all(client.get(), "GET http://packages.example.org:" + port_ +
                                                   "/pool?x=1 HTTP/1.1\r\nHost: h\r\n"
                                                   "Proxy-Authorization: secret\r\nAccept:*/*\r\n"
                                                   "Connection: keep-alive\r\n\r\n")));
  auto server = run(shard_, server_->accept());
  ASSERT_TRUE(server);
  EXPECT_EQ(read(**server), "GET /pool?x=1 HTTP/1.1\r\nHost: packages.example.org:" + port_ +
                                "\r\nAccept: */*\r\nConnection: close\r\n\r\n")
      << "the Host field is no way to another host of the same machine";
  ASSERT_TRUE(run(shard_, net::write_all(server->get(), "HTTP/1.1 200 OK\r\n\r\nbody")));
  (*server)->close();
  EXPECT_EQ(read(*client), "HTTP/1.1 200 OK\r\n\r\nbody");
}

TEST_F(SetupProxyServing, TheEndOfOneDirectionLeavesTheOther) {
  const auto client = connect();
  ASSERT_TRUE(run(shard_, net::write_all(client.get(), connect_head("packages.example.org"))));
  auto server = run(shard_, server_->accept());
  ASSERT_TRUE(server);
  EXPECT_THAT(read(*client), StartsWith("HTTP/1.1 200 "));
  ASSERT_TRUE(run(shard_, net::write_all(client.get(), "all there is")));
  client->finish();
  EXPECT_EQ(read(**server), "all there is");
  EXPECT_EQ(read(**server), "") << "the server hears of the client's end";
  // A download goes on, however long that takes.
  Bytes got;
  for (size_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(run(shard_, net::write_all(server->get(), Bytes(50'000, 'x'))));
    for (Bytes piece = "x"; !piece.empty() && got.size() < 50'000U * (i + 1); got += piece) {
      piece = read(*client);
    }
  }
  EXPECT_EQ(got, Bytes(1'000'000, 'x'));
  (*server)->finish();
  EXPECT_EQ(read(*client), "");
  // And the other way round: a server that has ended its side is still sent to.
  const auto second = connect();
  ASSERT_TRUE(run(shard_, net::write_all(second.get(), connect_head("packages.example.org"))));
  server = run(shard_, server_->accept());
  ASSERT_TRUE(server);
  EXPECT_THAT(read(*second), StartsWith("HTTP/1.1 200 "));
  (*server)->finish();
  EXPECT_EQ(read(*second), "");
  ASSERT_TRUE(run(shard_, net::write_all(second.get(), "an upload")));
  EXPECT_EQ(read(**server), "an upload");
  (*server)->close();
}

TEST_F(SetupProxyServing, NonsenseIsRefused) {
  for (const std::string& head :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string("CONNECT x HTTP/1.1\r\n\r\n"),
        std::string("CONNECT packages.example.org:99999 HTTP/1.1\r\n\r\n"), std::string("\r\n\r\n"),
        std::string("GET http://u:p@packages.example.org/ HTTP/1.1\r\n\r\n"),
        std::string("CONNECT a\0b:443 HTTP/1.1\r\n\r\n", 28), std::string("x y HTTP/2\r\n\r\n"),
        std::string("GET ftp://packages.example.org/ HTTP/1.1\r\n\r\n"),
        "GET http://packages.example.org:" + port_ + "/ HTTP/1.1\nHost: h\n\n",
        "GET http://packages.example.org:" + port_ + "/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        "GET http://packages.example.org:" + port_ + "/ HTTP/1.1\r\nA : b\r\n\r\n",
        std::string(40'000, 'x')}) {
    EXPECT_THAT(ask(head), StartsWith("HTTP/1.1 400 ")) << head.substr(0, 60);
  }
}

TEST_F(SetupProxyServing, WhenItIsClosedNothingGoesThrough) {
  const auto client = connect();
  ASSERT_TRUE(run(shard_, net::write_all(client.get(), connect_head("packages.example.org"))));
  auto server = run(shard_, server_->accept());
  ASSERT_TRUE(server);
  EXPECT_THAT(read(*client), StartsWith("HTTP/1.1 200 "));
  proxy_->close();
  EXPECT_THAT(read(*client), ::testing::AnyOf("", StartsWith("<")));
  EXPECT_THAT(read(**server), ::testing::AnyOf("", StartsWith("<")));
  EXPECT_FALSE(
      run(shard_, net::connect_tcp(&shard_, &names_, "127.0.0.1", proxy_port_, Deadline::in(5s))));
  proxy_->close();
}

}  // namespace
}  // namespace sluice::sandbox
