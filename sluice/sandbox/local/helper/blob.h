// The helper program's bytes, as built into this binary.
#pragma once

#include "sluice/base/core/bytes.h"

namespace sluice::sandbox::local {

ByteView helper_program();

}  // namespace sluice::sandbox::local
