#include "sluice/guest/program/records.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"

namespace sluice::guest::program {
namespace {

constexpr size_t kPiece = 64 * 1024;
constexpr size_t kMaxHead = 3 * wire::kMaxPath;

// A piece of a content; the last has no length.
struct Piece {
  static constexpr char kName[] = "piece of a file";
  static constexpr size_t kBytes = 16;
  uint64_t at = 0, length = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.at, m.length); }
};

Error bad_stream(std::string what) {
  return Error(ErrorCode::kProtocol, std::move(what));
}

}  // namespace

std::array<timespec, 2> times_of(const Entry& entry) {
  const timespec changed{static_cast<time_t>(entry.seconds), static_cast<long>(entry.nanoseconds)};
  return {timespec{0, UTIME_OMIT}, changed};
}

Error at_path(const std::string& path, int failure) {
  return errno_error("/" + path, failure);
}

// --- Writing -------------------------------------------------------------------------------------

Result<void> EntryWriter::put(const Entry& entry) {
  wire::Writer record;
  record.string(wire::encode(entry), kMaxHead);
  return write(record.take());
}

Result<void> EntryWriter::put_content(int file, uint64_t size, const std::string& path) {
  std::vector<char> buffer(std::min<uint64_t>(size, kPiece));
  uint64_t at = 0;
  while (at < size) {
    const off_t data = ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // a hole up to its end
    // A filesystem that knows nothing of holes has none.
    Piece piece;
    piece.at = data < 0 ? at : static_cast<uint64_t>(data);
    if (piece.at >= size) break;
    const off_t hole = ::lseek(file, static_cast<off_t>(piece.at), SEEK_HOLE);
    const uint64_t end = hole < 0 ? size : std::min(static_cast<uint64_t>(hole), size);
    piece.length = end - piece.at;
    SLUICE_TRY_VOID(write(wire::encode(piece)));
    for (at = piece.at; at < end;) {
      const size_t wanted = std::min<uint64_t>(end - at, buffer.size());
      const ssize_t n =
          TEMP_FAILURE_RETRY(::pread(file, buffer.data(), wanted, static_cast<off_t>(at)));
      if (n < 0) return at_path(path, errno);
      if (n == 0) break;
      SLUICE_TRY_VOID(write({buffer.data(), static_cast<size_t>(n)}));
      at += static_cast<uint64_t>(n);
    }
    if (at < end) break;
  }
  struct stat st{};
  if (::fstat(file, &st) != 0) return at_path(path, errno);
  if (static_cast<uint64_t>(st.st_size) < size) {
    return Error(ErrorCode::kFailedPrecondition,
                 "/" + path + " changes while it is read: end what writes to it");
  }
  return write(wire::encode(Piece{size, 0}));
}

Result<void> EntryWriter::finish() {
  SLUICE_TRY_VOID(put(Entry()));
  return flush();
}

Result<void> EntryWriter::write(ByteView bytes) {
  written_ += bytes.size();
  if (written_ > max_) return Error(ErrorCode::kTooLarge, too_large_);
  pending_.append(bytes);
  return pending_.size() < kPiece ? Result<void>() : flush();
}

Result<void> EntryWriter::flush() {
  const Bytes piece = std::exchange(pending_, {});
  return write_all(out_, piece);
}

// --- Reading -------------------------------------------------------------------------------------

Result<Entry> EntryReader::next() {
  SLUICE_TRY(const Bytes length, take(4));
  uint32_t size = 0;
  wire::Reader(length).numbers(size);
  if (size > kMaxHead) return bad_stream("an entry of the files is too long");
  SLUICE_TRY(const Bytes head, take(size));
  return wire::decode<Entry>(head);
}

Result<void> EntryReader::take_content(const Entry& entry, int file) {
  for (uint64_t at = 0;;) {
    SLUICE_TRY(const Bytes head, take(Piece::kBytes));
    SLUICE_TRY(const auto piece, wire::decode<Piece>(head));
    if (piece.at < at || piece.at > entry.size || piece.length > entry.size - piece.at) {
      return bad_stream("a piece of a file lies where there can be none");
    }
    if (piece.length == 0) break;
    at = piece.at;
    for (uint64_t left = piece.length; left > 0;) {
      SLUICE_TRY(const ByteView bytes, next_piece(&left));
      if (file >= 0) {
        if (::lseek(file, static_cast<off_t>(at), SEEK_SET) < 0) return at_path(entry.path, errno);
        SLUICE_TRY_VOID(write_all(file, bytes));
      }
      at += bytes.size();
    }
  }
  if (file >= 0 && ::ftruncate(file, static_cast<off_t>(entry.size)) != 0) {
    return at_path(entry.path, errno);
  }
  return {};
}

Result<ByteView> EntryReader::next_piece(uint64_t* left) {
  if (used_ == buffer_.size()) {
    buffer_.resize(kPiece);
    used_ = 0;
    const ssize_t n = TEMP_FAILURE_RETRY(::read(in_, buffer_.data(), buffer_.size()));
    buffer_.resize(n > 0 ? static_cast<size_t>(n) : 0);
    if (n < 0) return errno_error("read the files", errno);
    if (n == 0) return bad_stream("the files end before their end");
  }
  const ByteView piece = ByteView(buffer_).substr(used_, *left);
  used_ += piece.size();
  *left -= piece.size();
  return piece;
}

Result<Bytes> EntryReader::take(uint64_t left) {
  Bytes bytes;
  while (left > 0) {
    SLUICE_TRY(const ByteView piece, next_piece(&left));
    bytes.append(piece);
  }
  return bytes;
}

}  // namespace sluice::guest::program
