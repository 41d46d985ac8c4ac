#include "sluice/guest/blob.h"

extern "C" {
extern const char kSluiceGuestBegin[];
extern const char kSluiceGuestEnd[];
}

namespace sluice::guest {

ByteView guest_program() {
  return {kSluiceGuestBegin, static_cast<size_t>(kSluiceGuestEnd - kSluiceGuestBegin)};
}

}  // namespace sluice::guest
