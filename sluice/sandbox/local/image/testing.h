// For tests: image tarballs made entry by entry, good ones and others.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/digest.h"
#include "sluice/json/value.h"
#include "sluice/sandbox/local/image/oci.h"

namespace sluice::sandbox::local::testing {

// A directory that goes with the test.
class Scratch {
 public:
  Scratch() {
    std::string pattern = ::testing::TempDir() + "/sluice-test-image-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

enum class Packing : uint8_t { kPlain, kGzip, kZstd };

// A tar, written in memory.
class Tar {
 public:
  explicit Tar(Packing packing = Packing::kPlain) : writer_(::archive_write_new()) {
    ::archive_write_set_format_pax_restricted(writer_);
    if (packing == Packing::kGzip) ::archive_write_add_filter_gzip(writer_);
    if (packing == Packing::kZstd) ::archive_write_add_filter_zstd(writer_);
    ::archive_write_set_bytes_in_last_block(writer_, 1);
    ::archive_write_open(
        writer_, this, nullptr,
        [](archive*, void* self, const void* bytes, size_t size) -> la_ssize_t {
          static_cast<Tar*>(self)->bytes_.append(static_cast<const char*>(bytes), size);
          return static_cast<la_ssize_t>(size);
        },
        nullptr);
  }
  ~Tar() { ::archive_write_free(writer_); }
  Tar(const Tar&) = delete;
  Tar& operator=(const Tar&) = delete;

  Tar& file(const std::string& path, const std::string& content, unsigned mode = 0644, int uid = 0,
            int gid = 0) {
    return put(path, AE_IFREG, mode, content, "", uid, gid);
  }
  Tar& directory(const std::string& path, unsigned mode = 0755, int uid = 0, int gid = 0) {
    return put(path, AE_IFDIR, mode, "", "", uid, gid);
  }
  Tar& symlink(const std::string& path, const std::string& target) {
    return put(path, AE_IFLNK, 0777, "", target, 0, 0);
  }
  Tar& hard_link(const std::string& path, const std::string& target) {
    archive_entry* entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, path.c_str());
    ::archive_entry_set_hardlink(entry, target.c_str());
    ::archive_entry_set_perm(entry, 0644);
    write(entry, "");
    return *this;
  }
  Tar& special(const std::string& path, unsigned type) {
    return put(path, type, 0600, "", "", 0, 0);
  }
  Bytes finish() {
    EXPECT_EQ(::archive_write_close(writer_), ARCHIVE_OK);
    return bytes_;
  }

 private:
  Tar& put(const std::string& path, unsigned type, unsigned mode, const std::string& content,
           const std::string& target, int uid, int gid) {
    archive_entry* entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, path.c_str());
    ::archive_entry_set_filetype(entry, type);
    ::archive_entry_set_perm(entry, static_cast<mode_t>(mode));
    ::archive_entry_set_uid(entry, uid);
    ::archive_entry_set_gid(entry, gid);
    ::archive_entry_set_mtime(entry, 1'000'000'000, 0);
    ::archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    if (type == AE_IFLNK) ::archive_entry_set_symlink(entry, target.c_str());
    write(entry, content);
    return *this;
  }
  void write(archive_entry* entry, const std::string& content) {
    EXPECT_GE(::archive_write_header(writer_, entry), ARCHIVE_WARN)
        << ::archive_error_string(writer_);
    if (!content.empty()) ::archive_write_data(writer_, content.data(), content.size());
    ::archive_entry_free(entry);
  }

  archive* writer_;
  Bytes bytes_;
};

// A layer as it lies in the tarball, and the digest of it uncompressed.
struct Layer {
  Bytes bytes;
  std::string diff_id;
};

inline Layer plain_layer(Tar& tar) {
  Layer layer;
  layer.bytes = tar.finish();
  layer.diff_id = sha256_hex(layer.bytes);
  return layer;
}

// The same, compressed: `fill` writes the entries, twice.
template <class Fill>
Layer packed_layer(Packing packing, Fill fill) {
  Tar plain, packed(packing);
  fill(plain);
  fill(packed);
  return {packed.finish(), sha256_hex(plain.finish())};
}

inline Bytes config_of(const std::vector<Layer>& layers, const std::vector<std::string>& env = {},
                       std::string_view architecture = image_architecture()) {
  json::Array ids, variables;
  for (const Layer& layer : layers) ids.emplace_back("sha256:" + layer.diff_id);
  for (const std::string& variable : env) variables.emplace_back(variable);
  return json::serialize({{"architecture", architecture},
                          {"os", "linux"},
                          {"config", {{"Env", variables}, {"WorkingDir", "/srv"}}},
                          {"rootfs", {{"type", "layers"}, {"diff_ids", ids}}}});
}

// As `docker save` writes it.
inline Bytes docker_tarball(const std::vector<Layer>& layers,
                            const std::vector<std::string>& env = {}) {
  Tar tar;
  const Bytes config = config_of(layers, env);
  json::Array names;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string name = "layer" + std::to_string(i) + "/layer.tar";
    tar.file(name, layers[i].bytes);
    names.emplace_back(name);
  }
  const std::string config_name = sha256_hex(config) + ".json";
  tar.file(config_name, config);
  tar.file("manifest.json",
           json::serialize(
               json::Array{{{"Config", config_name}, {"RepoTags", nullptr}, {"Layers", names}}}));
  return tar.finish();
}

// An OCI layout.
inline Bytes oci_tarball(const std::vector<Layer>& layers) {
  Tar tar;
  const auto put = [&](const Bytes& blob) {
    tar.file("blobs/sha256/" + sha256_hex(blob), blob);
    return json::Object{{"digest", "sha256:" + sha256_hex(blob)}, {"size", blob.size()}};
  };
  json::Array list;
  for (const Layer& layer : layers) list.emplace_back(put(layer.bytes));
  const json::Object config = put(config_of(layers));
  const json::Object manifest =
      put(json::serialize({{"schemaVersion", 2}, {"config", config}, {"layers", list}}));
  tar.file("index.json", json::serialize({{"manifests", json::Array{manifest}}}));
  tar.file("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
  return tar.finish();
}

inline void write_text(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace sluice::sandbox::local::testing
