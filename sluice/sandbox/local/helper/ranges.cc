#include "sluice/sandbox/local/helper/ranges.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace sluice::sandbox::local {

// The last ids are left alone: (uid_t)-1 is no user, and the ones before it mean "nobody" to some.
Ranges::Ranges(uint32_t first, uint32_t size, std::vector<IdRange> taken)
    : first_(first),
      size_(size),
      count_((UINT32_MAX - 65'536 - first) / size),
      taken_(std::move(taken)),
      // Engines begin at different places, so that they seldom meet.
      next_(static_cast<uint32_t>(::getpid()) * 7919u % count_) {}

bool Ranges::is_free(uint32_t index) const {
  const uint64_t begin = first_of(index);
  const uint64_t end = begin + size_;
  return std::none_of(taken_.begin(), taken_.end(), [&](const IdRange& other) {
    return begin < uint64_t{other.first} + other.count && other.first < end;
  });
}

Result<Range> Ranges::claim(uint32_t index) const {
  Range range;
  range.first = first_of(index);
  range.owner = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!range.owner) return errno_error("claim a range of ids", errno);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "sluice-ids-" + std::to_string(range.first);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(range.owner.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    Error error = errno_error("claim a range of ids", errno);
    if (errno == EADDRINUSE) error.code = ErrorCode::kAlreadyExists;
    return error;
  }
  return range;
}

Result<Range> Ranges::take() {
  for (uint32_t tried = 0; tried < count_; ++tried) {
    const uint32_t index = next_++ % count_;
    if (!is_free(index)) continue;
    auto range = claim(index);
    if (range || range.error().code != ErrorCode::kAlreadyExists) return range;
  }
  return Error(ErrorCode::kExhausted, "every range of ids on this host is in use");
}

Result<Range> Ranges::take_with(uint32_t id) {
  if (id < first_ || (id - first_) / size_ >= count_) {
    return Error(ErrorCode::kNotFound, "no sandbox has the id " + std::to_string(id));
  }
  return claim((id - first_) / size_);
}

}  // namespace sluice::sandbox::local
