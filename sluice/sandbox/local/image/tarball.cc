#include "sluice/sandbox/local/image/tarball.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "sluice/sandbox/local/image/oci.h"

namespace sluice::sandbox::local {
namespace {

constexpr size_t kPiece = 128 * 1024;
constexpr size_t kMaxTarballEntries = 20'000;

Error broken(std::string what) {
  return Error(ErrorCode::kInvalidArgument, "image: " + std::move(what));
}
Error archive_error(const char* what, archive* source) {
  const char* text = ::archive_error_string(source);
  return broken(std::string(what) + ": " + (text != nullptr ? text : "not readable"));
}

ArchivePtr new_reader() {
  return {::archive_read_new(), ::archive_read_free};
}

// Names with bytes beyond ASCII: as they stand, else as the UTF-8 that pax headers hold.
template <class Plain, class Utf8>
std::optional<std::string_view> name_of(archive_entry* entry, Plain plain, Utf8 utf8) {
  const char* name = plain(entry);
  if (name == nullptr) name = utf8(entry);
  if (name == nullptr) return std::nullopt;
  return name;
}
std::optional<std::string_view> path_of(archive_entry* entry) {
  return name_of(entry, ::archive_entry_pathname, ::archive_entry_pathname_utf8);
}
std::optional<std::string_view> symlink_of(archive_entry* entry) {
  return name_of(entry, ::archive_entry_symlink, ::archive_entry_symlink_utf8);
}
std::optional<std::string_view> hardlink_of(archive_entry* entry) {
  return name_of(entry, ::archive_entry_hardlink, ::archive_entry_hardlink_utf8);
}

// The next entry's head; null at the end.
Result<archive_entry*> next_entry(archive* source) {
  archive_entry* entry = nullptr;
  const int got = ::archive_read_next_header(source, &entry);
  if (got == ARCHIVE_EOF) return nullptr;
  if (got != ARCHIVE_OK && got != ARCHIVE_WARN) return archive_error("not a readable tar", source);
  return entry;
}

// docker wrote a layer that comes twice as a link to the first.
std::string link_within(const std::string& name, std::string_view target) {
  const size_t slash = name.rfind('/');
  std::vector<std::string> parts;
  std::string text = (slash == name.npos ? "" : name.substr(0, slash + 1)) + std::string(target);
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t at = rest.find('/');
    const std::string_view part = rest.substr(0, at);
    rest = at == rest.npos ? std::string_view() : rest.substr(at + 1);
    if (part == "..") {
      if (parts.empty()) return "";
      parts.pop_back();
    } else if (!part.empty() && part != ".") {
      parts.emplace_back(part);
    }
  }
  std::string plain;
  for (const std::string& part : parts) plain += (plain.empty() ? "" : "/") + part;
  return plain;
}

// A blob's bytes without their compression, for another reader; hashed, and no more than allowed.
class Inflater {
 public:
  Inflater(Blob* blob, uint64_t* left)
      : blob_(blob), left_(left), archive_(new_reader()), buffer_(kPiece, '\0') {}

  Result<void> open() {
    archive* a = archive_.get();
    ::archive_read_support_filter_gzip(a);
    ::archive_read_support_filter_zstd(a);
    ::archive_read_support_format_raw(a);
    ::archive_read_support_format_empty(a);
    const int opened = ::archive_read_open(a, this, nullptr, &Inflater::feed, nullptr);
    if (opened != ARCHIVE_OK) return failure("a layer is not readable");
    archive_entry* entry = nullptr;
    const int got = ::archive_read_next_header(a, &entry);
    if (got == ARCHIVE_EOF)
      ended_ = true;
    else if (got != ARCHIVE_OK)
      return failure("a layer is not readable");
    return {};
  }

  // -1 on an error, which is kept.
  ssize_t next(const void** bytes) {
    if (ended_) return 0;
    const auto n = ::archive_read_data(archive_.get(), buffer_.data(), buffer_.size());
    if (n < 0) {
      if (!problem_) problem_ = failure("a layer is not readable").error();
      return -1;
    }
    if (n == 0) ended_ = true;
    const auto count = static_cast<size_t>(n);
    if (count > *left_) {
      problem_ = Error(ErrorCode::kTooLarge, "image: its layers are too large, uncompressed");
      return -1;
    }
    *left_ -= count;
    hash_.add({buffer_.data(), count});
    *bytes = buffer_.data();
    return n;
  }

  // The closest reason of a failure.
  Error problem(Error other) const {
    if (problem_) return *problem_;
    return other;
  }

