// Arbitrary bytes as an image tarball, as a layer, and as each of its documents. A layer that is
// unpacked must leave everything beside its directory as it was.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/base/core/fd.h"
#include "sluice/sandbox/local/image/oci.h"
#include "sluice/sandbox/local/image/store.h"

namespace sluice::sandbox::local {
namespace {

// What reads a tarball reads a file.
Fd file_of(ByteView bytes) {
  auto file = sealed_memfd("image", bytes);
  CHECK(file);
  return std::move(*file);
}

std::string make_scratch() {
  char pattern[] = "/dev/shm/sluice-image-fuzz-XXXXXX";
  CHECK(::mkdtemp(pattern) != nullptr);
  return pattern;
}

void try_layer(ByteView bytes) {
  const std::string scratch = make_scratch();
  const std::string root = scratch + "/root", beside = scratch + "/beside";
  CHECK(::mkdir(root.c_str(), 0755) == 0 && ::mkdir(beside.c_str(), 0755) == 0);
  struct stat before{}, after{};
  CHECK(::stat(scratch.c_str(), &before) == 0);
  const Fd file = file_of(bytes);
  const auto tarball = Tarball::open("/proc/self/fd/" + std::to_string(file.get()));
  if (tarball && tarball->has("layer")) {
    auto blob = tarball->blob("layer");
    Tree tree(Fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)), Owners::kOurs);
    LayerLimits limits{uint64_t{1} << 20, 200};
    tree.begin_layer();
    if (blob) {
      (void)read_layer(&*blob, &limits, [&](LayerEntry entry, const Content& content) {
        return tree.add(entry, content);
      });
    }
    (void)tree.finish();
  }
  CHECK(::stat(scratch.c_str(), &after) == 0);
  CHECK(before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_nlink == after.st_nlink);
  CHECK(::rmdir(beside.c_str()) == 0);
  CHECK(remove_tree(AT_FDCWD, scratch));
}

void try_tarball(ByteView bytes) {
  const std::string scratch = make_scratch();
  const Fd file = file_of(bytes);
  ImageLimits limits;
  limits.bytes = uint64_t{1} << 20;
  limits.entries = 200;
  (void)ImageStore(scratch, limits).open("/proc/self/fd/" + std::to_string(file.get()));
  CHECK(remove_tree(AT_FDCWD, scratch));
}

}  // namespace
}  // namespace sluice::sandbox::local

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice::sandbox::local;
  if (size == 0) return 0;
  const sluice::ByteView bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 7) {
    case 0:
      try_layer(bytes);
      break;
    case 1:
      try_tarball(bytes);
      break;
    case 2:
      (void)parse_image_config(bytes);
      break;
    case 3:
      (void)parse_docker_manifest(bytes);
      break;
    case 4:
      if (const auto all = parse_image_index(bytes)) (void)choose_image(*all, "amd64");
      break;
    case 5:
      (void)parse_oci_manifest(bytes);
      break;
    default:
      if (const auto plain = plain_entry_name(bytes)) {
        CHECK(plain->empty() || plain->front() != '/');
        CHECK(("/" + *plain + "/").find("/../") == std::string::npos);
        if (!plain->empty()) CHECK(plain_entry_name(*plain) == *plain);
      }
      break;
  }
  return 0;
}
