#include "sluice/sandbox/setup_proxy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include "sluice/net/address.h"
#include "sluice/net/http_wire.h"
#include "sluice/net/socket.h"

namespace sluice::sandbox {

using namespace std::chrono_literals;
using net::awaitable;

namespace {

constexpr size_t kMaxHead = 32 * 1024;
constexpr size_t kMaxFields = 200;
constexpr size_t kMaxConnections = 128;
constexpr size_t kPiece = 64 * 1024;
constexpr Duration kConnectTime = 20s;
constexpr Duration kLinger = 5s;  // for the last bytes to be acknowledged

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

bool is_allowed(const std::vector<std::string>& hosts, std::string_view host, uint16_t port) {
  for (const std::string& entry : hosts) {
    const auto rule = parse_place(entry);
    if (!rule) continue;
    if (rule->port != 0 ? rule->port != port : port != 80 && port != 443) {
      continue;
    }
    if (rule->host == host) return true;
    if (rule->host.starts_with("*.") && host.size() > rule->host.size() - 1 &&
        host.ends_with(std::string_view(rule->host).substr(1))) {
      return true;
    }
  }
  return false;
}

std::string answer(std::string_view status, std::string_view text) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: "
      "close\r\n\r\n{}\n",
      status, text.size() + 1, text);
}

Error bad(std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, fmt::format("set-up proxy: {}", what));
}

}  // namespace

Result<SetupRequest> parse_setup_request(std::string_view head) {
  net::wire::RequestHead parsed;
  if (const auto fault =
          net::wire::parse_request_head(head, kMaxFields, &parsed, net::wire::Reader::kProxy)) {
    return bad(fault->message);
  }
  const net::HttpRequest& asked = parsed.request;
  SetupRequest request;
  request.tunnel = asked.method == "CONNECT";
  std::string_view authority = asked.target;
  std::string path;
  if (!request.tunnel) {
    constexpr std::string_view kScheme = "http://";
    if (!net::equal_ignoring_case(authority.substr(0, kScheme.size()), kScheme)) {
      return bad("only CONNECT and absolute http:// addresses");
    }
    authority.remove_prefix(kScheme.size());
    const size_t end = std::min(authority.find_first_of("/?"), authority.size());
    path = authority.substr(end);
    if (!path.starts_with('/')) path.insert(0, 1, '/');
    authority = authority.substr(0, end);
    if (authority.find('@') != std::string_view::npos) return bad("no names and passwords");
  }
  SLUICE_TRY(Place place, parse_place(authority));
  if (!is_host(place.host)) return bad("no such host");
  if (request.tunnel && place.port == 0) return bad("CONNECT without a port");
  request.host = std::move(place.host);
  request.port = place.port != 0 ? place.port : 80;
  if (request.tunnel) return request;
  // The target alone says for whom it is (RFC 9112, section 3.2.2): another name in the Host field
  // would be a way to others that the same machine serves.
  request.first = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", asked.method, path, authority);
  for (const auto& [name, value] : asked.headers.fields()) {
    const std::string field = lower(name);
    if (field == "host" || field == "connection" || field == "keep-alive" ||
        field.starts_with("proxy-")) {
      continue;
    }
    request.first.append(name).append(": ").append(value).append("\r\n");
  }
  // The server is told to close behind its answer: the next request may be for another host.
  request.first += "Connection: close\r\n\r\n";
  return request;
}

struct SetupProxy::State {
  net::Shard* shard = nullptr;
  std::unique_ptr<net::Listener> listener;
  SetupProxyOptions options;
  net::BlockingPool names{1};
  std::set<StreamPtr> open;  // every stream there is, to be closed at the end
  bool closed = false;

  // `behind` is what came behind the request's head.
  static awaitable<Result<SetupRequest>> read_request(StreamPtr client, Bytes* behind) {
    net::wire::HeadScanner scanner(kMaxHead);
    Bytes bytes;
    Bytes buffer(kPiece, '\0');
    for (;;) {
      SLUICE_CO_TRY(const size_t n, co_await client->read_some(as_writable_byte_span(buffer)));
      if (n == 0) co_return bad("no whole request came");
      bytes.append(buffer, 0, n);
      const auto size = scanner.scan(bytes);
      if (!size) co_return bad(size.error().message);
      if (*size == 0) continue;
      *behind = bytes.substr(*size);
      co_return parse_setup_request(
          ByteView(bytes).substr(scanner.start(), *size - scanner.start()));
    }
  }

