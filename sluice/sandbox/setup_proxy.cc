#include "sluice/sandbox/setup_proxy.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include "sluice/net/socket.h"

namespace sluice::sandbox {

using namespace std::chrono_literals;
using net::awaitable;

namespace {

constexpr size_t kMaxHead = 32 * 1024;
constexpr size_t kMaxConnections = 128;
constexpr size_t kPiece = 64 * 1024;
constexpr Duration kConnectTime = 20s;
// A client that has closed its side still gets what is on its way.
constexpr Duration kLinger = 5s;

using StreamPtr = std::shared_ptr<net::Stream>;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool is_host(std::string_view host) {
  return !host.empty() && host.size() <= 253 && host.front() != '.' && host.front() != '-' &&
         std::all_of(host.begin(), host.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
         });
}

struct Place {
  std::string host;
  uint16_t port = 0;  // 0: none was named
};

// "host" or "host:port". No IPv6 literals: a list names hosts.
Result<Place> parse_place(std::string_view text) {
  const size_t colon = text.rfind(':');
  Place place;
  place.host = lower(text.substr(0, colon));
  if (place.host.ends_with('.')) place.host.pop_back();
  if (colon != std::string_view::npos) {
    const auto port = parse_decimal(text.substr(colon + 1));
    if (!port || *port == 0 || *port > 65'535) {
      return Error(ErrorCode::kInvalidArgument, "no such port in \"" + std::string(text) + "\"");
    }
    place.port = static_cast<uint16_t>(*port);
  }
  return place;
}

bool is_allowed(const std::vector<std::string>& hosts, const Place& wanted) {
  for (const std::string& entry : hosts) {
    const auto rule = parse_place(entry);
    if (!rule) continue;
    if (rule->port != 0 ? rule->port != wanted.port : wanted.port != 80 && wanted.port != 443) {
      continue;
    }
    if (rule->host == wanted.host) return true;
    if (rule->host.starts_with("*.") && wanted.host.size() > rule->host.size() - 1 &&
        wanted.host.ends_with(std::string_view(rule->host).substr(1))) {
      return true;
    }
  }
  return false;
}

Result<std::vector<std::string>> look_up_name(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  std::vector<std::string> addresses;
  for (const addrinfo* it = found; it != nullptr; it = it->ai_next) {
    char text[NI_MAXHOST];
    if (::getnameinfo(it->ai_addr, it->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) ==
        0) {
      addresses.emplace_back(text);
    }
  }
  if (found != nullptr) ::freeaddrinfo(found);
  if (failure != 0 || addresses.empty()) {
    return Error(ErrorCode::kUnavailable,
                 host + ": " + (failure != 0 ? ::gai_strerror(failure) : "no address"));
  }
  return addresses;
}

std::string answer(std::string_view status, std::string_view text) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: "
      "close\r\n\r\n{}\n",
      status, text.size() + 1, text);
}

// What a request's head asks for.
struct Request {
  Place place;
  std::string first;  // what the server gets of it: nothing for CONNECT
  bool tunnel = false;
};

// The head up to and with its empty line.
Result<Request> parse_head(std::string_view head) {
  const size_t line_end = head.find("\r\n");
  const std::string_view line = head.substr(0, line_end);
  const size_t one = line.find(' ');
  const size_t two = line.find(' ', one + 1);
  const auto bad = [](const char* what) {
    return Error(ErrorCode::kInvalidArgument, std::string("set-up proxy: ") + what);
  };
  if (one == std::string_view::npos || two == std::string_view::npos ||
      !line.substr(two + 1).starts_with("HTTP/1.") ||
      std::any_of(line.begin(), line.end(), [](unsigned char c) { return c < 0x20; })) {
    return bad("no request line of HTTP/1.1");
  }
  const std::string_view method = line.substr(0, one);
  std::string_view target = line.substr(one + 1, two - one - 1);
  Request request;
  request.tunnel = method == "CONNECT";
  std::string_view path = "/";
  if (!request.tunnel) {
    constexpr std::string_view kScheme = "http://";
    if (lower(target.substr(0, kScheme.size())) != kScheme) {
      return bad("only CONNECT and absolute http:// addresses");
    }
    target.remove_prefix(kScheme.size());
    const size_t slash = target.find_first_of("/?");
    if (slash != std::string_view::npos) path = target.substr(slash);
    target = target.substr(0, slash);
    if (target.find('@') != std::string_view::npos) return bad("no names and passwords");
  }
  SLUICE_TRY(request.place, parse_place(target));
  if (!is_host(request.place.host)) return bad("no such host");
  if (request.tunnel) {
    if (request.place.port == 0) return bad("CONNECT without a port");
    return request;
  }
  if (request.place.port == 0) request.place.port = 80;
  request.first =
      fmt::format("{} {}{} HTTP/1.1\r\n", method, path.starts_with('?') ? "/" : "", path);
  // The server is told to close behind its answer: the next request may be for another host.
  for (std::string_view rest = head.substr(line_end + 2); !rest.empty();) {
    const size_t end = rest.find("\r\n");
    const std::string_view field = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 2);
    if (field.empty()) break;
    const std::string name = lower(field.substr(0, field.find(':')));
    if (name == "connection" || name.starts_with("proxy-") || name == "keep-alive") continue;
    request.first.append(field).append("\r\n");
  }
  request.first += "Connection: close\r\n\r\n";
  return request;
}

}  // namespace

