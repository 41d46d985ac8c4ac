// What Python's json module writes though JSON has no such numbers: NaN, Infinity, -Infinity. For
// messages of several parts, where one such should spoil no other.
//
// A plain function; any thread.
#pragma once

#include <cstddef>
#include <vector>

#include "sluice/base/core/bytes.h"

namespace sluice::json {

struct WithoutNonNumbers {
  Bytes text;
  std::vector<size_t> places;  // in it, of what stands for them; in order
};
// `text`, which need not be JSON, with null for each of them outside of strings.
WithoutNonNumbers without_non_numbers(ByteView text);

}  // namespace sluice::json
