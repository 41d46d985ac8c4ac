// The keys that a request shows, in whichever way its vendor's clients send one.
//
// Plain functions; any thread.
#pragma once

#include <string_view>

#include "sluice/net/http.h"

namespace sluice::gate::http {

// Whether one of them is this, whatever others there are. Takes the same time wherever they differ.
bool shows_key(const net::HttpRequest& request, std::string_view key);

// What a request without a right one is told, in the shape that whose client asks reads.
net::HttpResponse unauthenticated(const net::HttpRequest& request);

}  // namespace sluice::gate::http
