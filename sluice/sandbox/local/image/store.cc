#include "sluice/sandbox/local/image/store.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "sluice/sandbox/local/image/oci.h"
#include "sluice/sandbox/local/image/tarball.h"

namespace sluice::sandbox::local {
namespace {

constexpr char kRoot[] = "root";
constexpr char kConfig[] = "config.json";  // written last: with it an image is whole
constexpr size_t kMaxAccounts = 32 * 1024;

// The directory, made if it is missing; ours alone, for the images' files are on the host's disk.
Result<Fd> open_store(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return errno_error(path, errno);
  Fd store(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st{};
  if (!store || ::fstat(store.get(), &st) != 0) return errno_error(path, errno);
  if (st.st_uid != ::geteuid() || (st.st_mode & 0077) != 0) {
    return Error(ErrorCode::kFailedPrecondition,
                 path + ": images are kept there, and it must belong to this user with mode 0700");
  }
  return store;
}

// A file of the image by a path that is resolved within it; empty if there is none.
Bytes file_within(const std::string& root, const char* path) {
  const Fd top(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  const Fd file(static_cast<int>(::syscall(SYS_openat2, top.get(), path, &how, sizeof how)));
  struct stat st{};
  if (!file || ::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) return {};
  auto content = read_to_end(file.get(), kMaxAccounts);
  return content && content->find('\0') == Bytes::npos ? std::move(*content) : Bytes();
}

Result<void> check_digest(const std::string& wanted, const std::string& found,
                          const std::string& what) {
  if (wanted == found) return {};
  return Error(ErrorCode::kInvalidArgument, "image: " + what +
                                                " is not what its digest says: sha256:" + found +
                                                " instead of sha256:" + wanted);
}

// "e3b0...": a blob that is called as its digest must be that.
Result<void> check_name(const std::string& entry, const std::string& hex) {
  std::string name = entry.substr(entry.rfind('/') + 1);
  if (name.ends_with(".json")) name.resize(name.size() - 5);
  if (!digest_hex("sha256:" + name)) return {};
  return check_digest(name, hex, shown_name(entry));
}

Result<Bytes> read_blob(const Tarball& tarball, const Descriptor& descriptor) {
  SLUICE_TRY(Bytes bytes, tarball.read(descriptor.entry(), kMaxImageDocument));
  SLUICE_TRY_VOID(
      check_digest(descriptor.digest, sha256_hex(bytes), shown_name(descriptor.entry())));
  return bytes;
}

}  // namespace

// A tarball and what it says of its image.
struct ImageStore::Source {
  Tarball tarball;
  std::string id;
  Bytes config_bytes;
  ImageConfig config;
  std::vector<std::string> layers;   // entries
  std::vector<std::string> digests;  // of the layers as they lie there, where that is said
};

namespace {

template <class Source>
Result<void> read_docker(Source* source) {
  SLUICE_TRY(const Bytes text, source->tarball.read("manifest.json", kMaxImageDocument));
  SLUICE_TRY(DockerManifest manifest, parse_docker_manifest(text));
  SLUICE_TRY(source->config_bytes, source->tarball.read(manifest.config, kMaxImageDocument));
  SLUICE_TRY_VOID(check_name(manifest.config, sha256_hex(source->config_bytes)));
  source->layers = std::move(manifest.layers);
  source->digests.resize(source->layers.size());
  return {};
}

template <class Source>
Result<void> read_oci(Source* source) {
  SLUICE_TRY(Bytes text, source->tarball.read("index.json", kMaxImageDocument));
  // An index may list an index, for many platforms; no deeper.
  for (int depth = 0; depth < 3; ++depth) {
    SLUICE_TRY(const auto all, parse_image_index(text));
    SLUICE_TRY(const Descriptor chosen, choose_image(all, image_architecture()));
    SLUICE_TRY(text, read_blob(source->tarball, chosen));
    const bool nested = chosen.media_type.find("index") != std::string::npos ||
                        chosen.media_type.find("manifest.list") != std::string::npos;
    if (nested) continue;
    SLUICE_TRY(const OciManifest manifest, parse_oci_manifest(text));
    SLUICE_TRY(source->config_bytes, read_blob(source->tarball, manifest.config));
    for (const Descriptor& layer : manifest.layers) {
      source->layers.push_back(layer.entry());
      source->digests.push_back(layer.digest);
    }
    return {};
  }
  return Error(ErrorCode::kInvalidArgument, "image: an index of indexes of indexes");
}

}  // namespace

ImageStore::ImageStore(std::string directory, ImageLimits limits)
    : directory_(std::move(directory)), limits_(limits) {}

Result<void> ImageStore::unpack(const Source& source, int store) const {
  const std::string part = source.id + ".part";
  // Of somebody who died over it: the lock is ours.
  SLUICE_TRY_VOID(remove_tree(store, part));
  const std::string root = part + "/" + kRoot;
  if (::mkdirat(store, part.c_str(), 0700) != 0 || ::mkdirat(store, root.c_str(), 0755) != 0 ||
      ::fchmodat(store, root.c_str(), 0755, 0) != 0) {
    return errno_error("make an image's directory", errno);
  }
  Fd top(::openat(store, root.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!top) return errno_error("open an image's directory", errno);
  Tree tree(std::move(top), ::geteuid() == 0 ? Owners::kKept : Owners::kOurs);
  LayerLimits left{limits_.bytes, limits_.entries};
  for (size_t i = 0; i < source.layers.size(); ++i) {
    SLUICE_TRY(Blob blob, source.tarball.blob(source.layers[i]));
    tree.begin_layer();
    SLUICE_TRY(const std::string digest,
               read_layer(&blob, &left, [&](LayerEntry entry, const Content& content) {
                 return tree.add(entry, content);
               }));
    SLUICE_TRY_VOID(check_digest(source.config.diff_ids[i], digest,
                                 "layer " + shown_name(source.layers[i]) + ", uncompressed,"));
    if (!source.digests[i].empty()) {
      SLUICE_TRY(const std::string packed, blob.digest());
      SLUICE_TRY_VOID(check_digest(source.digests[i], packed, shown_name(source.layers[i])));
    }
  }
  SLUICE_TRY_VOID(tree.finish());
  const std::string config = part + "/" + kConfig;
  const Fd file(::openat(store, config.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return errno_error("write an image's configuration", errno);
  SLUICE_TRY_VOID(write_all(file.get(), source.config_bytes));
  // Whole on the disk before it has its name: a power cut leaves none that is half there.
  if (::syncfs(store) != 0 || ::renameat(store, part.c_str(), store, source.id.c_str()) != 0) {
    return errno_error("put an image in its place", errno);
  }
  return {};
}

Result<ImageStore::Source> ImageStore::read_source(const std::string& path) {
  Source source;
  SLUICE_TRY(source.tarball, Tarball::open(path));
  if (source.tarball.has("manifest.json")) {
    SLUICE_TRY_VOID(read_docker(&source));
  } else if (source.tarball.has("index.json")) {
    SLUICE_TRY_VOID(read_oci(&source));
  } else {
    return Error(ErrorCode::kInvalidArgument,
                 "image: the tarball has neither manifest.json nor index.json: make it by `docker "
                 "save` or `skopeo copy ... oci-archive:`, or unpack a plain root and name its "
                 "directory");
  }
  SLUICE_TRY(source.config, parse_image_config(source.config_bytes));
  source.id = sha256_hex(source.config_bytes);
  if (source.config.diff_ids.size() != source.layers.size()) {
    return Error(ErrorCode::kInvalidArgument, "image: it has other layers than it lists");
  }
  const std::string_view machine = image_architecture();
  const bool runs = (source.config.os.empty() || source.config.os == "linux") &&
                    (source.config.architecture.empty() || source.config.architecture == machine);
  if (!runs) {
    return Error(ErrorCode::kUnsupported, "image: it is for " + source.config.os + " on " +
                                              source.config.architecture + ", this is linux on " +
                                              std::string(machine));
  }
  return source;
}

Result<void> ImageStore::check(const std::string& tarball) {
  auto source = read_source(tarball);
  if (!source) return std::move(source).error().within(tarball);
  return {};
}

Result<std::shared_ptr<const Image>> ImageStore::find_or_unpack(const std::string& path) {
  SLUICE_TRY(Source source, read_source(path));
  SLUICE_TRY(const Fd store, open_store(directory_));
  const auto is_there = [&] {
    return ::faccessat(store.get(), (source.id + "/" + kConfig).c_str(), R_OK, 0) == 0;
  };
  if (!is_there()) {
    const Fd lock(::openat(store.get(), (source.id + ".lock").c_str(),
                           O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!lock) return errno_error("lock an image", errno);
    while (::flock(lock.get(), LOCK_EX) != 0) {
      if (errno != EINTR) return errno_error("lock an image", errno);
    }
    if (!is_there()) {
      const auto done = unpack(source, store.get());
      if (!done) {
        // Nothing of it is of use. What cannot be removed now is by the next one who tries.
        (void)remove_tree(store.get(), source.id + ".part");
        return done.error();
      }
    }
  }
  auto image = std::make_shared<Image>();
  image->id = source.id;
  image->root = directory_ + "/" + source.id + "/" + kRoot;
  image->env = std::move(source.config.env);
  image->passwd = file_within(image->root, "etc/passwd");
  image->group = file_within(image->root, "etc/group");
  return image;
}

Result<std::shared_ptr<const Image>> ImageStore::open(const std::string& path) {
  if (directory_.empty()) {
    return Error(ErrorCode::kUnsupported,
                 "image: tarballs need a directory to be unpacked in, and none is configured");
  }
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) return errno_error("image " + path, errno);
  if (!S_ISREG(st.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, "image " + path + " is no file");
  }
  std::string key = path;
  for (const auto number : {static_cast<int64_t>(st.st_dev), static_cast<int64_t>(st.st_ino),
                            static_cast<int64_t>(st.st_size), st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                            st.st_ctim.tv_sec, st.st_ctim.tv_nsec}) {
    key += "\n" + std::to_string(number);
  }
  {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(key);
    // Somebody may have removed it to make room.
    if (found != known_.end() && ::access(found->second->root.c_str(), F_OK) == 0) {
      return found->second;
    }
  }
  auto image = find_or_unpack(path);
  if (!image) return std::move(image).error().within(path);
  const std::lock_guard lock(mutex_);
  known_[key] = *image;
  return image;
}

}  // namespace sluice::sandbox::local
