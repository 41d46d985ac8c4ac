// What an image tarball says of itself: docker's manifest.json, an OCI layout's index, manifests
// and configurations, as values; and which names of entries are taken.
//
// All of it is somebody's file: bounded, and nothing in it is believed that can be checked. Pure
// functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox::local {

// Of one JSON document in a tarball.
inline constexpr size_t kMaxImageDocument = 4 * 1024 * 1024;
inline constexpr size_t kMaxLayers = 256;

// "./a//b/" is "a/b", "./" is "". kInvalidArgument for absolute names, "..", and names that are too
// long or too deep: no entry may lie outside of what it is unpacked into.
Result<std::string> plain_entry_name(std::string_view name);
// A hostile name for an error: printable, and not longer than a line.
std::string shown_name(std::string_view name);

// "sha256:64 hexadecimal digits": the digits. No other algorithm.
Result<std::string> digest_hex(std::string_view digest);

struct ImageConfig {
  std::vector<std::string> diff_ids;  // SHA-256 of each layer's tar, uncompressed, lowest first
  Env env;
  std::string architecture, os;
};
Result<ImageConfig> parse_image_config(std::string_view json);

// docker's manifest.json.
struct DockerManifest {
  std::string config;               // entries of the tarball
  std::vector<std::string> layers;  // lowest first
};
Result<DockerManifest> parse_docker_manifest(std::string_view json);

// A reference to a blob of an OCI layout.
struct Descriptor {
  std::string digest;  // the digits
  std::string media_type, architecture, os;
  bool attestation = false;  // something about an image, and none itself
  std::string entry() const { return "blobs/sha256/" + digest; }
};
// An OCI index, or docker's list of manifests.
Result<std::vector<Descriptor>> parse_image_index(std::string_view json);
// The one for this kind of machine ("amd64", "arm64").
Result<Descriptor> choose_image(const std::vector<Descriptor>& all, std::string_view architecture);

struct OciManifest {
  Descriptor config;
  std::vector<Descriptor> layers;
};
Result<OciManifest> parse_oci_manifest(std::string_view json);

// This machine's, as images name it.
std::string_view image_architecture();

}  // namespace sluice::sandbox::local