  Result<std::string> digest() {
    const void* ignored = nullptr;
    while (!ended_) {
      if (next(&ignored) < 0) return problem(broken("a layer is not readable"));
    }
    return hash_.hex();
  }

 private:
  static la_ssize_t feed(archive*, void* self, const void** bytes) {
    auto* inflater = static_cast<Inflater*>(self);
    auto piece = inflater->blob_->next();
    if (!piece) {
      inflater->problem_ = piece.error();
      return -1;
    }
    *bytes = piece->data();
    return static_cast<la_ssize_t>(piece->size());
  }
  Result<void> failure(const char* what) { return problem(archive_error(what, archive_.get())); }

  Blob* blob_;
  uint64_t* left_;
  ArchivePtr archive_;
  Bytes buffer_;
  Sha256 hash_;
  bool ended_ = false;
  std::optional<Error> problem_;
};

Result<LayerEntry> layer_entry(archive_entry* entry) {
  LayerEntry out;
  const auto path = path_of(entry);
  if (!path) return broken("an entry's name is not readable");
  SLUICE_TRY(out.path, plain_entry_name(*path));
  using Kind = LayerEntry::Kind;
  if (const auto target = hardlink_of(entry)) {
    out.kind = Kind::kHardLink;
    SLUICE_TRY(out.link, plain_entry_name(*target));
  } else {
    switch (::archive_entry_filetype(entry)) {
      case AE_IFDIR:
        out.kind = Kind::kDirectory;
        break;
      case AE_IFREG:
        out.kind = Kind::kFile;
        break;
      case AE_IFLNK:
        out.kind = Kind::kSymlink;
        out.link = symlink_of(entry).value_or("");
        break;
      case AE_IFIFO:
        out.kind = Kind::kPipe;
        break;
      case AE_IFCHR:
      case AE_IFBLK:
        out.kind = Kind::kDevice;
        break;
      default:
        break;
    }
  }
  // Beyond what a sandbox's ids reach all are nobody's.
  const auto id = [](la_int64_t number) -> uint32_t {
    return number >= 0 && number < 65'534 ? static_cast<uint32_t>(number) : 65'534;
  };
  out.uid = id(::archive_entry_uid(entry));
  out.gid = id(::archive_entry_gid(entry));
  out.mode = static_cast<uint32_t>(::archive_entry_perm(entry));
  out.changed.tv_sec = ::archive_entry_mtime(entry);
  out.changed.tv_nsec = std::clamp<long>(::archive_entry_mtime_nsec(entry), 0, 999'999'999);
  const auto size = ::archive_entry_size(entry);
  if (size < 0) return broken("entry " + shown_name(out.path) + " has a negative size");
  out.size = static_cast<uint64_t>(size);
  return out;
}

// Sparse files keep their holes.
Result<void> write_content(archive* source, int fd, uint64_t size) {
  for (;;) {
    const void* block = nullptr;
    size_t count = 0;
    la_int64_t offset = 0;
    const int got = ::archive_read_data_block(source, &block, &count, &offset);
    if (got == ARCHIVE_EOF) break;
    if (got != ARCHIVE_OK && got != ARCHIVE_WARN) return archive_error("a layer's file", source);
    if (offset < 0 || static_cast<uint64_t>(offset) > size ||
        count > size - static_cast<uint64_t>(offset)) {
      return broken("a file is larger than it says");
    }
    const char* bytes = static_cast<const char*>(block);
    while (count > 0) {
      const ssize_t n = TEMP_FAILURE_RETRY(::pwrite(fd, bytes, count, offset));
      if (n <= 0) return errno_error("write an image's file", errno);
      bytes += n;
      offset += n;
      count -= static_cast<size_t>(n);
    }
  }
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0) {
    return errno_error("write an image's file", errno);
  }
  return {};
}

la_ssize_t feed_layer(archive*, void* inflater, const void** bytes) {
  return static_cast<Inflater*>(inflater)->next(bytes);
}

}  // namespace

Blob::Blob(ArchivePtr source) : source_(std::move(source)), buffer_(kPiece, '\0') {}

Result<ByteView> Blob::next() {
  const auto n = ::archive_read_data(source_.get(), buffer_.data(), buffer_.size());
  if (n < 0) return archive_error("the tarball is not readable", source_.get());
  const ByteView bytes(buffer_.data(), static_cast<size_t>(n));
  hash_.add(bytes);
  return bytes;
}

Result<std::string> Blob::digest() {
  for (;;) {
    SLUICE_TRY(const ByteView piece, next());
    if (piece.empty()) return hash_.hex();
  }
}

