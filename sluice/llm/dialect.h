// Codec: one dialect's wire format, from bytes to canonical form and back. Which URL belongs to
// which dialect, and when what is sent, is the gate's affair.
//
// Codecs hold no state: one constant object each, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

#include "sluice/json/peek.h"
#include "sluice/llm/call.h"

namespace sluice::llm {

// What a request's URL says, in dialects where it says something (Gemini).
struct Target {
  std::string model;
  std::optional<bool> stream;
};

// What the gate reads of a request before letting it in.
struct Peek {
  std::string model;
  uint32_t n = 1;
  bool stream = false;
  bool stream_usage = false;
  bool has_tools = false;
  json::Raw conversation;  // the array of messages, in the body
  size_t messages = 0;     // its length
};

// Why a request is not let in, for the vendor's own 400.
struct BadRequest {
  std::string message;
  std::string param;  // the field, "" if none
  std::string code;   // the vendor's name of the mistake, "" if none
};

// What an agent is told instead of an answer.
struct Problem {
  ErrorCode kind = ErrorCode::kInternal;
  std::string message;
  bool end_agent = false;  // see Refusal
  std::string param;
  std::string code;

  static Problem of(const Refusal& refusal);
  static Problem of(const BadRequest& bad);
};

struct ErrorReply {
  int status = 500;
  std::string body;  // JSON
};

// What an answer's frame repeats of its call. Made from the call, so that rendering an answer twice
// gives the same bytes.
struct Envelope {
  std::string id;  // the response's, "chatcmpl-..."
  std::string model;
  int64_t created = 0;  // seconds since 1970
  bool stream_usage = false;
};
Envelope envelope(const Call& call);

// Where in a later request a call's answer is to be found: behind so many messages, or, in the same
// bytes, behind so many bytes of the conversation.
struct HistoryMark {
  size_t messages = 0;
  size_t bytes = 0;  // without the closing bracket and the space before it
};
HistoryMark mark_of(const Peek& peek);

class Codec {
 public:
  virtual ~Codec() = default;

  // The request side. `peek` looks at required fields and those the gate needs; its views point
  // into `body`.
  virtual tl::expected<Peek, BadRequest> peek(json::Peeker& peeker, const Bytes& body,
                                              const Target& target) const = 0;
  virtual Result<Request> parse(const Bytes& body) const = 0;
  // The text of the conversation's leading system messages.
  virtual std::string system_text(const Peek& peek) const = 0;
  // The assistant's turn that stands in `conversation` at `mark`, if there is one.
  virtual std::optional<Message> turn_at(const json::Raw& conversation,
                                         const HistoryMark& mark) const = 0;

  // The answer side. An answer has at least one choice (see complete() in answer.h).
  virtual std::string plain(const Envelope& envelope, const Answer& answer) const = 0;
  // Every frame of a streamed answer, the closing one included.
  virtual std::string streamed(const Envelope& envelope, const Answer& answer) const = 0;
  // A frame that every client of the dialect ignores, and that keeps it waiting.
  virtual std::string keep_alive(const Envelope& envelope) const = 0;

  virtual ErrorReply error(const Problem& problem) const = 0;
  // The same inside a stream whose status is spent, closing frame included.
  virtual std::string streamed_error(const Problem& problem) const = 0;

  virtual std::string models(std::span<const std::string> names) const = 0;
  virtual std::string model(std::string_view name) const = 0;
};

// The dialect's codec, or nullptr where this build has none.
const Codec* find_codec(Dialect dialect);

// `message`, or a neutral sentence if it holds a word ("overloaded", "429", ...) by which some
// agent decides to retry or to rewrite its history instead of ending.
std::string neutral(std::string_view message);

}  // namespace sluice::llm
