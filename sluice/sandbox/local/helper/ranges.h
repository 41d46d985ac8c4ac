// Ranges of host ids, one per sandbox, never the same for two that live at once on this host,
// whichever engine made them: a range is owned by a lock on just these bytes of one file (an
// open file description's, fcntl(2)), which the kernel frees with its owner. Only root gets at the
// file: nobody else can hold what root's engines need.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

inline constexpr char kIdsDirectory[] = "/run/sluice/ids";

// The file of such locks in `directory`, which is made (mode 0700) if need be, as is the one above
// it (0755). An Error if it cannot be, or is somebody else's.
Result<Fd> open_id_locks(const std::string& directory = kIdsDirectory);

struct Range {
  uint32_t first = 0;
  std::shared_ptr<const void> owner;  // the range is free when it goes
};

class Ranges {
 public:
  // Ids from `first` on, in ranges of `size`; those that touch `taken` are left out. Without a file
  // of locks nobody else is kept from them.
  Ranges(uint32_t first, uint32_t size, std::vector<IdRange> taken, Fd locks);

  Result<Range> take();
  // The one range that holds `id`; kNotFound if none does, kAlreadyExists while somebody owns it.
  Result<Range> take_with(uint32_t id);

 private:
  struct Held;
  bool is_free(uint32_t index) const;
  Result<Range> claim(uint32_t index) const;
  uint32_t first_of(uint32_t index) const { return first_ + index * size_; }

  const uint32_t first_, size_, count_;
  const std::vector<IdRange> taken_;
  const std::shared_ptr<Held> held_;
  uint32_t next_;
};

}  // namespace sluice::sandbox::local
