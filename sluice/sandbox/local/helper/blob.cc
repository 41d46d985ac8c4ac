#include "sluice/sandbox/local/helper/blob.h"

extern "C" {
extern const char sluice_sandboxes_begin[];
extern const char sluice_sandboxes_end[];
}

namespace sluice::sandbox::local {

ByteView helper_program() {
  return {sluice_sandboxes_begin,
          static_cast<size_t>(sluice_sandboxes_end - sluice_sandboxes_begin)};
}

}  // namespace sluice::sandbox::local
