// The client of bench/env: requests on each of several connections, DEPTH of them under way at a
// time. With a depth of 1 it is one after the other, as OpenEnv's clients do it. With more, half of
// them go out together when as many answers have come: a small request costs its sender more than a
// quick server, most of it in the kernel, and only so is the server what is measured.
//
//   env_load PORT ws FRAME CONNECTIONS SECONDS DEPTH
//   env_load PORT PATH BODY CONNECTIONS SECONDS DEPTH
//
// Prints the first answer on one line, then {"done": N, "seconds": S}.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Connection {
  int fd = -1;
  std::string in;
  size_t owed = 0;  // answers that no new request has gone out for
};

int open_connection(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  if (fd < 0 || ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
    fail("connect");
  }
  return fd;
}

void send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) fail("send");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

bool fill(Connection& connection) {
  char piece[65536];
  const ssize_t got = ::recv(connection.fd, piece, sizeof piece, 0);
  if (got > 0) connection.in.append(piece, static_cast<size_t>(got));
  return got > 0;
}

// How long the first message in `in` is, 0 if it is not whole; its body goes to `body`.
size_t http_message(std::string_view in, std::string_view* body) {
  const size_t end = in.find("\r\n\r\n");
  if (end == std::string_view::npos) return 0;
  size_t at = in.find("ontent-");
  while (at < end && ::strncasecmp(in.data() + at, "ontent-length:", 14) != 0) {
    at = in.find("ontent-", at + 1);
  }
  if (in.compare(9, 3, "200") != 0 || at >= end) fail("not a 200 with a length");
  const size_t size = std::strtoul(in.data() + at + 14, nullptr, 10);
  if (in.size() < end + 4 + size) return 0;
  *body = in.substr(end + 4, size);
  return end + 4 + size;
}

size_t ws_message(std::string_view in, std::string_view* body) {
  if (in.size() < 2) return 0;
  size_t size = static_cast<unsigned char>(in[1]) & 0x7F;
  const size_t extra = size == 126 ? 2 : size == 127 ? 8 : 0;
  if (in.size() < 2 + extra) return 0;
  if (extra > 0) size = 0;
  for (size_t i = 0; i < extra; ++i) size = size << 8 | static_cast<unsigned char>(in[2 + i]);
  if (in.size() < 2 + extra + size) return 0;
  if (in[0] != '\x81') fail("not a text frame");
  *body = in.substr(2 + extra, size);
  return 2 + extra + size;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const int port = std::atoi(argv[1]);
  const std::string kind = argv[2];
  const std::string payload = argv[3];
  std::vector<Connection> connections(static_cast<size_t>(std::atoi(argv[4])));
  const std::chrono::duration<double> seconds(std::atof(argv[5]));
  const auto depth = static_cast<size_t>(std::atoi(argv[6]));
  const bool ws = kind == "ws";
  std::string request;
  if (ws) {
    if (payload.size() > 125) return 2;
    request = std::string("\x81") + static_cast<char>(0x80 | payload.size()) +
              std::string(4, '\0') + payload;
  } else {
    request = "POST " + kind +
              " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              "Content-Length: " +
              std::to_string(payload.size()) + "\r\n\r\n" + payload;
  }
  const int poll = ::epoll_create1(EPOLL_CLOEXEC);
  for (Connection& connection : connections) {
    connection.fd = open_connection(port);
    if (ws) {
      send_all(
          connection.fd,
          "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
      while (connection.in.find("\r\n\r\n") == std::string::npos) {
        if (!fill(connection)) fail("handshake");
      }
      connection.in.erase(0, connection.in.find("\r\n\r\n") + 4);
    }
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = &connection;
    if (::epoll_ctl(poll, EPOLL_CTL_ADD, connection.fd, &event) != 0) fail("epoll_ctl");
  }
  std::string requests;
  while (requests.size() < depth * request.size()) requests += request;
  const auto began = Clock::now();
  for (const Connection& connection : connections) send_all(connection.fd, requests);
  size_t done = 0;
  size_t waiting = connections.size() * depth;
  bool over = false;
  std::vector<epoll_event> events(connections.size());
  while (waiting > 0) {
    const int count = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), 30'000);
    if (count <= 0) fail("epoll_wait");
    over = over || Clock::now() - began >= seconds;
    for (int i = 0; i < count; ++i) {
      Connection& connection = *static_cast<Connection*>(events[static_cast<size_t>(i)].data.ptr);
      if (!fill(connection)) fail("the server closed a connection");
      std::string_view rest = connection.in;
      size_t answers = 0;
      for (;;) {
        std::string_view body;
        const size_t size = ws ? ws_message(rest, &body) : http_message(rest, &body);
        if (size == 0) break;
        if (done++ == 0) std::printf("%.*s\n", static_cast<int>(body.size()), body.data());
        rest.remove_prefix(size);
        ++answers;
      }
      connection.in.erase(0, connection.in.size() - rest.size());
      if (over) {
        waiting -= answers + std::exchange(connection.owed, 0);
        continue;
      }
      connection.owed += answers;
      if (connection.owed * 2 < depth) continue;
      const size_t count = std::exchange(connection.owed, 0);
      send_all(connection.fd, std::string_view(requests).substr(0, count * request.size()));
    }
  }
  const std::chrono::duration<double> took = Clock::now() - began;
  std::printf("{\"done\": %zu, \"seconds\": %.6f}\n", done, took.count());
}
