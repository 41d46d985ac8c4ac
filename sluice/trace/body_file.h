// BodyFile: the file of a rollout's request bodies, and where in it the last of them lie. Of a body
// that repeats most of an earlier one only what is new is written.
//
// Of a recorder's writer thread alone. What was written can be read again on any thread, also when
// the file was closed.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/llm/call.h"
#include "sluice/trace/file_calls.h"

namespace sluice::trace {

// A body that is to be written.
struct ArrivedBody {
  uint64_t ordinal = 0;  // of its call
  llm::Body body;
  std::shared_ptr<const Bytes> bytes;
  std::optional<llm::Likeness> like;
};

class BodyFile {
 public:
  explicit BodyFile(std::shared_ptr<FileCalls> calls) : calls_(std::move(calls)) {}

  Result<void> open(const std::string& path);
  // Tells for each where it lies; null if it could not be written, which costs no other that fits.
  // The first error, if there was one. Those worth it can be put away from then on.
  // REQUIRES: open.
  Result<void> append(std::span<const ArrivedBody> bodies,
                      std::vector<std::shared_ptr<const Parts>>& where);
  uint64_t size() const { return end_; }
  // Gives back what was reserved and not needed.
  void close();

 private:
  std::shared_ptr<const Parts> locate(const ArrivedBody& arrived, uint64_t end);
  Result<void> append_all(std::span<const ArrivedBody> bodies,
                          std::span<std::shared_ptr<const Parts>> where);
  Result<void> write_pieces();
  void reserve(uint64_t total);

  const std::shared_ptr<FileCalls> calls_;
  std::shared_ptr<const Fd> fd_;
  uint64_t end_ = 0;
  uint64_t reserved_ = 0;
  // The last bodies, by their calls' ordinals, the newest at the back.
  std::deque<std::pair<uint64_t, std::shared_ptr<const Parts>>> located_;
  std::vector<iovec> pieces_;  // that are being written
  uint64_t pieces_size_ = 0;
};

}  // namespace sluice::trace
