#include "sluice/sandbox/conformance/case.h"

extern "C" {
extern const char kSluiceAttacksBegin[];
extern const char kSluiceAttacksEnd[];
}

namespace sluice::sandbox::conformance {

ByteView attack_programs() {
  return {kSluiceAttacksBegin, static_cast<size_t>(kSluiceAttacksEnd - kSluiceAttacksBegin)};
}

}  // namespace sluice::sandbox::conformance
