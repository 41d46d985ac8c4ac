#include "sluice/sandbox/spool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <string>

namespace sluice::sandbox {
namespace {

constexpr size_t kSavePiece = 256 * 1024;
// The first is on a disk; the second may be memory.
constexpr const char* kPlaces[] = {"/var/tmp", "/tmp"};

Result<Fd> make_file() {
  int failure = 0;
  for (const char* place : kPlaces) {
    Fd file(::open(place, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file) {
      // A filesystem that makes none without a name.
      std::string name = std::string(place) + "/sluice-spool-XXXXXX";
      file = Fd(::mkostemp(name.data(), O_CLOEXEC));
      failure = errno;
      if (file) ::unlink(name.c_str());
    }
    if (file) return file;
  }
  return errno_error("make a file in /var/tmp or /tmp", failure);
}

}  // namespace

Result<void> Spool::write(ByteView piece) {
  if (!file_) {
    SLUICE_TRY(file_, make_file());
  }
  auto written = write_all(file_.get(), piece);
  if (!written) return std::move(written).error().within("a sandbox's files in /var/tmp");
  size_ += piece.size();
  return {};
}

awaitable<Result<void>> Spool::append(Bytes piece) {
  Result<void> written;
  std::function<void()> work = [&] {
    written = write(piece);
  };
  co_await pool_->run(std::move(work));
  co_return written;
}

awaitable<Result<Bytes>> Spool::read(uint64_t at, size_t max) const {
  Bytes bytes(std::min<uint64_t>(max, size_ - std::min(at, size_)), '\0');
  if (bytes.empty()) co_return bytes;
  ssize_t n = 0;
  int failure = 0;
  std::function<void()> work = [&] {
    n = TEMP_FAILURE_RETRY(
        ::pread(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)));
    failure = errno;
  };
  co_await pool_->run(std::move(work));
  if (n < 0) co_return errno_error("read a sandbox's files", failure);
  if (n == 0) co_return Error(ErrorCode::kIo, "a sandbox's files have become shorter");
  bytes.resize(static_cast<size_t>(n));
  co_return bytes;
}

Result<void> Spool::save(const std::string& path, unsigned mode) const {
  const Fd to(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (!to) return errno_error("create " + path, errno);
  Bytes piece(kSavePiece, '\0');
  for (uint64_t at = 0; at < size_;) {
    const ssize_t n = TEMP_FAILURE_RETRY(
        ::pread(file_.get(), piece.data(), piece.size(), static_cast<off_t>(at)));
    if (n <= 0) return errno_error("copy to " + path, n < 0 ? errno : EIO);
    auto written = write_all(to.get(), ByteView(piece).substr(0, static_cast<size_t>(n)));
    if (!written) return std::move(written).error().within(path);
    at += static_cast<uint64_t>(n);
  }
  return {};
}

}  // namespace sluice::sandbox
