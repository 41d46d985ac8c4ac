// Files as one stream of bytes: records, each a head and, for a file, its content. Snapshots
// (archive.h) and an agent's work (work.h) are written so.
//
// A content is its pieces that hold data, each behind its place and length: holes stay holes. The
// reader takes the stream for hostile: nothing is believed but what it checks itself.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/wire/messages.h"

namespace sluice::guest::program {

enum class EntryKind : uint8_t { kEnd, kDirectory, kFile, kSymlink, kHardLink, kPipe, kImage };

struct Entry {
  static constexpr char kName[] = "entry of a stream of files";
  EntryKind kind = EntryKind::kEnd;
  std::string path;  // below the top; "." is the top
  std::string link;  // kSymlink: its text; kHardLink: the path of the other name
  uint32_t mode = 0, uid = 0, gid = 0;
  uint64_t seconds = 0;  // of the last change of its content, as int64_t
  uint32_t nanoseconds = 0;
  uint64_t size = 0;

  static void fields(auto& v, auto& m) {
    v.enumerator(m.kind, EntryKind::kImage);
    v.text(m.path, wire::kMaxPath);
    v.text(m.link, wire::kMaxPath);
    v.numbers(m.mode, m.uid, m.gid, m.seconds, m.nanoseconds, m.size);
    if (m.mode > 07777 || m.nanoseconds >= 1'000'000'000) v.fail("no such mode or time");
  }
};
// For utimensat(2): of the last access nothing is known.
std::array<timespec, 2> times_of(const Entry& entry);

class EntryWriter {
 public:
  // kTooLarge, with the message `too_large`, once more than `max` bytes were written.
  EntryWriter(int out, uint64_t max, std::string too_large)
      : out_(out), max_(max), too_large_(std::move(too_large)) {}

  Result<void> put(const Entry& entry);
  // Of the file's entry, which was put: `size` bytes. kFailedPrecondition if it has become shorter.
  Result<void> put_content(int file, uint64_t size, const std::string& path);
  Result<void> finish();

 private:
  Result<void> write(ByteView bytes);
  Result<void> flush();

  const int out_;
  const uint64_t max_;
  const std::string too_large_;
  uint64_t written_ = 0;
  Bytes pending_;
};

class EntryReader {
 public:
  explicit EntryReader(int in) : in_(in) {}

  // Until one of kEnd.
  Result<Entry> next();
  // The content behind a file's entry, into the new file; with -1 it is passed over.
  Result<void> take_content(const Entry& entry, int file);

 private:
  // At least one byte, at most `left`, which counts down. Good until the next one.
  Result<ByteView> next_piece(uint64_t* left);
  Result<Bytes> take(uint64_t left);

  const int in_;
  Bytes buffer_;
  size_t used_ = 0;
};

Error at_path(const std::string& path, int failure);
inline std::string below(const std::string& directory, const std::string& name) {
  return directory == "." ? name : directory + "/" + name;
}

}  // namespace sluice::guest::program
