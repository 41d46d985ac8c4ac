// ImageStore: container images of tarballs (`docker save`, OCI layouts), unpacked once each into a
// directory of ours.
//
// An image is known by the SHA-256 of its configuration, which names the digest of each layer, and
// all of them are checked: the same image is unpacked once, whatever its tarball is called. It is
// unpacked beside its place and renamed, so what stands there is whole; several processes and
// threads may want the same one at once.
//
// Blocking; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/local/image/tree.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox::local {

struct ImageLimits {
  uint64_t bytes = uint64_t{64} << 30;  // of all layers, uncompressed
  uint64_t entries = 2'000'000;
};

struct Image {
  std::string id;    // 64 hexadecimal digits
  std::string root;  // the directory with its files
  Env env;
  std::string passwd, group;  // its own of /etc; empty if it has none
};

class ImageStore {
 public:
  // `directory` is made when the first image is unpacked.
  explicit ImageStore(std::string directory, ImageLimits limits = {});

  // The image of that tarball, unpacked if it is not yet. kInvalidArgument for what is no image or
  // holds what none may, kTooLarge over a limit, kUnsupported for another kind of machine.
  Result<std::shared_ptr<const Image>> open(const std::string& tarball);
  // The same errors of what shows without unpacking it.
  static Result<void> check(const std::string& tarball);

 private:
  struct Source;
  static Result<Source> read_source(const std::string& tarball);
  Result<std::shared_ptr<const Image>> find_or_unpack(const std::string& tarball);
  Result<void> unpack(const Source& source, int store) const;

  const std::string directory_;
  const ImageLimits limits_;
  std::mutex mutex_;
  // By what stat tells of the tarball: one that is written again is read again.
  std::map<std::string, std::shared_ptr<const Image>> known_;
};

}  // namespace sluice::sandbox::local
