#include "sluice/base/core/error.h"

#include <cerrno>
#include <cstring>

namespace sluice {
namespace {

struct CodeRow {
  std::string_view name;
  int http;
  int exit;
};

// Indexed by ErrorCode.
constexpr CodeRow kRows[kErrorCodes] = {
    {"invalid_argument", 400, 2},  {"not_found", 404, 2},       {"already_exists", 409, 2},
    {"permission_denied", 403, 2}, {"unauthenticated", 401, 2}, {"failed_precondition", 409, 2},
    {"exhausted", 429, 69},        {"too_large", 413, 2},       {"timed_out", 504, 69},
    {"cancelled", 499, 130},       {"unavailable", 503, 69},    {"closed", 410, 69},
    {"protocol", 502, 69},         {"unsupported", 501, 2},     {"io", 500, 69},
    {"internal", 500, 69},
};

const CodeRow& row(ErrorCode code) {
  return kRows[static_cast<size_t>(code) % kErrorCodes];
}

constexpr std::pair<int, ErrorCode> kErrnos[] = {
    {ENOENT, ErrorCode::kNotFound},          {ESRCH, ErrorCode::kNotFound},
    {EEXIST, ErrorCode::kAlreadyExists},     {EACCES, ErrorCode::kPermissionDenied},
    {EPERM, ErrorCode::kPermissionDenied},   {ETIMEDOUT, ErrorCode::kTimedOut},
    {ECANCELED, ErrorCode::kCancelled},      {EPIPE, ErrorCode::kClosed},
    {ECONNRESET, ErrorCode::kClosed},        {ECONNREFUSED, ErrorCode::kUnavailable},
    {EHOSTUNREACH, ErrorCode::kUnavailable}, {ENETUNREACH, ErrorCode::kUnavailable},
    {EMFILE, ErrorCode::kExhausted},         {ENFILE, ErrorCode::kExhausted},
    {ENOMEM, ErrorCode::kExhausted},         {ENOSPC, ErrorCode::kExhausted},
    {EDQUOT, ErrorCode::kExhausted},         {EFBIG, ErrorCode::kTooLarge},
    {E2BIG, ErrorCode::kTooLarge},           {ENOSYS, ErrorCode::kUnsupported},
};

ErrorCode code_of_errno(int value) {
  for (const auto& [number, code] : kErrnos) {
    if (number == value) return code;
  }
  return ErrorCode::kIo;
}

}  // namespace

std::string_view to_string(ErrorCode code) {
  return row(code).name;
}
int http_status(ErrorCode code) {
  return row(code).http;
}
int exit_code(ErrorCode code) {
  return row(code).exit;
}

std::string_view to_string(ErrorOrigin origin) {
  constexpr std::string_view names[] = {"caller", "task", "agent", "sandbox", "upstream", "engine"};
  return names[static_cast<size_t>(origin) % 6];
}

Error Error::within(std::string_view context) const& {
  return Error(*this).within(context);
}

Error Error::within(std::string_view context) && {
  message.insert(0, ": ").insert(0, context);
  return std::move(*this);
}

Error Error::from(ErrorOrigin o) && {
  origin = o;
  return std::move(*this);
}

Error errno_error(std::string_view what, int errno_value) {
  char buffer[128];
  std::string message(what);
  // The GNU strerror_r: returns the text, which need not be in the buffer.
  message.append(": ").append(strerror_r(errno_value, buffer, sizeof buffer));
  return Error(code_of_errno(errno_value), std::move(message));
}

}  // namespace sluice
