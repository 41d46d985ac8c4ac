// Codec: all that is known of one dialect: its wire format, from bytes to canonical form and back,
// the paths of its API, how its vendor takes a key. When what is sent is the gate's affair.
//
// Codecs hold no state: one constant object each, any thread.
#pragma once

#include <array>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

#include "sluice/json/peek.h"
#include "sluice/llm/call.h"

namespace sluice::llm {

class Changes;   // rewrite.h
struct Rewrite;  // rewrite.h
namespace wire {
class Members;  // wire.h
}

inline constexpr size_t kMaxModelName = 512;
inline constexpr uint32_t kMaxChoices = 128;  // as OpenAI limits n

// What a request's URL says, in dialects where it says something (Gemini).
struct Target {
  std::string model;
  std::optional<bool> stream;
  Framing framing = Framing::kEvents;
};

// Where a dialect's API is to be found, and how its vendor takes a key.
struct Api {
  // The path that calls are posted to, behind the version; "" where it names the model.
  std::string_view call = {};
  // The same for requests to count a prompt's tokens; "" if there is none.
  std::string_view count = {};
  // The version in its paths where that is not the others' "/v1".
  std::string_view own_version = {};
  // By these headers its vendor's clients are known on paths that several vendors have.
  std::array<std::string_view, 2> client_headers = {};
  std::string_view key_header = "Authorization";
  std::string_view key_prefix = "Bearer ";
};

// What a path of a dialect's API is for.
struct Endpoint {
  enum class Kind : uint8_t { kCall, kCount, kUnknown };  // kUnknown: nothing that is served
  Kind kind = Kind::kUnknown;
  Target target;
};

// What the gate reads of a request before letting it in.
struct Peek : Head {
  bool has_tools = false;
  json::Raw system;        // a system prompt that stands beside the conversation; no text if none
  json::Raw conversation;  // the array of messages, in the body; or the one message as a string
  size_t messages = 0;     // its length
};

// A function that is offered to a model.
struct ToolDefinition {
  std::string name;
  std::string description;
  std::string parameters;  // a JSON schema
};

// A body with tools put in.
struct WithTools {
  Bytes body;
  std::string added;  // their definitions as they stand in it now, a JSON array
};

// Why a request is not let in, for the vendor's own 400.
struct BadRequest {
  std::string message;
  std::string param;  // the field, "" if none
  std::string code;   // the vendor's name of the mistake, "" if none
};

// A value read of a request, or why the request is not let in.
template <class T>
class [[nodiscard]] Admitted : public tl::expected<T, BadRequest> {
  using Base = tl::expected<T, BadRequest>;

 public:
  Admitted(BadRequest bad)  // NOLINT(google-explicit-constructor)
      : Base(tl::unexpect, std::move(bad)) {}
  template <class U>
    requires(std::convertible_to<U, T> && !std::same_as<std::remove_cvref_t<U>, Admitted>)
  Admitted(U&& value)  // NOLINT(google-explicit-constructor)
      : Base(tl::in_place, std::forward<U>(value)) {}
};

// What an agent is told instead of an answer.
struct Problem {
  ErrorCode kind = ErrorCode::kInternal;
  std::string message;
  bool end_agent = false;  // see Refusal
  std::string param = {};
  std::string code = {};

  // The message as the agent gets to read it: neutral where it is to end by it.
  std::string told() const;

  static Problem of(ErrorCode kind, std::string message);
  // One that ends the agent.
  static Problem ending(ErrorCode kind, std::string message);
  static Problem of(const Refusal& refusal);
  static Problem of(const BadRequest& bad);
};

struct ErrorReply {
  int status = 500;
  std::string body;  // JSON
};

// How much of an answer a connection has got before its end, where answers are delivered in pieces:
// the beginning of the only choice's reasoning, then of its text.
struct Sent {
  size_t reasoning = 0;  // bytes
  size_t text = 0;
  uint32_t events = 0;  // in dialects that number them
  bool any() const { return reasoning > 0 || text > 0; }
};

// What an answer's frame repeats of its call. Made from the call, so that rendering an answer twice
// gives the same bytes.
struct Envelope {
  std::string id;  // the response's, behind a prefix of the dialect's: "chatcmpl-..."
  std::string model;
  int64_t created = 0;  // seconds since 1970
  bool stream_usage = false;
  Framing framing = Framing::kEvents;
  // How many keep-alive frames the connection has got: dialects that number their events, or have
  // one that must be the first, go on from there.
  uint32_t keep_alives = 0;
  Sent sent;
};
Envelope envelope(const Call& call);

// Where in a later request a call's answer is to be found: behind so many messages, or, in the same
// bytes, behind so many bytes of the conversation.
struct HistoryMark {
  size_t messages = 0;
  size_t bytes = 0;  // without the closing bracket and the space before it; 0 if it is a string
};
HistoryMark mark_of(const Peek& peek);

// What an answer of somebody else's that only passes through says of its first choice.
struct Said {
  std::string
      finish;  // why it ended, in chat's words ("stop", "tool_calls"); "" if it does not say
  // Where the request asked for logprobs: the tokens' texts as the server gives them, and one for
  // each.
  std::vector<std::string> tokens;
  std::vector<float> logprobs;
  bool calls_tools = false;
};

inline constexpr auto kBetweenPieces = std::chrono::milliseconds(100);

class Codec {
 public:
  virtual ~Codec() = default;

