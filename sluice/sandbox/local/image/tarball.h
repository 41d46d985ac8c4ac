// Reads a tarball (plain, gzip or zstd) entry by entry, and layers within one: libarchive parses,
// this bounds and checks.
//
// Blocking; one thread at a time for each object, which own their descriptors.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/base/digest.h"

struct archive;

namespace sluice::sandbox::local {

using ArchivePtr = std::unique_ptr<archive, int (*)(archive*)>;

// The bytes of one entry of a tarball, hashed as they are read.
class Blob {
 public:
  explicit Blob(ArchivePtr source);
  // The next bytes; empty at the end.
  Result<ByteView> next();
  // Reads what is left and tells the digest of everything.
  Result<std::string> digest();

 private:
  ArchivePtr source_;
  Bytes buffer_;
  Sha256 hash_;
};

class Tarball {
 public:
  // Reads its table of contents. kInvalidArgument for what is no tarball.
  static Result<Tarball> open(const std::string& path);

  bool has(const std::string& name) const { return names_.contains(name); }
  Result<Bytes> read(const std::string& name, size_t max) const;
  Result<Blob> blob(const std::string& name) const;

 private:
  Result<ArchivePtr> start() const;

  std::string path_;
  // Entries by their plain names; a link's is what it leads to.
  std::map<std::string, std::string> names_;
};

struct LayerEntry {
  enum class Kind : uint8_t { kDirectory, kFile, kSymlink, kHardLink, kPipe, kDevice, kOther };
  Kind kind = Kind::kOther;
  std::string path;  // plain; "" is the root
  std::string link;  // kSymlink: its text; kHardLink: a plain path
  uint32_t mode = 0, uid = 0, gid = 0;
  timespec changed{};
  uint64_t size = 0;
};

struct LayerLimits {
  uint64_t bytes = 0;    // of the layer's tar, uncompressed
  uint64_t entries = 0;  // both count down
};

// What receives a layer's entries. `content` writes the file's bytes to a descriptor.
using Content = std::function<Result<void>(int fd)>;
using Receiver = std::function<Result<void>(LayerEntry entry, const Content& content)>;

// Reads a layer's tar to its end, compressed or not. The digest of the uncompressed tar.
Result<std::string> read_layer(Blob* blob, LayerLimits* limits, const Receiver& receiver);

}  // namespace sluice::sandbox::local
