#include "sluice/sandbox/local/helper/ranges.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

namespace sluice::sandbox::local {
namespace {

Result<void> make_directory(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  return errno_error("make " + path, errno);
}

// The ids from `first` on, as a part of the file.
int set_lock(int fd, short type, uint32_t first, uint32_t count) {
  struct flock range{};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = first;
  range.l_len = count;
  return TEMP_FAILURE_RETRY(::fcntl(fd, F_OFD_SETLK, &range));
}

}  // namespace

Result<Fd> open_id_locks(const std::string& directory) {
  SLUICE_TRY_VOID(make_directory(directory.substr(0, directory.rfind('/')), 0755));
  SLUICE_TRY_VOID(make_directory(directory, 0700));
  const Fd place(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!place) return errno_error("open " + directory, errno);
  struct stat st{};
  if (::fstat(place.get(), &st) != 0) return errno_error(directory, errno);
  if (st.st_uid != ::geteuid() || (st.st_mode & 077) != 0) {
    return Error(ErrorCode::kPermissionDenied,
                 directory + " is somebody else's, or open to others: remove it");
  }
  Fd file(::openat(place.get(), "locks", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return errno_error("open " + directory + "/locks", errno);
  return file;
}

// Locks of one description do not keep its own holder out: that has to be known besides.
struct Ranges::Held {
  explicit Held(Fd f) : file(std::move(f)) {}
  const Fd file;
  std::set<uint32_t> indices;
};

// The last ids are left alone: (uid_t)-1 is no user, and the ones before it mean "nobody" to some.
Ranges::Ranges(uint32_t first, uint32_t size, std::vector<IdRange> taken, Fd locks)
    : first_(first),
      size_(size),
      count_((UINT32_MAX - 65'536 - first) / size),
      taken_(std::move(taken)),
      held_(std::make_shared<Held>(std::move(locks))),
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
  const uint32_t first = first_of(index);
  const Error others(ErrorCode::kAlreadyExists, "the range of ids is in use");
  if (held_->indices.contains(index)) return others;
  if (held_->file && set_lock(held_->file.get(), F_WRLCK, first, size_) != 0) {
    if (errno == EAGAIN || errno == EACCES) return others;
    return errno_error("claim a range of ids", errno);
  }
  held_->indices.insert(index);
  const auto release = [held = held_, index, first, size = size_](const void*) {
    if (held->file) set_lock(held->file.get(), F_UNLCK, first, size);
    held->indices.erase(index);
  };
  return Range{first, std::shared_ptr<const void>(held_.get(), release)};
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
