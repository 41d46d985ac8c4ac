#include "sluice/sandbox/local/helper/blob.h"

extern "C" {
extern const char kSluiceSandboxesBegin[];
extern const char kSluiceSandboxesEnd[];
}

namespace sluice::sandbox::local {

ByteView helper_program() {
  return {kSluiceSandboxesBegin, static_cast<size_t>(kSluiceSandboxesEnd - kSluiceSandboxesBegin)};
}

}  // namespace sluice::sandbox::local
