// CallIds: makes the ids under which trainers see calls, and tells ours from any other. An id is
// signed with a key that never leaves the gate and is made afresh for each gate, so nobody can
// guess one, and a forged id, or one of another gate, is told from one whose call has ended. Any
// thread.
#pragma once

#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/digest.h"
#include "sluice/base/id.h"

namespace sluice::gate {

class CallIds {
 public:
  CallIds();

  CallId fresh() const;
  bool is_ours(const CallId& id) const;

 private:
  void append_signature(Bytes& out, std::string_view uuid) const;

  const HmacSha256 key_;
};

}  // namespace sluice::gate
