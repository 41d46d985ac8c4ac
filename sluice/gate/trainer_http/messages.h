// The trainer API's messages: JSON to values and back (docs/trainer-api.md). A member that a
// message does not have is a mistake and refused by its name, so that a typing error does not pass
// in silence. Plain functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/gate/gate.h"
#include "sluice/gate/http/shared.h"

namespace sluice::gate::trainer_http {

// --- What trainers get ---------------------------------------------------------------------------

// Whether a call's canonical form (messages, tools, sampling parameters, whatever its dialect)
// stands beside its body.
enum class Canonical : uint8_t { kNo, kYes };
void append_item(Bytes& out, const Item& item, Canonical canonical);
// {"error":{"code":"not_found","message":"..."}}
Bytes error_json(const Error& error);
// What became of one reply.
struct ReplyResult {
  std::string call;
  std::optional<Error> error;
  std::optional<llm::Outcome> outcome;
};
Bytes results_json(const std::vector<ReplyResult>& results);
// A rollout that was registered, whose agent reaches the gate below `base_url`.
Bytes opened_json(const http::SharedEndpoint::Opened& opened, std::string_view base_url);
Bytes books_json(const Books& books);
Bytes state_json(const TrainerState& state, const Totals& totals);
// In Prometheus's text form.
Bytes metrics_text(const TrainerState& state, const Totals& totals,
                   const trace::Recorder::Load& recorder);

// --- What trainers and operators send ------------------------------------------------------------

struct TakeMessage {
  TakeRequest request;
  Duration wait{};
  Canonical canonical = Canonical::kNo;
};
Result<TakeMessage> take_from_json(ByteView body);

struct ReplyMessage {
  CallId call;
  std::variant<llm::Answer, llm::Refusal, ToolResult, llm::Piece> what;
};
struct RepliesMessage {
  std::string trainer;  // who is thereby known to live; "" if it does not say
  // Whether to wait for what becomes of the calls, and how long.
  std::optional<Duration> for_outcome;
  // One for each reply, so that one mistake spoils no other's; with its call, if it names one.
  struct Each {
    std::string call;
    Result<ReplyMessage> reply;
  };
  std::vector<Each> replies;
};
Result<RepliesMessage> replies_from_json(ByteView body);

struct RegisterMessage {
  Registration registration;
  Duration lifetime{};
};
Result<RegisterMessage> registration_from_json(ByteView body);

// The one member of a small message, or none.
Result<std::string> trainer_from_json(ByteView body);
Result<void> nothing_from_json(ByteView body);
Result<std::optional<std::string>> text_from_json(ByteView body, std::string_view name);
Result<uint64_t> count_from_json(ByteView body, std::string_view name);

}  // namespace sluice::gate::trainer_http
