// A closed loop of chat calls over many connections, on one thread: each connection sends its next
// call when the last is answered. Every body differs, as a conversation's do. All connections are
// made and all requests written before the first is sent: what the load itself takes for that is no
// server's time. Prints one JSON line.
//
//   gate_bench_load PORT PATH CONNECTIONS BODY_BYTES CALLS [KEY]
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Connection {
  int fd = -1;
  std::string out;    // the request
  size_t number = 0;  // where the digits by which requests differ are in it
  size_t sent = 0;    // of it; all of it while an answer is waited for
  std::string in;
  Clock::time_point began;
};

class Load {
 public:
  explicit Load(char** argv)
      : port_(static_cast<uint16_t>(std::atoi(argv[0]))),
        path_(argv[1]),
        connections_(static_cast<size_t>(std::atoi(argv[2]))),
        body_bytes_(static_cast<size_t>(std::atoi(argv[3]))),
        calls_(static_cast<size_t>(std::atoi(argv[4]))),
        key_(argv[5] != nullptr ? argv[5] : "none") {
    // Messages as agents have them: many, of some hundred bytes each.
    while (messages_.size() + 120 < body_bytes_) {
      const size_t left = body_bytes_ - messages_.size() - 110;
      messages_ += R"(,{"role":"tool","tool_call_id":"call_1","content":")" +
                   std::string(std::min<size_t>(480, left), 'a') + "\"}";
    }
  }

  int run() {
    epoll_ = ::epoll_create1(0);
    for (size_t i = 0; i < connections_; ++i) open();
    const auto began = Clock::now();
    for (const auto& connection : all_) begin(*connection);
    std::vector<epoll_event> events(256);
    while (answered_ < calls_) {
      // Without sleeping: the server is not to pay for waking the load.
      const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
      if (n > 0) {
        last_ = Clock::now();
      } else if (Clock::now() - last_ > std::chrono::minutes(1)) {
        fmt::print(stderr, "no answer for a minute\n");
        return 1;
      }
      for (int i = 0; i < n; ++i) {
        auto* connection = static_cast<Connection*>(events[static_cast<size_t>(i)].data.ptr);
        if (connection->sent < connection->out.size()) push(*connection);
        if (connection->sent == connection->out.size()) pull(*connection);
      }
    }
    const std::chrono::duration<double> took = Clock::now() - began;
    std::sort(times_.begin(), times_.end());
    const auto at = [&](double q) {
      return times_[std::min(times_.size() - 1, static_cast<size_t>(q * times_.size()))] * 1e3;
    };
    fmt::print("{{\"calls\":{},\"seconds\":{:.4f},\"p50_ms\":{:.3f},\"p99_ms\":{:.3f}}}\n",
               times_.size(), took.count(), at(0.5), at(0.99));
    return 0;
  }

 private:
  void open() {
    auto connection = std::make_unique<Connection>();
    connection->fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int one = 1;
    ::setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    // Whatever the machine's default: BBR, for one, would pace the requests, each by a timer.
    constexpr char kReno[] = "reno";
    ::setsockopt(connection->fd, IPPROTO_TCP, TCP_CONGESTION, kReno, sizeof kReno - 1);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port_);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(connection->fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      die("connect");
    }
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.ptr = connection.get();
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, connection->fd, &event);
    write_request(*connection);
    all_.push_back(std::move(connection));
  }

  void write_request(Connection& c) const {
    const std::string body =
        fmt::format(R"({{"model":"policy","messages":[{{"role":"user","content":"{:012d}"}}{}]}})",
                    0, messages_);
    c.out = fmt::format(
        "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\nContent-Type: "
        "application/json\r\nContent-Length: {}\r\n\r\n{}",
        path_, key_, body.size(), body);
    c.number = c.out.find("000000000000");
    c.sent = c.out.size();
  }

  void begin(Connection& c) {
    if (begun_ >= calls_) return;
    // Written over, so that what is measured is not the making of requests.
    fmt::format_to(c.out.data() + c.number, "{:012d}", begun_++);
    c.sent = 0;
    c.began = Clock::now();
    push(c);
  }

  void push(Connection& c) {
    while (c.sent < c.out.size()) {
      const ssize_t n =
          ::send(c.fd, c.out.data() + c.sent, c.out.size() - c.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) die("send");
      c.sent += static_cast<size_t>(n);
    }
  }

  void pull(Connection& c) {
    char buffer[16384];
    for (;;) {
      const ssize_t n = ::recv(c.fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) die("recv");
      c.in.append(buffer, static_cast<size_t>(n));
      if (!whole(c.in)) continue;
      if (c.in.compare(9, 3, "200") != 0) {
        fmt::print(stderr, "{}\n", c.in);
        std::exit(1);
      }
      const std::chrono::duration<double> took = Clock::now() - c.began;
      times_.push_back(took.count());
      ++answered_;
      c.in.clear();
      begin(c);
      if (c.sent < c.out.size()) return;
    }
  }

  static bool whole(const std::string& in) {
    const size_t end = in.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    constexpr char kLength[] = "\r\nContent-Length: ";
    const size_t at = in.find(kLength);
    if (at == std::string::npos || at > end) die("an answer without a length");
    return in.size() >= end + 4 + std::strtoul(in.c_str() + at + sizeof kLength - 1, nullptr, 10);
  }

  const uint16_t port_;
  const std::string path_;
  const size_t connections_, body_bytes_, calls_;
  const std::string key_;
  std::string messages_;
  int epoll_ = -1;
  Clock::time_point last_ = Clock::now();  // something happened
  std::vector<std::unique_ptr<Connection>> all_;
  size_t begun_ = 0, answered_ = 0;
  std::vector<double> times_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    fmt::print(stderr, "usage: gate_bench_load PORT PATH CONNECTIONS BODY_BYTES CALLS [KEY]\n");
    return 2;
  }
  return Load(argv + 1).run();
}
