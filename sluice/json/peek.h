// Peeker: finds named fields at the top of a large JSON object without building a tree (simdjson
// On-Demand). What it does not name is skipped, not validated: raw.h checks what is looked into.
//
// A Peeker keeps buffers between documents; one thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "sluice/json/raw.h"

namespace sluice::json {

// A field at the top of a document. Offsets are into the document.
struct Peeked {
  size_t name_offset = 0;   // of the name's opening quote
  size_t value_offset = 0;  // of the value's first byte
  Raw value;
  size_t count = 0;  // of an array's elements
};

class Peeker {
 public:
  Peeker();
  ~Peeker();
  Peeker(const Peeker&) = delete;
  Peeker& operator=(const Peeker&) = delete;

  // The fields of `document`'s object called `names`, in that order; nullopt for one that is
  // absent. The views point into `document`. A body with simdjson's padding of spare capacity is
  // read where it is, another one is copied first.
  //
  // kInvalidArgument with an offset if the document is no JSON object, as far as the walk sees it;
  // if it is not UTF-8; if a named field stands there twice (readers disagree about which counts);
  // if its value is malformed at its first level.
  Result<std::vector<std::optional<Peeked>>> fields(const Bytes& document,
                                                    std::span<const std::string_view> names);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::json