Result<ArchivePtr> Tarball::start() const {
  ArchivePtr reader = new_reader();
  archive* a = reader.get();
  ::archive_read_support_filter_gzip(a);
  ::archive_read_support_filter_zstd(a);
  ::archive_read_support_format_tar(a);
  if (::archive_read_open_filename(a, path_.c_str(), kPiece) != ARCHIVE_OK) {
    return archive_error(path_.c_str(), a);
  }
  return reader;
}

Result<Tarball> Tarball::open(const std::string& path) {
  Tarball tarball;
  tarball.path_ = path;
  SLUICE_TRY(const auto reader, tarball.start());
  std::map<std::string, std::string> links;
  for (size_t count = 0;; ++count) {
    SLUICE_TRY(archive_entry * entry, next_entry(reader.get()));
    if (entry == nullptr) break;
    if (count >= kMaxTarballEntries) return broken("the tarball has too many entries for an image");
    const auto raw = path_of(entry);
    if (!raw) return broken("an entry's name is not readable");
    SLUICE_TRY(const std::string name, plain_entry_name(*raw));
    const auto hard = hardlink_of(entry);
    if (hard) {
      SLUICE_TRY(links[name], plain_entry_name(*hard));
    } else if (::archive_entry_filetype(entry) == AE_IFLNK) {
      links[name] = link_within(name, symlink_of(entry).value_or(""));
    } else if (::archive_entry_filetype(entry) == AE_IFREG) {
      if (!tarball.names_.emplace(name, name).second) {
        return broken("the tarball has two entries " + shown_name(name));
      }
    }
  }
  for (const auto& [name, target] : links) {
    // Of a link to a link nothing is known; nobody writes one.
    const auto found = tarball.names_.find(target);
    if (found != tarball.names_.end() && found->second == target) {
      tarball.names_.emplace(name, target);
    }
  }
  return tarball;
}

Result<Blob> Tarball::blob(const std::string& name) const {
  const auto found = names_.find(name);
  if (found == names_.end()) {
    return Error(ErrorCode::kInvalidArgument,
                 "image: the tarball lacks " + shown_name(name) + ", which it speaks of");
  }
  SLUICE_TRY(auto reader, start());
  for (;;) {
    SLUICE_TRY(archive_entry * entry, next_entry(reader.get()));
    if (entry == nullptr) return broken("the tarball changed while it was read");
    const auto raw = path_of(entry);
    if (!raw || ::archive_entry_filetype(entry) != AE_IFREG || hardlink_of(entry)) continue;
    const auto plain = plain_entry_name(*raw);
    if (plain && *plain == found->second) return Blob(std::move(reader));
  }
}

Result<Bytes> Tarball::read(const std::string& name, size_t max) const {
  SLUICE_TRY(Blob source, blob(name));
  Bytes all;
  for (;;) {
    SLUICE_TRY(const ByteView piece, source.next());
    if (piece.empty()) return all;
    if (all.size() + piece.size() > max) {
      return Error(ErrorCode::kTooLarge, "image: " + shown_name(name) + " is too large");
    }
    all += piece;
  }
}

Result<std::string> read_layer(Blob* blob, LayerLimits* limits, const Receiver& receiver) {
  Inflater inflater(blob, &limits->bytes);
  SLUICE_TRY_VOID(inflater.open());
  const ArchivePtr reader = new_reader();
  archive* a = reader.get();
  ::archive_read_support_format_tar(a);
  ::archive_read_support_format_empty(a);
  if (::archive_read_open(a, &inflater, nullptr, &feed_layer, nullptr) != ARCHIVE_OK) {
    return inflater.problem(archive_error("a layer is no tar", a));
  }
  for (;;) {
    auto head = next_entry(a);
    if (!head) return inflater.problem(std::move(head).error());
    if (*head == nullptr) break;
    if (limits->entries == 0) {
      return Error(ErrorCode::kTooLarge, "image: it has too many files");
    }
    --limits->entries;
    SLUICE_TRY(LayerEntry entry, layer_entry(*head));
    // A sparse file may say any size.
    if (entry.size > limits->bytes) {
      return Error(ErrorCode::kTooLarge, "image: " + shown_name(entry.path) + " is too large");
    }
    const uint64_t size = entry.size;
    const uint64_t before = limits->bytes;
    auto received =
        receiver(std::move(entry), [a, size](int fd) { return write_content(a, fd, size); });
    if (!received) return inflater.problem(std::move(received).error());
    // Holes count as if they were there. (What is read ahead is not one.)
    const uint64_t read = before - limits->bytes + 2 * kPiece;
    if (size > read) limits->bytes -= std::min(limits->bytes, size - read);
  }
  return inflater.digest();
}

}  // namespace sluice::sandbox::local