  // Where the client's request leads. `first` is what goes there before all else.
  static awaitable<Result<StreamPtr>> open_server(std::shared_ptr<State> state, StreamPtr client,
                                                  Bytes* first) {
    Bytes behind;
    SLUICE_CO_TRY(SetupRequest request, co_await read_request(client, &behind));
    SLUICE_CO_TRY(StreamPtr server, co_await state->reach(std::move(request.host), request.port));
    if (state->closed) {
      server->close();
      co_return Error(ErrorCode::kClosed, "the set-up is over");
    }
    state->open.insert(server);
    *first = request.first + behind;
    if (request.tunnel) {
      constexpr std::string_view kGo = "HTTP/1.1 200 Connection established\r\n\r\n";
      (void)co_await net::write_all(client.get(), kGo);
    }
    co_return server;
  }

  // One direction of a connection. Its end is passed on and ends this direction alone; when both
  // have ended, or one broke, all is closed.
  static awaitable<void> pump(std::shared_ptr<State> state, StreamPtr from, StreamPtr to,
                              std::shared_ptr<int> directions) {
    Bytes buffer(kPiece, '\0');
    bool whole = false;
    for (;;) {
      const auto n = co_await from->read_some(as_writable_byte_span(buffer));
      whole = n && *n == 0;
      if (!n || whole) break;
      const ByteView piece(buffer.data(), *n);
      const auto written = co_await net::write_all(to.get(), piece);
      if (!written) break;
    }
    if (whole) to->finish();
    if (--*directions > 0 && whole) co_return;
    (void)co_await to->drained(Deadline::in(kLinger));
    state->close(from);
    state->close(to);
  }

  void close(const StreamPtr& stream) {
    stream->close();
    open.erase(stream);
  }

  awaitable<Result<StreamPtr>> reach(std::string host, uint16_t port) {
    if (!is_allowed(options.hosts, host, port)) {
      co_return Error(ErrorCode::kPermissionDenied,
                      fmt::format("{}:{} is not among the hosts that set-up may reach "
                                  "(setup_hosts of the task)",
                                  host, port));
    }
    Result<std::vector<std::string>> addresses;
    std::function<void()> look_up = [&] {
      addresses = options.look_up(host);
    };
    co_await names.run(std::move(look_up));
    if (!addresses) co_return std::move(addresses).error();
    for (const std::string& address : *addresses) {
      // One bad address and the name is not to be trusted.
      if (!options.may_reach(address)) {
        co_return Error(ErrorCode::kPermissionDenied,
                        fmt::format("{} is {}, which is no public address", host, address));
      }
    }
    Error last(ErrorCode::kUnavailable, host + " has no address");
    for (const std::string& address : *addresses) {
      auto stream =
          co_await net::connect_tcp(shard, &names, address, port, Deadline::in(kConnectTime));
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

std::unique_ptr<SetupProxy> SetupProxy::start(net::Shard* shard,
                                              std::unique_ptr<net::Listener> listener,
                                              SetupProxyOptions options) {
  auto state = std::make_shared<State>();
  state->shard = shard;
  state->listener = std::move(listener);
  state->options = std::move(options);
  if (!state->options.look_up) state->options.look_up = net::look_up;
  if (!state->options.may_reach) state->options.may_reach = net::is_public_address;
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
  Bytes first;
  const auto server = co_await State::open_server(state, client, &first);
  if (state->closed) co_return;
  if (!server) {
    const ErrorCode code = server.error().code;
    const Bytes refusal = answer(code == ErrorCode::kInvalidArgument    ? "400 Bad Request"
                                 : code == ErrorCode::kPermissionDenied ? "403 Forbidden"
                                                                        : "502 Bad Gateway",
                                 server.error().message);
    (void)co_await net::write_all(client.get(), refusal);
    (void)co_await client->drained(Deadline::in(kLinger));
    state->close(client);
    co_return;
  }
  if (!first.empty()) (void)co_await net::write_all(server->get(), first);
  const auto directions = std::make_shared<int>(2);
  state->shard->spawn(State::pump(state, client, *server, directions));
  co_await State::pump(state, *server, client, directions);
}

}  // namespace sluice::sandbox
