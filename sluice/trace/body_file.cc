#include "sluice/trace/body_file.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

namespace sluice::trace {
namespace {

constexpr size_t kMaxVectors = 64;        // of one pwritev(2); IOV_MAX is more
constexpr size_t kMaxParts = 64;          // of one body
constexpr size_t kLocated = 64;           // bodies whose parts are remembered
constexpr uint64_t kMaxAhead = 32 << 20;  // reserved on disk beyond the file's end
constexpr uint64_t kMinAhead = 1 << 20;

uint64_t size_of(const Parts& parts) {
  uint64_t size = 0;
  for (const Part& part : parts) size += part.size;
  return size;
}

// Appends `part`, as one with what stands before it in body and file.
void append_part(Parts& to, Part part) {
  if (part.size == 0) return;
  if (!to.empty() && to.back().offset + to.back().size == part.offset) {
    to.back().size += part.size;
  } else {
    to.push_back(part);
  }
}

// Appends the bytes [begin, end) of the body that `of` is.
void append_range(Parts& to, const Parts& of, uint64_t begin, uint64_t end) {
  uint64_t at = 0;  // of the part's first byte in the body
  for (const Part& part : of) {
    const uint64_t from = std::clamp(begin, at, at + part.size) - at;
    const uint64_t until = std::clamp(end, at, at + part.size) - at;
    append_part(to, {part.offset + from, until - from});
    at += part.size;
  }
}

// A body that the file has.
class StoredBody final : public llm::Body::Store {
 public:
  StoredBody(std::shared_ptr<FileCalls> calls, std::shared_ptr<const Fd> file,
             std::shared_ptr<const Parts> parts)
      : calls_(std::move(calls)), file_(std::move(file)), parts_(std::move(parts)) {}

  Result<Bytes> read() const override {
    auto read = calls_->read_parts(file_->get(), *parts_);
    if (read) return read;
    return Error(ErrorCode::kIo, "a request cannot be read again from its rollout's trace: " +
                                     read.error().message);
  }

 private:
  const std::shared_ptr<FileCalls> calls_;
  const std::shared_ptr<const Fd> file_;
  const std::shared_ptr<const Parts> parts_;
};

}  // namespace

Result<void> BodyFile::open(const std::string& path) {
  auto file = std::make_shared<Fd>(calls_->open(path, O_RDWR));
  if (!*file) return errno_error("cannot open " + path, errno);
  const int64_t size = calls_->size(file->get());
  if (size < 0) return errno_error("cannot read the size of " + path, errno);
  end_ = static_cast<uint64_t>(size);
  reserved_ = 0;
  fd_ = std::move(file);
  return {};
}

// Where the body will lie if what is new of it is written at `end`; that is added to the pieces.
std::shared_ptr<const Parts> BodyFile::locate(const ArrivedBody& arrived, uint64_t end) {
  ByteView piece = *arrived.bytes;
  const uint64_t size = piece.size();
  Parts parts;
  parts.reserve(4);
  if (arrived.like) {
    const auto same = [&](const auto& entry) {
      return entry.first == arrived.like->ordinal;
    };
    const auto base = std::find_if(located_.rbegin(), located_.rend(), same);
    const uint64_t base_size = base == located_.rend() ? 0 : size_of(*base->second);
    const uint64_t prefix = arrived.like->prefix;
    const uint64_t suffix = arrived.like->suffix;
    if (prefix + suffix <= std::min(size, base_size)) {
      append_range(parts, *base->second, 0, prefix);
      append_part(parts, {end, size - prefix - suffix});
      append_range(parts, *base->second, base_size - suffix, base_size);
      piece = piece.substr(prefix, size - prefix - suffix);
    }
  }
  if (parts.empty() || parts.size() > kMaxParts) {
    piece = *arrived.bytes;
    parts.clear();
    append_part(parts, {end, size});
  }
  if (!piece.empty()) pieces_.push_back({const_cast<char*>(piece.data()), piece.size()});
  pieces_size_ += piece.size();
  auto shared = std::make_shared<const Parts>(std::move(parts));
  located_.emplace_back(arrived.ordinal, shared);
  if (located_.size() > kLocated) located_.pop_front();
  return shared;
}

Result<void> BodyFile::append(std::span<const ArrivedBody> bodies,
                              std::vector<std::shared_ptr<const Parts>>& where) {
  where.assign(bodies.size(), nullptr);
  auto done = append_all(bodies, where);
  if (done) return done;
  for (size_t i = 0; i < bodies.size() && bodies.size() > 1; ++i) {
    (void)append_all(bodies.subspan(i, 1), std::span(where).subspan(i, 1));
  }
  return done;
}

// All of them or none.
Result<void> BodyFile::append_all(std::span<const ArrivedBody> bodies,
                                  std::span<std::shared_ptr<const Parts>> where) {
  pieces_.clear();
  pieces_size_ = 0;
  const uint64_t start = end_;
  for (size_t i = 0; i < bodies.size(); ++i) where[i] = locate(bodies[i], start + pieces_size_);
  reserve(pieces_size_);
  if (auto done = write_pieces(); !done) {
    (void)calls_->truncate(fd_->get(), start);
    end_ = start;
    // Nothing may be built on them.
    located_.resize(located_.size() - std::min(located_.size(), bodies.size()));
    std::fill(where.begin(), where.end(), nullptr);
    return done;
  }
  for (size_t i = 0; i < bodies.size(); ++i) {
    if (bodies[i].bytes->size() < llm::Body::kWorthPuttingAway) continue;
    bodies[i].body.kept_in(std::make_shared<StoredBody>(calls_, fd_, where[i]));
  }
  return {};
}

// One behind the other, from the end on.
Result<void> BodyFile::write_pieces() {
  std::span<iovec> rest(pieces_);
  while (!rest.empty()) {
    const size_t count = std::min(rest.size(), kMaxVectors);
    const ssize_t n = calls_->write_at(fd_->get(), rest.first(count), end_);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write", errno);
    end_ += static_cast<uint64_t>(n);
    for (auto took = static_cast<size_t>(n); took > 0;) {
      iovec& first = rest.front();
      const size_t here = std::min(took, first.iov_len);
      first.iov_base = static_cast<char*>(first.iov_base) + here;
      first.iov_len -= here;
      took -= here;
      if (first.iov_len == 0) rest = rest.subspan(1);
    }
  }
  return {};
}

// Blocks in a row, and found before they are needed: half the work for the kernel.
void BodyFile::reserve(uint64_t total) {
  const uint64_t end = end_ + total;
  if (end <= reserved_ || end < kMinAhead) return;
  const uint64_t ahead = std::min(end, kMaxAhead);
  const bool done = calls_->reserve(fd_->get(), end_, total + ahead) == 0;
  reserved_ = done ? end + ahead : UINT64_MAX;
}

void BodyFile::close() {
  if (fd_ && reserved_ > end_) {
    const int64_t size = calls_->size(fd_->get());
    if (size >= 0) (void)calls_->truncate(fd_->get(), static_cast<uint64_t>(size));
  }
  fd_.reset();
  located_.clear();
}

}  // namespace sluice::trace
