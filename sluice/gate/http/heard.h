// Heard: what passes of an answer that is relayed, kept so that it can be told how it ended when it
// has gone by. It is not looked at before that, and it is bounded: of a longer answer the end is
// kept, which says why it ended and no more.
//
// One relay's; on its shard.
#pragma once

#include "sluice/base/core/bytes.h"
#include "sluice/llm/dialect.h"

namespace sluice::gate::http {

class Heard {
 public:
  void pass(ByteView piece);
  llm::Said said(const llm::Codec& codec) const;
  // Whether a stream that said so came to its finish. Its last event may be longer than all that is
  // kept (the dialect `responses` repeats the whole answer there): then its last bytes tell.
  bool finished(const llm::Said& said) const;
  // Whether what was no stream is an answer, rather than an error with a status of success.
  bool answers(const llm::Said& said) const;

 private:
  ByteView end() const;

  Bytes kept_;
  bool whole_ = true;
};

// What was said as members of an object, each with a comma before it.
void append_said(Bytes& out, const llm::Said& said);

}  // namespace sluice::gate::http
