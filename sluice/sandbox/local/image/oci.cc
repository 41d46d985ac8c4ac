#include "sluice/sandbox/local/image/oci.h"

#include <algorithm>
#include <optional>

#include "sluice/json/value.h"

namespace sluice::sandbox::local {
namespace {

constexpr size_t kMaxName = 4095;
constexpr size_t kMaxComponent = 255;
constexpr size_t kMaxDepth = 128;
constexpr size_t kMaxVariables = 512;
constexpr size_t kMaxVariable = 32 * 1024;

Error refused(std::string what) {
  return Error(ErrorCode::kInvalidArgument, "image: " + std::move(what));
}

Result<json::Value> parse_document(std::string_view text, const char* what) {
  auto value = json::parse(text, {kMaxImageDocument, 64});
  if (!value) return std::move(value).error().within(std::string("image: ") + what);
  return value;
}

Result<json::Object> parse_object(std::string_view text, const char* what) {
  SLUICE_TRY(auto value, parse_document(text, what));
  if (!value.is_object()) return refused(std::string(what) + " is no JSON object");
  return std::move(value.as_object());
}

std::string string_of(const json::Object& object, std::string_view name) {
  return std::string(json::get_string(object, name).value_or(""));
}

Result<Descriptor> descriptor_of(const json::Value& value) {
  if (!value.is_object()) return refused("a descriptor is no JSON object");
  const json::Object& object = value.as_object();
  Descriptor descriptor;
  const auto digest = json::get_string(object, "digest");
  if (!digest) return refused("a descriptor has no digest");
  SLUICE_TRY(descriptor.digest, digest_hex(*digest));
  descriptor.media_type = string_of(object, "mediaType");
  if (const auto* platform = json::get_object(object, "platform")) {
    descriptor.architecture = string_of(*platform, "architecture");
    descriptor.os = string_of(*platform, "os");
  }
  if (const auto* annotations = json::get_object(object, "annotations")) {
    descriptor.attestation =
        json::get_string(*annotations, "vnd.docker.reference.type") == "attestation-manifest";
  }
  return descriptor;
}

bool is_variable_name(std::string_view name) {
  return !name.empty() && name.size() <= 256 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

// What is no variable is left out: it could not be set either.
void read_env(const json::Object& config, Env* env) {
  const auto* list = json::get_array(config, "Env");
  if (list == nullptr) return;
  for (const json::Value& item : *list) {
    if (!item.is_string() || env->size() >= kMaxVariables) continue;
    const std::string_view text(item.as_string().data(), item.as_string().size());
    const size_t equals = text.find('=');
    if (equals == text.npos || text.size() > kMaxVariable || text.find('\0') != text.npos) continue;
    const std::string_view name = text.substr(0, equals);
    if (is_variable_name(name)) env->emplace_back(name, text.substr(equals + 1));
  }
}

bool is_image_kind(const Descriptor& descriptor) {
  return !descriptor.attestation && (descriptor.os.empty() || descriptor.os == "linux");
}

}  // namespace

std::string shown_name(std::string_view name) {
  constexpr size_t kMost = 120;
  std::string text = "\"";
  for (const char c : name.substr(0, kMost)) text += c >= ' ' && c < 0x7f && c != '"' ? c : '?';
  return text + (name.size() > kMost ? "...\"" : "\"");
}

Result<std::string> plain_entry_name(std::string_view name) {
  if (name.empty() || name.find('\0') != name.npos) return refused("an entry without a name");
  if (name.front() == '/') return refused("entry " + shown_name(name) + " has an absolute name");
  if (name.size() > kMaxName)
    return refused("entry " + shown_name(name) + ": its name is too long");
  std::string plain;
  size_t depth = 0;
  while (!name.empty()) {
    const size_t slash = name.find('/');
    const std::string_view part = name.substr(0, slash);
    name = slash == name.npos ? std::string_view() : name.substr(slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") return refused("entry " + shown_name(plain + "/..") + " leaves the image");
    if (part.size() > kMaxComponent || ++depth > kMaxDepth) {
      return refused("entry " + shown_name(plain) + "...: its name is too long or too deep");
    }
    if (!plain.empty()) plain += '/';
    plain += part;
  }
  return plain;
}

Result<std::string> digest_hex(std::string_view digest) {
  constexpr std::string_view kAlgorithm = "sha256:";
  const std::string_view hex =
      digest.starts_with(kAlgorithm) ? digest.substr(kAlgorithm.size()) : std::string_view();
  const bool good = hex.size() == 64 && std::all_of(hex.begin(), hex.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                    });
  if (!good) return refused(shown_name(digest) + " is no SHA-256 digest");
  return std::string(hex);
}

Result<ImageConfig> parse_image_config(std::string_view text) {
  SLUICE_TRY(const auto object, parse_object(text, "configuration"));
  ImageConfig config;
  config.architecture = string_of(object, "architecture");
  config.os = string_of(object, "os");
  const auto* rootfs = json::get_object(object, "rootfs");
  const auto* ids = rootfs != nullptr ? json::get_array(*rootfs, "diff_ids") : nullptr;
  if (ids == nullptr) return refused("its configuration lists no layers (rootfs.diff_ids)");
  if (ids->size() > kMaxLayers) return refused("it has too many layers");
  for (const json::Value& id : *ids) {
    if (!id.is_string()) return refused("a layer's digest is no string");
    SLUICE_TRY(config.diff_ids.emplace_back(),
               digest_hex({id.as_string().data(), id.as_string().size()}));
  }
  if (const auto* inner = json::get_object(object, "config")) read_env(*inner, &config.env);
  return config;
}

Result<DockerManifest> parse_docker_manifest(std::string_view text) {
  SLUICE_TRY(const auto value, parse_document(text, "manifest.json"));
  if (!value.is_array() || value.as_array().empty() || !value.as_array()[0].is_object()) {
    return refused("manifest.json lists no image");
  }
  if (value.as_array().size() > 1) {
    return refused("the tarball holds " + std::to_string(value.as_array().size()) +
                   " images: save one alone");
  }
  const json::Object& object = value.as_array()[0].as_object();
  DockerManifest manifest;
  SLUICE_TRY(manifest.config, plain_entry_name(string_of(object, "Config")));
  const auto* layers = json::get_array(object, "Layers");
  if (layers == nullptr || layers->size() > kMaxLayers) {
    return refused("manifest.json lists no layers, or too many");
  }
  for (const json::Value& layer : *layers) {
    if (!layer.is_string()) return refused("manifest.json: a layer's name is no string");
    SLUICE_TRY(manifest.layers.emplace_back(),
               plain_entry_name({layer.as_string().data(), layer.as_string().size()}));
  }
  return manifest;
}

Result<std::vector<Descriptor>> parse_image_index(std::string_view text) {
  SLUICE_TRY(const auto object, parse_object(text, "index"));
  const auto* manifests = json::get_array(object, "manifests");
  if (manifests == nullptr || manifests->size() > 1024) {
    return refused("its index lists no manifests, or too many");
  }
  std::vector<Descriptor> all;
  for (const json::Value& item : *manifests) {
    SLUICE_TRY(all.emplace_back(), descriptor_of(item));
  }
  return all;
}

Result<Descriptor> choose_image(const std::vector<Descriptor>& all, std::string_view architecture) {
  std::vector<Descriptor> fit;
  for (const Descriptor& one : all) {
    if (!is_image_kind(one)) continue;
    if (one.architecture.empty() || one.architecture == architecture) fit.push_back(one);
  }
  if (fit.size() == 1) return fit[0];
  if (fit.size() > 1) {
    return refused("the tarball holds " + std::to_string(fit.size()) + " images: save one alone");
  }
  return Error(ErrorCode::kUnsupported,
               "image: none in the tarball is for linux on " + std::string(architecture));
}

Result<OciManifest> parse_oci_manifest(std::string_view text) {
  SLUICE_TRY(const auto object, parse_object(text, "manifest"));
  OciManifest manifest;
  const auto* config = object.if_contains("config");
  const auto* layers = json::get_array(object, "layers");
  if (config == nullptr || layers == nullptr || layers->size() > kMaxLayers) {
    return refused("its manifest names no configuration or layers, or too many");
  }
  SLUICE_TRY(manifest.config, descriptor_of(*config));
  for (const json::Value& layer : *layers) {
    SLUICE_TRY(manifest.layers.emplace_back(), descriptor_of(layer));
  }
  return manifest;
}

std::string_view image_architecture() {
#if defined(__x86_64__)
  return "amd64";
#elif defined(__aarch64__)
  return "arm64";
#else
  return "unknown";
#endif
}

}  // namespace sluice::sandbox::local