Result<SetupRequest> parse_setup_request(std::string_view head) {
  SLUICE_TRY(Request request, parse_head(head));
  return SetupRequest{std::move(request.place.host), request.place.port, std::move(request.first),
                      request.tunnel};
}

struct SetupProxy::State {
  net::Shard* shard = nullptr;
  std::unique_ptr<net::Listener> listener;
  SetupProxyOptions options;
  net::BlockingPool names{1};
  std::set<StreamPtr> open;  // every stream there is, to be closed at the end
  bool closed = false;

  // One direction of a tunnel; closes both ends when it is over.
  static awaitable<void> pump(std::shared_ptr<State> state, StreamPtr from, StreamPtr to,
                              Duration linger) {
    Bytes buffer(kPiece, '\0');
    for (;;) {
      const auto n = co_await from->read_some(as_writable_byte_span(buffer));
      if (!n || *n == 0) break;
      const ByteView piece(buffer.data(), *n);
      const auto written = co_await net::write_all(to.get(), piece);
      if (!written) break;
    }
    (void)co_await to->drained(Deadline::in(kLinger));
    if (linger > Duration::zero()) (void)co_await net::sleep_for(linger);
    from->close();
    to->close();
    state->open.erase(from);
    state->open.erase(to);
  }

  awaitable<Result<StreamPtr>> reach(Place place) {
    if (!is_allowed(options.hosts, place)) {
      co_return Error(ErrorCode::kPermissionDenied,
                      fmt::format("{}:{} is not among the hosts that set-up may reach "
                                  "(setup_hosts of the task)",
                                  place.host, place.port));
    }
    Result<std::vector<std::string>> addresses;
    std::function<void()> look_up = [&] {
      addresses = options.look_up(place.host);
    };
    co_await names.run(std::move(look_up));
    if (!addresses) co_return std::move(addresses).error();
    for (const std::string& address : *addresses) {
      // One bad address and the name is not to be trusted.
      if (!options.may_reach(address)) {
        co_return Error(ErrorCode::kPermissionDenied,
                        fmt::format("{} is {}, which is no public address", place.host, address));
      }
    }
    Error last(ErrorCode::kUnavailable, place.host + " has no address");
    for (const std::string& address : *addresses) {
      auto stream =
          co_await net::connect_tcp(shard, &names, address, place.port, Deadline::in(kConnectTime));
      if (stream) co_return StreamPtr(std::move(*stream));
      last = std::move(stream).error();
    }
    co_return last;
  }
};

Result<void> check_setup_hosts(const std::vector<std::string>& hosts) {
  if (hosts.empty()) {
    return Error(ErrorCode::kInvalidArgument,
                 "network \"setup\" needs setup_hosts: the hosts that set-up may reach");
  }
  for (const std::string& entry : hosts) {
    auto place = parse_place(entry);
    if (place && place->host.starts_with("*.")) place->host.erase(0, 2);
    if (!place || !is_host(place->host)) {
      return Error(ErrorCode::kInvalidArgument,
                   "setup_hosts: \"" + entry +
                       "\" is not of the form example.org, *.example.org or example.org:8443");
    }
  }
  return {};
}

