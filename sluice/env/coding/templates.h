// Templates: the images of this machine that clients of the server may name. They lie in one
// directory: NAME, a root directory, or NAME.tar, a container image. Clients give names and never
// paths, or a client could have any file of the server's machine put into its sandbox.
//
// Any thread; looks at the directory each time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"

namespace sluice::env::coding {

// Sorted; none for a directory that is empty, not there, or "".
std::vector<std::string> template_names(const std::string& directory);

// The image's path. kNotFound, with the names that there are.
Result<std::string> find_template(const std::string& directory, std::string_view name);

}  // namespace sluice::env::coding
