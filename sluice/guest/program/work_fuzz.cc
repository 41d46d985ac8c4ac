// Arbitrary bytes as a work that the guest puts into its place: everything beside that must stay as
// it was, and what was put can be taken again.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/base/core/fd.h"
#include "sluice/guest/program/work.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  using namespace sluice::guest;
  char pattern[] = "/dev/shm/sluice-work-fuzz-XXXXXX";
  CHECK(::mkdtemp(pattern) != nullptr);
  const std::string scratch = pattern;
  const std::string work = scratch + "/work", beside = scratch + "/beside";
  CHECK(::mkdir(work.c_str(), 0755) == 0 && ::mkdir(beside.c_str(), 0755) == 0);
  CHECK(::symlink("../beside", (work + "/link").c_str()) == 0);
  CHECK(::mkdir((work + "/spared").c_str(), 0755) == 0);
  CHECK(::symlink("../../beside", (work + "/spared/hidden").c_str()) == 0);
  struct stat before{}, after{};
  CHECK(::stat(beside.c_str(), &before) == 0);
  {
    auto in = sealed_memfd("work", {reinterpret_cast<const char*>(data), size});
    CHECK(in && ::lseek(in->get(), 0, SEEK_SET) == 0);
    const Fd top(::open(scratch.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK(static_cast<bool>(top));
    wire::PutWork put;
    put.paths = {"/work"};
    put.exclude = {"hidden"};
    if (program::put_work(top.get(), put, in->get(), User(), program::Users::kSingle)) {
      const Fd out(::open("/dev/null", O_WRONLY | O_CLOEXEC));
      wire::TakeWork take;
      take.paths = put.paths;
      take.max = take.max_entries = 1 << 20;
      (void)program::take_work(top.get(), take, out.get(), program::Users::kSingle);
    }
  }
  CHECK(::lstat((work + "/spared/hidden").c_str(), &after) == 0 && S_ISLNK(after.st_mode));
  CHECK(::stat(beside.c_str(), &after) == 0);
  CHECK(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
        before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_mode == after.st_mode);
  CHECK(::rmdir(beside.c_str()) == 0);
  std::error_code ignored;
  std::filesystem::remove_all(scratch, ignored);
  return 0;
}
