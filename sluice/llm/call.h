// Calls, answers and outcomes as values. A call is one intercepted LLM request; an answer is what
// its policy gave; a turn is a call whose answer was delivered. How calls arrive, who answers them
// and where they are kept is not this room's affair.
//
// Plain values. A Call is immutable once made and shared between threads.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/base/digest.h"
#include "sluice/base/id.h"
#include "sluice/llm/body.h"

namespace sluice::llm {

class OwnIds;  // own_ids.h

// The one of an enum's values whose to_string() is `name`.
template <class Enum, size_t kSize>
std::optional<Enum> from_string(const std::array<Enum, kSize>& values, std::string_view name) {
  for (const Enum value : values) {
    if (to_string(value) == name) return value;
  }
  return std::nullopt;
}

// A wire format of LLM APIs. What is known of one is in its codec (dialect.h).
enum class Dialect : uint8_t { kChat, kResponses, kMessages, kGemini };
inline constexpr std::array kDialects{Dialect::kChat, Dialect::kResponses, Dialect::kMessages,
                                      Dialect::kGemini};
std::string_view to_string(Dialect dialect);
std::optional<Dialect> dialect_from(std::string_view name);
// "chat, responses, ...": of all of them.
std::string dialect_names();

// What the agent wants the answer for. Only `main` and `subagent` calls are trajectory.
enum class Purpose : uint8_t { kMain, kTitle, kSummary, kSubagent, kProbe };
inline constexpr std::array kPurposes{Purpose::kMain, Purpose::kTitle, Purpose::kSummary,
                                      Purpose::kSubagent, Purpose::kProbe};
std::string_view to_string(Purpose purpose);

enum class Role : uint8_t { kSystem, kUser, kAssistant, kTool };
inline constexpr std::array kRoles{Role::kSystem, Role::kUser, Role::kAssistant, Role::kTool};
std::string_view to_string(Role role);

struct ToolCall {
  // What the arguments are: JSON for a function, free text for a custom tool (OpenAI's name).
  enum class Kind : uint8_t { kFunction, kCustom };

  std::string id;
  std::string name;       // of a tool in a namespace with that in front: "mcp__env__answer"
  std::string arguments;  // exactly as the model wrote them: JSON that may be malformed, or text
  Kind kind = Kind::kFunction;
  // The namespace that `name` begins with, where the request declares its tools in such (Codex does
  // for MCP servers): "mcp__env"; "" if none.
  std::string space = {};
};
std::string_view to_string(ToolCall::Kind kind);

// A message in canonical form: what every dialect can say.
struct Message {
  Role role = Role::kAssistant;
  std::string text;       // text parts joined by line breaks; other parts are in `raw` alone
  std::string reasoning;  // reasoning content, where the dialect carries it
  // What a vendor seals reasoning with, opaque, and echoed by agents verbatim: a signature
  // (Anthropic, Gemini) or the reasoning in encrypted form (Responses; without readable reasoning
  // also Anthropic's redacted thinking).
  std::string reasoning_seal;
  std::string refusal;  // the model's own "no", where the dialect tells it from text
  std::vector<ToolCall> tool_calls;
  std::string tool_call_id;  // role kTool: which call this is the result of
  std::string raw;           // the message as it came, JSON; empty in answers of ours
};

// A tool that a request offers to the model, in canonical form.
struct ToolOffer {
  std::string name;  // as calls of it have it: with the namespace in front, if it is in one
  std::string description;
  std::string parameters;  // a JSON schema, as it came; "" if the request gives none
  std::string kind;        // "function", "custom", or a vendor's own: "web_search", "googleSearch"
  std::string space;       // its namespace, "" if none
  std::string raw;         // as it came, JSON
};

// A request in canonical form. What it does not name is in the call's body.
struct Request {
  std::string model;
  std::vector<Message> messages;  // system prompts of every dialect are kSystem messages
  std::vector<ToolOffer> tools;
  std::string tool_choice;  // JSON as it came, "" if none
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;
};

// Where in its rollout a call belongs: the agent's own session header, "" if it sends none.
struct SessionKey {
  std::string value;
  std::string parent;  // of a sub-agent's session
  auto operator<=>(const SessionKey&) const = default;
};

// How the pieces of a streamed answer are told apart: server-sent events, or elements of one JSON
// array (Gemini, unless asked for events).
enum class Framing : uint8_t { kEvents, kArray };

// What is read of a request when it arrives, beside its conversation.
struct Head {
  std::string model;
  uint32_t n = 1;  // how many choices
  bool stream = false;
  bool stream_usage = false;  // chat: stream_options.include_usage
  Framing framing = Framing::kEvents;