  virtual std::string_view name() const = 0;
  virtual const Api& api() const = 0;
  // What the path behind the version is for; nothing if it is none of the dialect's. `path` is
  // percent-decoded, `query` what follows '?'.
  virtual std::optional<Endpoint> endpoint(std::string_view path, std::string_view query) const;
  // Where a call goes at a server that speaks the dialect: path and query behind the version.
  virtual std::string path_of(const Call&) const { return std::string(api().call); }

  // The request side. `peek` looks at required fields and those the gate needs; its views point
  // into `body`.
  virtual Admitted<Peek> peek(json::Peeker& peeker, const json::Document& body,
                              const Target& target) const = 0;
  virtual Result<Request> parse(const Bytes& body) const = 0;
  // `body` with those of `tools` behind its own that it has none of by their names; all else stays
  // byte for byte as it was. Nothing if it has them all. kInvalidArgument if it is malformed where
  // it has to be changed.
  virtual Result<std::optional<WithTools>> with_tools(
      json::Peeker& peeker, const Bytes& body, std::span<const ToolDefinition> tools) const = 0;
  // Puts into a body what its rollout asks for instead, in the dialect's words.
  virtual Result<void> rewrite(Changes& changes, const Rewrite& rewrite) const = 0;
  // The text of the system prompt: of what stands beside the conversation, and of its leading
  // system messages.
  virtual std::string system_text(const Peek& peek) const = 0;
  // What stands in `conversation` at `mark` for an answer: the assistant's messages in a row, as
  // one. Nothing if another's message stands there.
  virtual std::optional<Message> echo_at(const json::Raw& conversation,
                                         const HistoryMark& mark) const = 0;
  // Adds a message of the assistant's to the one in front of it, where several are one.
  virtual void join(Message& echo, Message next) const;
  // An element of a conversation in a form that is equal for elements which mean the same, however
  // agents write them from call to call. Most write them the same way.
  virtual std::string canonical(const json::Raw& message) const {
    return std::string(message.text);
  }
  // The body of the answer to a request to count a prompt's tokens. Without a tokenizer that is an
  // estimate (estimate_tokens()); it is no call, and nobody is to learn from it.
  virtual Admitted<std::string> count_tokens(json::Peeker& peeker, const Bytes& body,
                                             const Target& target) const;

  // The answer side. An answer has at least one choice (see complete() in answer.h).

  // How the ids of tool calls begin, and where they stand in a request (json::visit_strings()):
  // those of calls and those of their results.
  virtual std::string_view tool_id_prefix() const { return "call_"; }
  virtual std::span<const std::string_view> tool_id_paths() const = 0;
  // Writes into the answer what its form depends on and only the request says (which of its tool
  // calls are of custom tools).
  virtual void fit(const Call&, Answer&) const {}
  virtual std::string plain(const Envelope& envelope, const Answer& answer) const = 0;
  // Every frame of a streamed answer that was not sent in pieces before, the closing one included.
  virtual std::string streamed(const Envelope& envelope, const Answer& answer) const = 0;
  // For answers that are delivered while they are made: what `so_far`, the beginning of one (see
  // continues() in answer.h), has in reasoning and text beyond what the envelope says was sent; the
  // envelope then says so. Nothing if there is nothing, or the stream's framing is one that has to
  // come at once. Tool calls are never sent before the answer is whole: agents run them.
  virtual std::string piece(Envelope& envelope, const Message& so_far) const = 0;
  // The media type of a streamed answer.
  virtual std::string_view stream_type(const Envelope&) const {
    return "text/event-stream; charset=utf-8";
  }
  // A frame that every client of the dialect ignores, and that keeps it waiting. The envelope then
  // counts it.
  virtual std::string keep_alive(const Envelope& envelope) const = 0;

  // Adds what one event of a streamed answer, or the whole of a plain one, says. What cannot be
  // read says nothing.
  virtual void note(const json::Raw& event, Said& said) const = 0;

  virtual ErrorReply error(const Problem& problem) const = 0;
  // The same inside a stream whose status is spent, in pieces to be written one by one, with
  // kBetweenPieces between them: some clients find an error only if it is all that they read.
  virtual std::vector<std::string> streamed_error(const Envelope& envelope,
                                                  const Problem& problem) const = 0;

  virtual std::string models(std::span<const std::string> names) const = 0;
  std::string model(std::string_view name) const;

 protected:
  void append_models(Bytes& out, std::span<const std::string> names) const;
  // Writes what the dialect says of a model.
  virtual void describe(wire::Members& model, std::string_view name) const = 0;
};

// The dialect's codec; nullptr for a value that is no dialect.
const Codec* find_codec(Dialect dialect);

// How many tokens these parts of a request may be, without a tokenizer: one for every four bytes of
// their JSON, rounded up.
int64_t estimate_tokens(std::initializer_list<json::Raw> parts);

// `message`, or a neutral sentence if it holds a word ("overloaded", "429", ...) by which some
// agent decides to retry or to rewrite its history instead of ending.
std::string neutral(std::string_view message);

}  // namespace sluice::llm
