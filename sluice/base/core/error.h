// Errors: what failed, on what, what to do.
//
// An expected failure is a Result<T> holding an Error (result.h); how a sandboxed process ended is
// a value (sandbox::Exit), never an Error. The codes are a closed list and each maps once, here, to
// an HTTP status and to an exit code of the command. Messages are for people and never hold a
// secret.
//
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace sluice {

enum class ErrorCode : uint8_t {
  kInvalidArgument,     // the caller's input is wrong: correct it and call again
  kNotFound,            // the named thing does not exist
  kAlreadyExists,       // the name is taken
  kPermissionDenied,    // known, and not allowed
  kUnauthenticated,     // no key, or a wrong one
  kFailedPrecondition,  // right call, wrong time or state
  kExhausted,           // a budget, queue or limit is used up
  kTooLarge,            // one input is over its size limit
  kTimedOut,            // a deadline passed
  kCancelled,           // somebody asked for the end
  kUnavailable,         // the other side cannot be reached now; may pass
  kClosed,              // the thing was closed or is gone for good
  kProtocol,            // the peer broke the protocol
  kUnsupported,         // cannot be done here, by this backend, agent or dialect
  kIo,                  // the operating system said no
  kInternal,            // a bug of ours
};
inline constexpr int kErrorCodes = 16;

// Whose doing it was. Decides what a rollout reports (its task, its agent, or the infrastructure).
enum class ErrorOrigin : uint8_t { kCaller, kTask, kAgent, kSandbox, kUpstream, kEngine };

struct [[nodiscard]] Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  ErrorOrigin origin = ErrorOrigin::kEngine;
  bool retryable = false;

  Error() = default;
  Error(ErrorCode c, std::string m, ErrorOrigin o = ErrorOrigin::kEngine)
      : code(c), message(std::move(m)), origin(o), retryable(c == ErrorCode::kUnavailable) {}

  // The same error, told from further out: "while writing hello.py: <message>".
  Error within(std::string_view context) const&;
  Error within(std::string_view context) &&;
  Error from(ErrorOrigin o) &&;
};

// "not_found", ... : the name used in JSON, logs and metrics.
std::string_view to_string(ErrorCode code);
std::string_view to_string(ErrorOrigin origin);

int http_status(ErrorCode code);

// Exit codes of the `sluice` command (docs/results.md): 2 wrong input, 69 our fault, 130 cancelled.
int exit_code(ErrorCode code);

// An Error of code kIo (or closer, by errno) with strerror's text: "open /x: Permission denied".
Error errno_error(std::string_view what, int errno_value);

}  // namespace sluice