  // The values that a trace keeps and trainers are told, each by the name it has there.
  template <class Self, class Visit>
  static void visit(Self& self, Visit visit) {
    visit("model", self.model);
    visit("n", self.n);
    visit("stream", self.stream);
  }
};

// What a body has in common with that of an earlier call of its rollout: an agent sends its whole
// conversation with every call.
struct Likeness {
  uint64_t ordinal = 0;             // of the earlier call
  uint64_t prefix = 0, suffix = 0;  // bytes at the beginning and the end, which do not overlap
};

class Parent;

// One intercepted request.
class Call : public Head {
 public:
  CallId id;
  RolloutId rollout;
  std::shared_ptr<const std::string> task;  // JSON: what its rollout is for; may be none
  SessionKey session;
  Dialect dialect = Dialect::kChat;
  Purpose purpose = Purpose::kMain;
  Digest digest;         // of the body, under the rollout's rules
  uint64_t ordinal = 0;  // 1, 2, ... within the rollout, in order of arrival
  std::chrono::system_clock::time_point arrived_at;
  Body body;
  std::optional<Likeness> like;          // if it has much in common with an earlier one
  std::shared_ptr<const Parent> parent;  // that it goes on from (continuation.h); may be none
  // What whoever answers is asked instead, where the gate has put something into it; may be none.
  std::shared_ptr<const Bytes> changed_body;
  // The rollout's tool calls that have names of their own to whoever answers; may be none.
  std::shared_ptr<const OwnIds> own_ids;
  // The vendor's own headers (openai-beta, anthropic-version), for whoever passes the call on.
  // Never credentials.
  std::vector<std::pair<std::string, std::string>> headers;

  // What whoever answers sees: with its own ids of tool calls where the agent has others.
  Result<std::shared_ptr<const Bytes>> asked() const;
  // Whether that is there without waiting for a disk.
  bool asked_at_hand() const { return changed_body || body.at_hand(); }
  // The canonical form of that, parsed at the first use. Any thread. An Error if the body, which
  // was only peeked into when it arrived, is malformed deeper down, or cannot be read again.
  Result<const Request*> request() const;
  // The same for one look, kept by nobody but the caller.
  Result<Request> parse() const;

 private:
  mutable std::once_flag parsed_;
  mutable std::unique_ptr<Result<Request>> request_;  // most calls are never looked into
};

enum class Finish : uint8_t { kStop, kLength, kToolCalls, kContentFilter };
inline constexpr std::array kFinishes{Finish::kStop, Finish::kLength, Finish::kToolCalls,
                                      Finish::kContentFilter};
std::string_view to_string(Finish finish);

// Which policy version sampled a run of an answer's tokens.
struct VersionSpan {
  uint32_t first_token = 0;
  std::string version;
};

struct Choice {
  Message message;  // as the agent gets it
  Finish finish = Finish::kStop;
  // Tool calls that the model made behind those of the message, and that the agent does not get.
  std::vector<ToolCall> withheld;
  std::vector<int32_t> ids;     // the sampled tokens, if they are known
  std::vector<float> logprobs;  // one per id
  std::vector<VersionSpan> versions;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  auto operator<=>(const Usage&) const = default;
};

// Who made the content of an answer. Only kSampled is ever trainable.
enum class Origin : uint8_t { kSampled, kEdited, kCanned, kInjected };
inline constexpr std::array kOrigins{Origin::kSampled, Origin::kEdited, Origin::kCanned,
                                     Origin::kInjected};
std::string_view to_string(Origin origin);

struct Answer {
  std::vector<Choice> choices;
  std::optional<Usage> usage;  // true figures or none: agents compact their history by them
  std::vector<int32_t> prompt_ids;
  Origin origin = Origin::kInjected;
};

// "No" to an agent, in its dialect's own error shape.
struct Refusal {
  ErrorCode kind = ErrorCode::kCancelled;
  std::string message;
  // Chooses the status that makes the agent stop at once instead of retrying. The message is then
  // replaced by a neutral one if it holds a word that makes agents retry all the same.
  bool end_agent = true;
};

// What became of a call.
enum class Outcome : uint8_t {
  kDelivered,    // every byte of the answer was acknowledged by the agent's side
  kUndelivered,  // the agent hung up, answered or not yet, and did not come back for it in time
  kSuperseded,   // a resend took its place
  kRefused,      // the agent got an error, by decision of the policy or of a limit
  kFailed,       // the policy broke: no answer could be given
  kCancelled,    // the rollout ended first
};
inline constexpr std::array kOutcomes{Outcome::kDelivered,  Outcome::kUndelivered,
                                      Outcome::kSuperseded, Outcome::kRefused,
                                      Outcome::kFailed,     Outcome::kCancelled};
std::string_view to_string(Outcome outcome);

}  // namespace sluice::llm
