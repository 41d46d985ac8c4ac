#include "sluice/llm/gemini_url.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::llm {
namespace {

// One segment of a path, whatever the agent called its model.
std::string percent_encoded(std::string_view segment) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
  std::string out;
  for (const char c : segment) {
    if (kPlain.find(c) != std::string_view::npos) {
      out.push_back(c);
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

}  // namespace

std::optional<Endpoint> gemini_endpoint(std::string_view rest, std::string_view query) {
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  Endpoint out;
  out.target.model = rest.substr(0, colon);
  const std::string_view verb = rest.substr(colon + 1);
  if (verb == "countTokens") {
    out.kind = Endpoint::Kind::kCount;
  } else if (verb == "generateContent" || verb == "streamGenerateContent") {
    out.kind = Endpoint::Kind::kCall;
    out.target.stream = verb.starts_with("stream");
  }
  out.target.framing = Framing::kArray;
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    if (query.substr(0, end) == "alt=sse") out.target.framing = Framing::kEvents;
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return out;
}

std::string gemini_path(const Call& call) {
  const bool events = call.stream && call.framing == Framing::kEvents;
  return fmt::format("/models/{}:{}{}", percent_encoded(call.model),
                     call.stream ? "streamGenerateContent" : "generateContent",
                     events ? "?alt=sse" : "");
}

}  // namespace sluice::llm
