#include "sluice/net/http_server.h"

#include <fmt/format.h>

#include <utility>

#include "sluice/net/http_connection.h"

namespace sluice::net {
namespace {

// "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" (RFC 9110, section 5.6.7), whatever the locale.
std::string date_line(std::time_t now) {
  constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm t{};
  ::gmtime_r(&now, &t);
  return fmt::format("Date: {}, {:02} {} {} {:02}:{:02}:{:02} GMT\r\n", days[t.tm_wday], t.tm_mday,
                     months[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

}  // namespace

const std::string& HttpServerState::date() {
  const std::time_t now = std::time(nullptr);
  if (now != date_of) {
    date_of = now;
    date_text = date_line(now);
  }
  return date_text;
}

std::vector<std::shared_ptr<HttpConnection>> HttpServerState::open_connections() const {
  std::vector<std::shared_ptr<HttpConnection>> all;
  all.reserve(open.size());
  for (HttpConnection* connection : open) all.push_back(connection->shared_from_this());
  return all;
}

awaitable<void> HttpServerState::accept_from(HttpServerState* state,
                                             std::shared_ptr<Listener> listener) {
  for (;;) {
    auto accepted = co_await listener->accept();
    if (!accepted) {
      if (!state->stopping && accepted.error().code != ErrorCode::kClosed) {
        state->options.log.error(
            "net", "a listener failed",
            {{"address", listener->address()}, {"error", accepted.error().message}});
      }
      break;
    }
    if (state->stopping) {
      (*accepted)->close();
      continue;
    }
    auto connection = std::make_shared<HttpConnection>(state, std::move(*accepted));
    state->tasks.spawn_bare(HttpConnection::run(std::move(connection)));
  }
  std::erase(state->listeners, listener);
}

HttpServer::HttpServer(Shard& shard, HttpHandler handler, HttpServerOptions options)
    : state_(std::make_shared<HttpServerState>(shard, std::move(handler), std::move(options))) {}

HttpServer::~HttpServer() = default;

void HttpServer::serve(std::unique_ptr<Listener> listener) {
  if (state_->stopping) return listener->close();
  auto shared = std::shared_ptr<Listener>(std::move(listener));
  state_->listeners.push_back(shared);
  state_->tasks.spawn(HttpServerState::accept_from(state_.get(), std::move(shared)));
}

awaitable<void> HttpServer::stop(Deadline deadline) {
  const auto state = state_;
  state->stopping = true;
  for (const auto& listener : state->listeners) listener->close();
  for (const auto& connection : state->open_connections()) {
    if (connection->idle()) connection->close();
  }
  Wheel::Timer timer(state->shard.wheel());
  timer.arm(deadline, [s = state.get()] {
    for (const auto& connection : s->open_connections()) connection->close();
    s->tasks.cancel();
  });
  co_await state->tasks.join();
}

size_t HttpServer::connections() const {
  return state_->open.size();
}

size_t HttpServer::bodies_bytes() const {
  return state_->bodies.held();
}

}  // namespace sluice::net
