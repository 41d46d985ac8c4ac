// The server before real peers, over real sockets.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <future>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/fd.h"
#include "sluice/net/http_server_testing.h"
#include "sluice/net/socket.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using testing::App;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A server on a thread of its own, for programs that are its clients.
class RealServer {
 public:
  RealServer() {
    auto listener = listen_tcp(shard_, "127.0.0.1", 0);
    EXPECT_TRUE(listener);
    const std::string address = (*listener)->address();
    port_ = address.substr(address.rfind(':') + 1);
    server_.emplace(shard_, app_.handler(), HttpServerOptions());
    server_->serve(std::move(*listener));
    shard_.start();
  }
  ~RealServer() {
    std::promise<void> stopped;
    shard_.post([&] { shard_.spawn(stop(&*server_, &stopped)); });
    stopped.get_future().wait();
    std::promise<void> destroyed;
    shard_.post([&] {
      server_.reset();
      destroyed.set_value();
    });
    destroyed.get_future().wait();
    shard_.stop();
  }

  std::string url(const std::string& path) const { return "http://127.0.0.1:" + port_ + path; }
  uint16_t port() const { return static_cast<uint16_t>(std::stoi(port_)); }

 private:
  static awaitable<void> stop(HttpServer* server, std::promise<void>* done) {
    co_await server->stop(Deadline::in(1s));
    done->set_value();
  }

  Shard shard_;
  App app_{shard_};
  std::optional<HttpServer> server_;
  std::string port_;
};

// What `command` prints.
std::string output_of(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return "cannot run: " + command;
  std::string out;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  ::pclose(pipe);
  return out;
}

class CurlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (output_of("command -v curl").empty()) GTEST_SKIP() << "there is no curl";
  }
  static std::string curl(const std::string& arguments) {
    return output_of("curl -sS --noproxy '*' --max-time 20 " + arguments + " 2>&1");
  }
  RealServer server_;
};

// A client that goes on sending behind its last request makes the server's close a reset. The
// answer must have reached the client's kernel before that.
TEST(HttpServerRealTest, TheLastAnswerSurvivesWhatWasSentBehindItsRequest) {
  RealServer server;
  int resets = 0;
  for (int i = 0; i < 20; ++i) {
    const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server.port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    // More than the server reads at once, so that some of it stays unread in its kernel.
    const std::string request =
        "GET /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + std::string(20'000, 'x');
    ASSERT_EQ(::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    std::string got(4096, '\0');
    const ssize_t n = ::recv(fd.get(), got.data(), got.size(), 0);
    ASSERT_GT(n, 0) << "the answer was lost";
    got.resize(static_cast<size_t>(n));
    EXPECT_THAT(got, StartsWith("HTTP/1.1 200 OK\r\n"));
    if (::recv(fd.get(), got.data(), got.size(), 0) < 0 && errno == ECONNRESET) ++resets;
  }
  EXPECT_GT(resets, 0) << "nothing was reset: this shows nothing";
}

TEST_F(CurlTest, ReusesItsConnection) {
  const std::string got = curl("-w '[%{num_connects}]' -d one " + server_.url("/echo") +
                               " -d one " + server_.url("/echo"));
  EXPECT_EQ(got, "one&one[1]one&one[0]");
}

TEST_F(CurlTest, UploadsInChunksOfUnknownLength) {
  EXPECT_EQ(output_of("head -c 300000 /dev/zero | tr '\\0' 'z' | curl -sS --noproxy '*' -T - " +
                      server_.url("/echo")),
            std::string(300'000, 'z'));
}

TEST_F(CurlTest, WaitsForContinue) {
  const std::string got = curl("-v -H 'Expect: 100-continue' -d hello " + server_.url("/echo"));
  EXPECT_THAT(got, HasSubstr("< HTTP/1.1 100 Continue"));
  EXPECT_THAT(got, HasSubstr("hello"));
}

TEST_F(CurlTest, AsksForHeadsAndReadsPieces) {
  EXPECT_THAT(curl("-I " + server_.url("/big?1234")), HasSubstr("Content-Length: 1234"));
  const std::string pieces = "first second" + std::string(100'000, 'x');
  EXPECT_TRUE(curl(server_.url("/pieces")) == pieces);
  EXPECT_TRUE(curl("--http1.0 " + server_.url("/pieces")) == pieces);
  EXPECT_THAT(curl(server_.url("/half")), HasSubstr("transfer closed"));
}

TEST_F(CurlTest, ReadsTheRefusalOfATooLargeBody) {
  const std::string path =
      ::testing::TempDir() + "/sluice_test_20mib." + std::to_string(::getpid());
  {
    std::ofstream file(path);
    file << std::string(20 * 1024 * 1024, 'x');
  }
  Defer remove([&] { ::unlink(path.c_str()); });
  // Sized, without waiting for "100 Continue", and in chunks.
  for (const char* how :
       {"-H 'Expect:' -H 'Content-Type: x'", "-H 'Transfer-Encoding: chunked' -H 'Expect:'"}) {
    const std::string got = curl(std::string(how) + " -w '[%{http_code}]' --data-binary @" + path +
                                 " " + server_.url("/echo"));
    EXPECT_EQ(got, "{\"error\":\"the body is over 16777216 bytes\"}[413]") << how;
  }
  EXPECT_EQ(
      curl("-w '[%{http_code}]' -o /dev/null --data-binary @" + path + " " + server_.url("/echo")),
      "[413]");
}

TEST_F(CurlTest, SixteenMebibytesPass) {
  const std::string got = output_of(
      "head -c 16777216 /dev/zero | curl -sS --noproxy '*' -H 'Expect:' --data-binary @- -o "
      "/dev/null -w '%{http_code} %{size_download}' " +
      server_.url("/echo"));
  EXPECT_EQ(got, "200 16777216");
}

}  // namespace
}  // namespace sluice::net
