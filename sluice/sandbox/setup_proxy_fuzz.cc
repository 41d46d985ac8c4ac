// Arbitrary bytes as a request to the set-up proxy: what is let through names one host and one
// port, and what a server would get is one request.
#include <algorithm>
#include <cctype>
#include <cstdint>

#include "sluice/base/core/check.h"
#include "sluice/net/http_wire.h"
#include "sluice/sandbox/setup_proxy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  const ByteView bytes(reinterpret_cast<const char*>(data), size);
  net::wire::HeadScanner scanner(32 * 1024);
  const auto end = scanner.scan(bytes);
  if (!end || *end == 0) return 0;
  const auto request =
      sandbox::parse_setup_request(bytes.substr(scanner.start(), *end - scanner.start()));
  if (!request) return 0;
  CHECK(request->port != 0 && !request->host.empty());
  CHECK(std::all_of(request->host.begin(), request->host.end(), [](unsigned char c) {
    return (std::isalnum(c) != 0 && std::isupper(c) == 0) || c == '.' || c == '-' || c == '_';
  }));
  CHECK(request->tunnel == request->first.empty());
  if (!request->tunnel) {
    CHECK(request->first.find("\r\n\r\n") == request->first.size() - 4);
    CHECK(request->first.ends_with("Connection: close\r\n\r\n"));
  }
  return 0;
}
