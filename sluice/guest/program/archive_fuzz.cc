// Arbitrary bytes as a snapshot that the guest unpacks: everything beside its directory must stay
// as it was, and what was unpacked can be packed again.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/base/core/fd.h"
#include "sluice/guest/program/archive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  using namespace sluice::guest;
  char pattern[] = "/dev/shm/sluice-archive-fuzz-XXXXXX";
  CHECK(::mkdtemp(pattern) != nullptr);
  const std::string scratch = pattern;
  const std::string root = scratch + "/root", beside = scratch + "/beside";
  CHECK(::mkdir(root.c_str(), 0755) == 0 && ::mkdir(beside.c_str(), 0755) == 0);
  CHECK(::symlink("../beside", (root + "/link").c_str()) == 0);
  CHECK(::mkdir((root + "/directory").c_str(), 0755) == 0);
  struct stat before{}, after{};
  CHECK(::stat(beside.c_str(), &before) == 0);
  {
    auto in = sealed_memfd("snapshot", {reinterpret_cast<const char*>(data), size});
    CHECK(in && ::lseek(in->get(), 0, SEEK_SET) == 0);
    const Fd top(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK(static_cast<bool>(top));
    if (program::unpack_tree(top.get(), in->get(), program::Users::kSingle)) {
      const Fd out(::open("/dev/null", O_WRONLY | O_CLOEXEC));
      (void)program::pack_tree(top.get(), out.get(), 1 << 20);
    }
  }
  CHECK(::stat(beside.c_str(), &after) == 0);
  CHECK(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
        before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_mode == after.st_mode);
  CHECK(::rmdir(beside.c_str()) == 0);
  std::error_code ignored;
  std::filesystem::remove_all(scratch, ignored);
  return 0;
}
