// Users and groups by /etc/passwd and /etc/group alone: what a static program can know without
// libc's name services (which would load shared objects of the image it runs in).
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"

namespace sluice {

struct User {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
  std::string home = "/";
  std::vector<gid_t> groups;  // supplementary, without `gid`
};

// `spec` is a name, or a decimal uid, or "uid:gid". A uid that is in no file is allowed (home "/");
// an unknown name is kNotFound. `passwd` and `group` are the files' contents; broken lines in them
// are skipped.
Result<User> find_user(std::string_view spec, std::string_view passwd, std::string_view group);

// Where this process's user keeps files: HOME if it is an absolute path, else what /etc/passwd
// says.
std::string home_directory();

}  // namespace sluice
