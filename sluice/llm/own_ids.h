// OwnIds: what whoever answers named tool calls that their agent knows by other ids, because its
// own could not be sent (gate/tool_ids.h). Of one rollout; shared by its calls.
//
// Any thread.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "sluice/base/core/bytes.h"

namespace sluice::llm {

class Codec;

class OwnIds {
 public:
  void add(std::string sent, std::string own);
  // A request's body with the own ids where the sent ones stand as ids of calls and of results; all
  // else stays byte for byte as it was. Nothing if it has none of them, or cannot be read.
  std::optional<Bytes> put_back(const Codec& codec, ByteView body) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::string, std::less<>> own_;  // by what was sent
};

}  // namespace sluice::llm