bool is_public_address(const std::string& address) {
  in_addr four{};
  if (::inet_pton(AF_INET, address.c_str(), &four) == 1) {
    const uint32_t ip = ntohl(four.s_addr);
    const auto within = [ip](uint32_t net, int bits) {
      return (ip >> (32 - bits)) == (net >> (32 - bits));
    };
    // RFC 6890 and what came after it: this network, private, shared, loopback, link-local (the
    // clouds' metadata), protocol assignments, documentation, relays, benchmarks, multicast,
    // reserved.
    return !(within(0x00000000, 8) || within(0x0a000000, 8) || within(0x64400000, 10) ||
             within(0x7f000000, 8) || within(0xa9fe0000, 16) || within(0xac100000, 12) ||
             within(0xc0000000, 24) || within(0xc0000200, 24) || within(0xc0586300, 24) ||
             within(0xc0a80000, 16) || within(0xc6120000, 15) || within(0xc6336400, 24) ||
             within(0xcb007100, 24) || within(0xe0000000, 4) || within(0xf0000000, 4));
  }
  in6_addr six{};
  if (::inet_pton(AF_INET6, address.c_str(), &six) != 1) return false;
  const uint8_t* b = six.s6_addr;
  // Global unicast only, and none that wraps another address (Teredo, 6to4) or is for documents.
  return (b[0] & 0xe0) == 0x20 && !(b[0] == 0x20 && b[1] == 0x02) &&
         !(b[0] == 0x20 && b[1] == 0x01 && b[2] < 0x02) &&
         !(b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8);
}

std::unique_ptr<SetupProxy> SetupProxy::start(net::Shard* shard,
                                              std::unique_ptr<net::Listener> listener,
                                              SetupProxyOptions options) {
  auto state = std::make_shared<State>();
  state->shard = shard;
  state->listener = std::move(listener);
  state->options = std::move(options);
  if (!state->options.look_up) state->options.look_up = look_up_name;
  if (!state->options.may_reach) state->options.may_reach = is_public_address;
  shard->spawn(serve(state));
  return std::unique_ptr<SetupProxy>(new SetupProxy(std::move(state)));
}

SetupProxy::~SetupProxy() {
  close();
}

void SetupProxy::close() {
  if (std::exchange(state_->closed, true)) return;
  state_->listener->close();
  for (const StreamPtr& stream : std::exchange(state_->open, {})) stream->close();
}

awaitable<void> SetupProxy::serve(std::shared_ptr<State> state) {
  for (;;) {
    auto accepted = co_await state->listener->accept();
    if (!accepted || state->closed) co_return;
    const StreamPtr client = std::move(*accepted);
    if (state->open.size() >= 2 * kMaxConnections) {
      client->close();
      continue;
    }
    state->open.insert(client);
    state->shard->spawn(attend(state, client));
  }
}

awaitable<void> SetupProxy::attend(std::shared_ptr<State> state, StreamPtr client) {
  Bytes head;
  Bytes buffer(kPiece, '\0');
  size_t end = Bytes::npos;
  while (end == Bytes::npos && head.size() < kMaxHead) {
    const auto n = co_await client->read_some(as_writable_byte_span(buffer));
    if (!n || *n == 0) break;
    head.append(buffer, 0, *n);
    end = head.find("\r\n\r\n");
  }
  std::string refusal;
  auto request = end == Bytes::npos
                     ? Result<Request>(Error(ErrorCode::kInvalidArgument,
                                             "set-up proxy: no request within its limit"))
                     : parse_head(ByteView(head).substr(0, end + 4));
  StreamPtr server;
  if (!request) {
    refusal = answer("400 Bad Request", request.error().message);
  } else {
    auto reached = co_await state->reach(request->place);
    if (reached) {
      server = std::move(*reached);
    } else {
      const bool forbidden = reached.error().code == ErrorCode::kPermissionDenied;
      refusal = answer(forbidden ? "403 Forbidden" : "502 Bad Gateway", reached.error().message);
    }
  }
  if (state->closed || !refusal.empty()) {
    if (!state->closed) {
      (void)co_await net::write_all(client.get(), refusal);
      (void)co_await client->drained(Deadline::in(kLinger));
    }
    client->close();
    if (server) server->close();
    state->open.erase(client);
    co_return;
  }
  state->open.insert(server);
  const Bytes rest = request->first + head.substr(end + 4);
  if (request->tunnel) {
    constexpr std::string_view kGo = "HTTP/1.1 200 Connection established\r\n\r\n";
    (void)co_await net::write_all(client.get(), kGo);
  }
  if (!rest.empty()) (void)co_await net::write_all(server.get(), rest);
  state->shard->spawn(State::pump(state, client, server, kLinger));
  co_await State::pump(state, server, client, Duration::zero());
}

}  // namespace sluice::sandbox
