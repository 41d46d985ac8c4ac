#include "sluice/guest/wire/fields.h"

namespace sluice::guest::wire {

void Writer::error(const Error& error, size_t max) {
  enumerator(error.code, ErrorCode::kInternal);
  string(std::string_view(error.message).substr(0, max), max);
}

bool Reader::flag() {
  const auto value = number<uint8_t>();
  if (value > 1) fail("a flag is neither 0 nor 1");
  return value == 1;
}

std::string_view Reader::view(size_t max) {
  const auto size = number<uint32_t>();
  if (size > max) {
    fail("a string is over its limit");
  } else if (size > rest_.size()) {
    fail("it is too short");
  }
  if (!ok()) return {};
  const std::string_view value = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return value;
}

void Reader::text(std::string& value, size_t max) {
  string(value, max);
  if (value.find('\0') == std::string::npos) return;
  fail("a text holds a NUL");
  value.clear();
}

void Reader::texts(std::vector<std::string>& values, size_t max_count, size_t max_each) {
  const auto count = number<uint32_t>();
  // Each takes at least its length's four bytes: nothing is reserved by the peer's number.
  if (count > max_count || count > rest_.size() / 4) fail("too many strings");
  for (uint32_t i = 0; ok() && i < count; ++i) text(values.emplace_back(), max_each);
  if (!ok()) values.clear();
}

void Reader::error(Error& error, size_t max) {
  static_assert(static_cast<int>(ErrorCode::kInternal) == kErrorCodes - 1);
  ErrorCode code = ErrorCode::kInternal;
  enumerator(code, ErrorCode::kInternal);
  error = Error(code, to_valid_utf8(view(max)), ErrorOrigin::kSandbox);
}

Result<void> Reader::finish(std::string_view message) const {
  if (ok() && rest_.empty()) return {};
  const std::string problem = ok() ? "bytes are left over" : problem_;
  return Error(ErrorCode::kProtocol,
               "guest link: malformed " + std::string(message) + ": " + problem);
}

}  // namespace sluice::guest::wire
