// The guest program's bytes, as built into this binary.
#pragma once

#include "sluice/base/core/bytes.h"

namespace sluice::guest {

// A static executable for this machine's architecture. The bytes are there as long as the process.
ByteView guest_program();

}  // namespace sluice::guest
