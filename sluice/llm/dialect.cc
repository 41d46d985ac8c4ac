#include "sluice/llm/dialect.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace sluice::llm {

Problem Problem::of(ErrorCode kind, std::string message) {
  return {.kind = kind, .message = std::move(message)};
}

Problem Problem::ending(ErrorCode kind, std::string message) {
  return {.kind = kind, .message = std::move(message), .end_agent = true};
}

Problem Problem::of(const Refusal& refusal) {
  return {.kind = refusal.kind, .message = refusal.message, .end_agent = refusal.end_agent};
}

Problem Problem::of(const BadRequest& bad) {
  return {.kind = ErrorCode::kInvalidArgument,
          .message = bad.message,
          .param = bad.param,
          .code = bad.code};
}

std::string Problem::told() const {
  return end_agent ? neutral(message) : message;
}

Envelope envelope(const Call& call) {
  Envelope out;
  // Not the call's own id: with that a trainer answers.
  out.id = xxh3_128(call.id.value).hex();
  out.model = call.model;
  out.created =
      std::chrono::duration_cast<std::chrono::seconds>(call.arrived_at.time_since_epoch()).count();
  out.stream_usage = call.stream_usage;
  out.framing = call.framing;
  return out;
}

HistoryMark mark_of(const Peek& peek) {
  HistoryMark mark;
  mark.messages = peek.messages;
  if (!peek.conversation.is(json::Type::kArray)) return mark;
  ByteView text = peek.conversation.text;
  if (!text.empty()) text.remove_suffix(1);
  const size_t last = text.find_last_not_of(" \n\r\t");
  mark.bytes = last == ByteView::npos ? 0 : last + 1;
  return mark;
}

std::optional<Endpoint> Codec::endpoint(std::string_view path, std::string_view) const {
  if (path.empty()) return std::nullopt;
  if (path == api().call) return Endpoint{Endpoint::Kind::kCall, {}};
  if (path == api().count) return Endpoint{Endpoint::Kind::kCount, {}};
  return std::nullopt;
}

Admitted<std::string> Codec::count_tokens(json::Peeker&, const Bytes&, const Target&) const {
  return BadRequest{"This API counts no tokens.", "", ""};
}

int64_t estimate_tokens(std::initializer_list<json::Raw> parts) {
  constexpr size_t kBytesPerToken = 4;
  size_t bytes = 0;
  for (const json::Raw& part : parts) bytes += part.text.size();
  return static_cast<int64_t>((bytes + kBytesPerToken - 1) / kBytesPerToken);
}

std::string neutral(std::string_view message) {
  constexpr std::array<std::string_view, 25> kTriggers{
      "server_error", "server error", "rate limit",  "rate_limit", "ratelimit",
      "overloaded",   "too many",     "unavailable", "timeout",    "timed out",
      "try again",    "retry",        "context",     "token",      "capacity",
      "too long",     "too large",    "exhausted",   "429",        "500",
      "502",          "503",          "504",         "524",        "529"};
  std::string lower(message);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool triggers = std::any_of(kTriggers.begin(), kTriggers.end(), [&](std::string_view word) {
    return lower.find(word) != std::string::npos;
  });
  if (message.empty() || triggers)
    return "This conversation has ended; no further answer is given.";
  return std::string(message);
}

}  // namespace sluice::llm
