#include "sluice/gate/http/shown_key.h"

#include "sluice/base/digest.h"
#include "sluice/gate/http/routes.h"
#include "sluice/gate/http/serve.h"
#include "sluice/gate/keys.h"

namespace sluice::gate::http {

bool shows_key(const net::HttpRequest& request, std::string_view key) {
  bool shown = equal_in_constant_time(request.bearer().value_or(""), key);
  for (const std::string_view name : {"x-api-key", "x-goog-api-key"}) {
    shown |= equal_in_constant_time(request.headers.get_or(name, ""), key);
  }
  return equal_in_constant_time(request.parameter("key"), key) || shown;
}

net::HttpResponse unauthenticated(const net::HttpRequest& request) {
  const Error error = RolloutKeys::unauthenticated();
  const Route found = route(request, RolloutId());
  // The plain routes have a word of their own for it.
  const bool plain = found.errors == Route::Errors::kPlain;
  net::HttpResponse response = error_response(
      found, 401, llm::Problem::of(error.code, plain ? "Unauthorized" : error.message));
  response.headers.add("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace sluice::gate::http
