#include "sluice/upstream/passthrough.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sluice/llm/dialect.h"

namespace sluice::upstream {
namespace {

// What an agent may see of an upstream's headers. Left out are framing, cookies, and what names the
// account that pays.
constexpr std::array<std::string_view, 8> kPassedOn{
    "content-type",   "content-encoding", "cache-control", "retry-after",
    "retry-after-ms", "x-should-retry",   "x-request-id",  "request-id"};
constexpr std::string_view kRateLimits = "x-ratelimit-";

bool is_passed_on(std::string_view name) {
  const auto same = [&](std::string_view known) {
    return net::equal_ignoring_case(name, known);
  };
  return std::any_of(kPassedOn.begin(), kPassedOn.end(), same) ||
         (name.size() > kRateLimits.size() &&
          net::equal_ignoring_case(name.substr(0, kRateLimits.size()), kRateLimits));
}

// Shared by the policy and the relays it has given, which may outlive it.
struct Upstream {
  Upstream(net::Shard& shard, net::Connector connector, const net::Url& url, PassthroughOptions o)
      : client(shard, std::move(connector), host_of(url), o.limits),
        path(url.path),
        options(std::move(o)) {}

  static std::string host_of(const net::Url& url) {
    const std::string origin = url.origin();
    return origin.substr(origin.find("://") + 3);
  }

  // The key goes where servers of the dialect look for it.
  void add_key(net::Headers& headers, const llm::Codec& codec) const {
    const llm::Api& api = codec.api();
    if (options.key.empty()) return;
    headers.add(std::string(api.key_header), std::string(api.key_prefix) + options.key);
  }

  net::HttpClient client;
  const std::string path;
  const PassthroughOptions options;
  json::Peeker peeker;
};

class UpstreamRelay final : public gate::Relay {
 public:
  UpstreamRelay(std::shared_ptr<Upstream> upstream, std::shared_ptr<const llm::Call> call)
      : upstream_(std::move(upstream)), call_(std::move(call)) {}

  net::awaitable<Result<void>> open() override {
    const Deadline deadline = Deadline::in(upstream_->options.timeout);
    auto answered = co_await ask(deadline);
    // A connection that broke under the request, with nothing said: as a restart or a balancer's
    // time-out does it. Once.
    if (!answered && answered.error().code == ErrorCode::kClosed && answered.error().retryable) {
      answered = co_await ask(deadline);
    }
    SLUICE_CO_TRY(incoming_, std::move(answered));
    const int status = incoming_->status();
    if (status >= 300 && status < 400) {
      co_return Error(ErrorCode::kProtocol,
                      fmt::format("the upstream answered with a redirect ({}), which is not "
                                  "followed: give the URL that it leads to",
                                  status),
                      ErrorOrigin::kUpstream);
    }
    co_return Result<void>();
  }

  int status() const override { return incoming_->status(); }

  net::Headers headers() const override {
    net::Headers out;
    for (const auto& [name, value] : incoming_->headers().fields()) {
      if (is_passed_on(name)) out.add(name, value);
    }
    return out;
  }

  net::awaitable<Result<Bytes>> read_some() override { return incoming_->read_some(); }

 private:
  net::awaitable<Result<std::unique_ptr<net::HttpIncoming>>> ask(Deadline deadline) {
    net::HttpRequest request = make_request();
    SLUICE_CO_TRY(const auto asked, call_->asked());
    SLUICE_CO_TRY(request.body,
                  rewritten(upstream_->peeker, call_->dialect, *asked, upstream_->options.rewrite));
    co_return co_await upstream_->client.call(std::move(request), deadline);
  }

  net::HttpRequest make_request() const {
    const llm::Codec& codec = *llm::find_codec(call_->dialect);
    net::HttpRequest request;
    request.method = "POST";
    // The agent's own path and query go no further than the gate.
    request.target = upstream_->path + codec.path_of(*call_);
    request.headers.add("Content-Type", "application/json");
    const bool events = call_->stream && call_->framing == llm::Framing::kEvents;
    request.headers.add("Accept", events ? "text/event-stream" : "application/json");
    // The agent may not understand what it did not ask for.
    request.headers.add("Accept-Encoding", "identity");
    upstream_->add_key(request.headers, codec);
    for (const auto& [name, value] : call_->headers) request.headers.add(name, value);
    return request;
  }

  std::shared_ptr<Upstream> upstream_;
  std::shared_ptr<const llm::Call> call_;
  std::unique_ptr<net::HttpIncoming> incoming_;
};

class PassthroughPolicy final : public gate::Policy {
 public:
  explicit PassthroughPolicy(std::shared_ptr<Upstream> upstream) : upstream_(std::move(upstream)) {}

  void submit(std::shared_ptr<const llm::Call> call, gate::Reply reply) override {
    reply.relay(std::make_unique<UpstreamRelay>(upstream_, std::move(call)));
  }

  std::string base_url() const override { return upstream_->options.base_url; }

  // What is refused for another reason (404, say) is an answer: the server is there.
  net::awaitable<Result<void>> probe(llm::Dialect dialect, Deadline deadline) override {
    const auto upstream = upstream_;
    net::HttpRequest request;
    request.method = "GET";
    request.target = upstream->path + "/models";
    request.headers.add("Accept", "application/json");
    request.headers.add("Accept-Encoding", "identity");
    upstream->add_key(request.headers, *llm::find_codec(dialect));
    SLUICE_CO_TRY(const auto response,
                  co_await upstream->client.fetch(std::move(request), deadline));
    const int status = response.status;
    const bool no_key = status == 401;
    const bool fails = status == 429 || status >= 500 || (status >= 300 && status < 400);
    if (!fails && !no_key) co_return Result<void>();
    co_return Error(no_key ? ErrorCode::kPermissionDenied : ErrorCode::kExhausted,
                    fmt::format("status {}", status), ErrorOrigin::kUpstream);
  }

 private:
  const std::shared_ptr<Upstream> upstream_;
};

}  // namespace

Result<std::shared_ptr<gate::Policy>> make_passthrough(net::Shard& shard, net::Connector connector,
                                                       PassthroughOptions options) {
  SLUICE_TRY(const net::Url url, net::Url::parse(options.base_url));
  const auto printable = [](char c) {
    return c > ' ' && c < '\x7F';
  };
  if (!std::all_of(options.key.begin(), options.key.end(), printable)) {
    return Error(ErrorCode::kInvalidArgument,
                 "the upstream's key holds a blank, a line break or another character that no "
                 "header may hold; was it read from a file with its line end?",
                 ErrorOrigin::kCaller);
  }
  auto upstream = std::make_shared<Upstream>(shard, std::move(connector), url, std::move(options));
  return std::make_shared<PassthroughPolicy>(std::move(upstream));
}

Result<std::shared_ptr<gate::Policy>> make_passthrough(net::Shard& shard, net::BlockingPool& names,
                                                       PassthroughOptions options) {
  SLUICE_TRY(const net::Url url, net::Url::parse(options.base_url));
  net::Connector connector = net::url_connector(shard, names, url, options.check);
  return make_passthrough(shard, std::move(connector), std::move(options));
}

}  // namespace sluice::upstream
