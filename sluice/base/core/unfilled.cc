// The one file in C++23, for std::string::resize_and_overwrite.
#include "sluice/base/core/bytes.h"

namespace sluice {

void resize_unfilled(Bytes& bytes, size_t size) {
#ifdef __cpp_lib_string_resize_and_overwrite
  bytes.resize_and_overwrite(size, [](char*, size_t n) { return n; });
#else
  bytes.resize(size);
#endif
}

}  // namespace sluice
