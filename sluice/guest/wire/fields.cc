#include "sluice/guest/wire/fields.h"

namespace sluice::guest::wire {

std::string_view Reader::view(size_t max) {
  const uint32_t size = u32();
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

std::string Reader::text(size_t max) {
  const std::string_view value = view(max);
  if (value.find('\0') != std::string_view::npos) fail("a text holds a NUL");
  return ok() ? std::string(value) : std::string();
}

std::vector<std::string> Reader::texts(size_t max_count, size_t max_each) {
  const uint32_t count = u32();
  // Each takes at least its length's four bytes: nothing is reserved by the peer's number.
  if (count > max_count || count > rest_.size() / 4) fail("too many strings");
  std::vector<std::string> values;
  for (uint32_t i = 0; ok() && i < count; ++i) values.push_back(text(max_each));
  if (!ok()) values.clear();
  return values;
}

Result<void> Reader::finish(std::string_view message) const {
  const char* problem = problem_;
  if (problem == nullptr && !rest_.empty()) problem = "bytes are left over";
  if (problem == nullptr) return {};
  return Error(ErrorCode::kProtocol,
               "guest link: malformed " + std::string(message) + ": " + problem);
}

}  // namespace sluice::guest::wire
