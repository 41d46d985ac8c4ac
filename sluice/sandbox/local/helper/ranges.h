// Ranges of host ids, one per sandbox, never the same for two that live at once on this host,
// whichever engine made them: a range is owned by holding an abstract socket of its name, which
// the kernel frees with its owner.
#pragma once

#include <cstdint>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

struct Range {
  uint32_t first = 0;
  Fd owner;
};

class Ranges {
 public:
  // Ids from `first` on, in ranges of `size`; those that touch `taken` are left out.
  Ranges(uint32_t first, uint32_t size, std::vector<IdRange> taken);

  Result<Range> take();
  // The one range that holds `id`; kNotFound if none does, kAlreadyExists while somebody owns it.
  Result<Range> take_with(uint32_t id);

 private:
  bool is_free(uint32_t index) const;
  Result<Range> claim(uint32_t index) const;
  uint32_t first_of(uint32_t index) const { return first_ + index * size_; }

  const uint32_t first_, size_, count_;
  const std::vector<IdRange> taken_;
  uint32_t next_;
};

}  // namespace sluice::sandbox::local
