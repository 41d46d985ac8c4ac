#include "sluice/guest/program/blob.h"

extern "C" {
extern const char sluice_guest_begin[];
extern const char sluice_guest_end[];
}

namespace sluice::guest {

ByteView guest_program() {
  return {sluice_guest_begin, static_cast<size_t>(sluice_guest_end - sluice_guest_begin)};
}

}  // namespace sluice::guest
